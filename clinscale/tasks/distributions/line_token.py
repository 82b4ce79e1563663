"""Stand-off by line and token: the concepts of i2b2 2010 (`.con`) and the extents of i2b2 2012.

    c="dry cough" 2:0 2:1||t="problem"
    EVENT="a mild fever" 4:2 4:4||type="PROBLEM"||modality="FACTUAL"||polarity="POS"

Lines count from 1, tokens from 0, the last one included. The quoted text shows which words are meant; the numbers only
where to look for them, since files differ in how they count blanks.
"""

import html
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clinscale.errors import DataError
from clinscale.records import read_text
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds.words import are_whole_words
from clinscale.tasks.readers.align import NOT_THERE, Mark, entities_of
from clinscale.tasks.readers.i2b2_xml import NO_TYPE, with_entities

MISCOUNTED = "line or token number off"

_ANNOTATION = re.compile(r'(\w+)="(.*)"\s+(\d+:\d+\s+\d+:\d+)\s*\|\|\s*t(?:ype)?="([^"]*)".*')
"""The kind of mark, its quoted text (up to the last quote before numbers), lines and tokens, and type."""
ReadGold = Callable[[str, str, Sequence[tuple[str, Mark]]], Mapping[str, Any]]
"""(stem of the file, text, its annotations after their numbers) -> fields of the example."""

_EXTENTS = frozenset({"EVENT", "TIMEX3", "SECTIME"})
"""Elements that extents mark; the numbers of a SECTIME can be underscores, so what is not wanted is not parsed."""


def read_line_token(
    texts: Sequence[str],
    annotations: Sequence[str],
    wanted: Collection[str],
    findings: Findings,
    *,
    prefix: str = "",
    read_gold: ReadGold | None = None,
) -> list[Example]:
    """One example per text and its annotations, which share the name before the suffix.

    Finds `documents`, `annotations`. Windows line ends become one character. A mark that is elsewhere on its line is
    repaired, as is a file whose lines are counted from 0. Rejects a malformed line, words that are not there, and a
    file without its other one.

    Args:
        texts: names of the text files.
        annotations: names of the annotation files.
        wanted: what is read: `c`, or `EVENT` and `TIMEX3`.
        findings: where to count.
        prefix: what an id has before the file's name.
        read_gold: makes the fields of an example from its annotations; absent: its entities.
    """
    text_of, annotation_of = ({_stem(file): file for file in files} for files in (texts, annotations))
    examples = []
    for stem in sorted(text_of.keys() | annotation_of.keys()):
        findings.find("documents")
        if stem not in annotation_of:
            findings.reject("text without annotations", text_of[stem], "add its annotation file (it may be empty)")
        elif stem not in text_of:
            findings.reject("annotations without text", annotation_of[stem], "add the text file")
        elif document := _read(text_of[stem], annotation_of[stem], wanted, findings):
            text, marks = document
            if read_gold is None:
                gold: Mapping[str, Any] = {"entities": entities_of(text, [mark for _, mark in marks], findings)}
            else:
                gold = read_gold(stem, text, marks)
            examples.append(Example(prefix + stem, text, **gold))
    return examples


def _stem(file: str) -> str:
    return PurePosixPath(file).stem.removesuffix(".xml")


def _read(
    text_file: str, file: str, wanted: Collection[str], findings: Findings
) -> tuple[str, list[tuple[str, Mark]]] | None:
    try:
        text = read_text(text_file).replace("\r\n", "\n")
        lines = read_text(file).split("\n")
    except DataError:
        if findings.on_error == "raise":
            raise
        findings.reject("not readable", f"{text_file} or {file}", "convert it")
        return None
    if not text.strip():
        findings.reject("empty text", text_file, "remove the document")
        return None
    return text, list(_marks(text, lines, file, wanted, findings))


def _marks(
    text: str, lines: Sequence[str], file: str, wanted: Collection[str], findings: Findings
) -> Iterator[tuple[str, Mark]]:
    """Each annotation, after the line and token numbers of its first and last word."""
    tokens = _Tokens(text)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.partition("=")[0] in _EXTENTS.difference(wanted):
            continue
        place = f"{file} line {number}"
        match = _ANNOTATION.fullmatch(line.strip())
        if match is None or match[1] not in wanted:
            findings.reject("not an annotation by line and token", place, "correct or remove the line")
            continue
        _, quoted, numbers, label = match.groups()
        row, column = re.findall(r"\d+", numbers)[:2]
        findings.find("annotations")
        if not label.strip():
            findings.leave_out(NO_TYPE)
        elif found := tokens.locate(int(row), int(column), quoted):
            start, end, as_counted = found
            if not as_counted:
                findings.repair(MISCOUNTED, place)
            yield numbers, Mark(label, start, end, None, place)
        else:
            findings.reject(NOT_THERE, place, "correct the annotation")


class _Token(NamedTuple):
    start: int
    end: int
    word: str
    """The word in lower case, as it is quoted."""
    numbers: tuple[int, int, int]
    """Number on the line if a blank at the line's start counts as a token; if not; if each blank ends a token."""


class _Place(NamedTuple):
    first: _Token
    start: int
    end: int
    whole: bool
    """Whether it is whole words; it can be part of a token, as `fever` of `fever.`."""


class _Tokens:
    """Places of a text's tokens among its characters."""

    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        self._lines: list[range] = []
        start = 0
        for line in text.split("\n"):
            first = len(self._tokens)
            for number, match in enumerate(re.finditer(r"\S+", line)):
                numbers = (number + line.startswith(" "), number, line.count(" ", 0, match.start()))
                token = _Token(start + match.start(), start + match.end(), match[0].lower(), numbers)
                self._tokens.append(token)
            self._lines.append(range(first, len(self._tokens)))
            start += len(line) + 1

    def locate(self, line: int, number: int, quoted: str) -> tuple[int, int, bool] | None:
        """Start and end of what is quoted, and whether it is where the numbers say."""
        here = list(self._places(line, quoted))
        if there := [place for place in here if number in place.first.numbers]:
            best = min(there, key=lambda place: (not place.whole, place.first.numbers.index(number)))
            return best.start, best.end, True
        beside = [place for shift in (1, -1) for place in self._places(line + shift, quoted)]
        near = [place for place in beside if place.whole and number in place.first.numbers] or [
            place for place in here if place.whole
        ]
        if not near:
            return None
        best = min(near, key=lambda place: abs(place.first.numbers[0] - number))
        return best.start, best.end, False

    def _places(self, line: int, quoted: str) -> Iterator[_Place]:
        """Places where `quoted` begins on the line, which is counted from 1."""
        words = " ".join(html.unescape(quoted).lower().split())
        num_tokens = words.count(" ") + 1
        for number in self._lines[line - 1] if words and 0 < line <= len(self._lines) else ():
            tokens = self._tokens[number : number + num_tokens]
            joined = " ".join(token.word for token in tokens)
            for spelling in dict.fromkeys((words, with_entities(words))):
                if (at := joined.find(spelling)) >= 0:
                    end = tokens[-1].end - (len(joined) - at - len(spelling))
                    inside = at, at + len(spelling)
                    yield _Place(tokens[0], tokens[0].start + at, end, are_whole_words(joined, *inside))
