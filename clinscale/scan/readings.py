"""Further readings of a text: tokens of a vocabulary, words with tags between them, or token ids."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clinscale.scan.token_ids import lettered, spelled
from clinscale.scan.unspelled import NO_TOKENIZER, are_unspelled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACES = str.maketrans("ĠĊĉ▁", "    ")
"""White space as byte-level and SentencePiece vocabularies write it."""
_PIECES = re.compile(r'["\']\s*,\s*["\']|[ \t\r\n]+')
_CONTINUED = re.compile(r'["\']?\s*,?\s*["\']?##')
_NUMBERED = re.compile(r'["\'](?=[^"\'\s]*[^\W\d])([^"\'\s]{1,60})["\']\s*[:,]\s*-?\d+(?:\.\d+)?')
_TAG = r"(?:[BIOESLU](?:-[\w-]{1,40})?|[A-Z]{2,5}\$?)"
_TAGGED = (
    re.compile(rf"(\w)[_/|]{_TAG}(?=\s|$)"),  # patient_NN
    re.compile(rf"^(\S+)[ \t](?:\S+[ \t]){{0,6}}{_TAG}[ \t]*\r?$", re.MULTILINE),  # patient NN O
    re.compile(rf'(["\']\s*,)\s*["\']{_TAG}["\']'),  # ["patient", "O"]
)
_IDS = re.compile(r"\d{1,7}(?:[\s,;:|'\"\[\](){}]{1,80}\d{1,7}){11,}")
_NUMBER = re.compile(
    r"(?:(?<![\w.+-])|(?<=\na[IF]))(0x[0-9a-f]{1,6}|\d\.\d+[eE]\+?0?\d|\d{1,7})(?:\.0*)?(?![\w.+-])"
)
"""A number that is not part of a word; `aI` or `aF` is before each of a list in the oldest kind of pickle."""
_ROW, _CELL = re.compile(r"[\n\r\])}]"), re.compile(r"[,;|\t]|</")
_NAMED = re.compile(r'"([^"\s]{1,40})"\s*:\s*"([^"\s]{1,60})"')
_LABEL_CHARS, _MOST_COLUMNS = 40, 50
_FEW = 8


def readings(text: str, tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield the other readings of `text`; none if it is ordinary.

    Args:
        text: of any file.
        tokenizers: by which numbers in a row may be token ids.

    Raises:
        NotImplementedError: some are the ids of another tokenizer, after all others.
    """
    is_unspelled = False
    if any(mark in text for mark in "Ġ▁"):
        yield text.translate(_SPACES)
        yield _PIECES.sub("", text).translate(_SPACES).replace("</w>", " ")
    if "</w>" in text:
        yield _PIECES.sub("", text).replace("</w>", " ")
    if "##" in text:
        yield _CONTINUED.sub("", text)
    keys = _NUMBERED.findall(text)
    if len(keys) >= _FEW:
        yield " ".join(keys).translate(_SPACES)
    for pattern in _TAGGED:
        without, count = pattern.subn(r"\1", text)
        if count >= _FEW:
            yield without
    for ids in _lists_of_ids(text):
        yield from lettered(ids)
        yield from spelled(ids, tokenizers)
        is_unspelled = is_unspelled or are_unspelled(ids, tokenizers)
    yield from _columns_of_words(text)
    if is_unspelled:
        raise NotImplementedError(NO_TOKENIZER)


def _lists_of_ids(text: str) -> Iterator[list[int]]:
    """Numbers in a row, and those that are one to a row: of the same column, or behind the same name."""
    for run in _IDS.finditer(text):
        yield [int(number) for number in re.findall(r"\d+", run[0])]
    columns: dict[tuple[str, int], list[int]] = defaultdict(list)
    stop = column = 0
    for number in _NUMBER.finditer(text):
        *rows, before = _ROW.split(text[stop : number.start()])
        *cells, name = _CELL.split(before)
        column = len(cells) + (0 if rows else column)
        stop = number.end()
        label = name[-_LABEL_CHARS:].strip(" \"':=[({-")
        columns[label, 0 if label else column].append(_value(number[1]))
    yield from (column for column in columns.values() if len(column) >= _FEW)


def _columns_of_words(text: str) -> Iterator[str]:
    """Words that are one to a row: behind the same name, or in the same column."""
    named: dict[str, list[str]] = defaultdict(list)
    for found in _NAMED.finditer(text):
        named[found[1]].append(found[2])
    for sign in ",;\t|":
        for column in _columns(text, sign):
            named[f"{sign}{len(named)}"] = column
    yield from (" ".join(words) for words in named.values() if len(words) >= _FEW)


def _columns(text: str, sign: str) -> list[list[str]]:
    """Cells of those rows in a row that have the same number of them, column by column."""
    columns: list[list[str]] = []
    for _, rows in itertools.groupby((row.split(sign) for row in text.splitlines()), key=len):
        cells = list(rows)
        if len(cells) >= _FEW and 1 < len(cells[0]) <= _MOST_COLUMNS:
            columns += ([cell.strip("\"' ") for cell in column] for column in zip(*cells, strict=True))
    return columns


def _value(number: str) -> int:
    """A whole number; 0, which is passed over, for another one."""
    if number.isdecimal():
        return int(number)
    value = float.fromhex(number) if number.startswith("0x") else float(number)
    return int(value) if value.is_integer() else 0
