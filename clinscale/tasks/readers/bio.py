"""One token and its tag per line, a blank line between sentences: BIO (IOB2), IOB1 and BIOES alike."""

import functools
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from clinscale.errors import DataError
from clinscale.records import list_files, read_text
from clinscale.tasks.example import Entity, Example, text_key
from clinscale.tasks.findings import Findings
from clinscale.tasks.task import TaskConfig

_SUFFIXES = (".tsv", ".bio", ".conll", ".iob", ".txt")
_PREFIXES = ("B", "I", "E", "S")
_OUTSIDE = ("O", "")
_FEW_LINES = 10
"""Number of lines below which tokens may all be numbers."""
_DOCUMENT = "-DOCSTART-"
_BLANKS = re.compile(r"[ \t]+")
_JOINED = re.compile(r"[|,;/+& ](?:[BIES]-|O$)")
"""The next tag within one, as files of nested entities join them."""
_CHUNKS = frozenset({"NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"})
"""Types of phrases, whose tags stand before those of entities in files such as CoNLL 2003's."""
BAD_TAG = "tag is neither O nor one of B I E S, a dash and a type"
BAD_TAG_FIX = (
    "correct the tag, of which the last column has one (L and U of BILOU are E and S here, M of BMES is I)"
)


def read_bio(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per sentence, its tokens joined by blanks. Finds `sentences`, `entities`.

    Its group is its document, where `-DOCSTART-` parts a file into several.
    The first column is the token and the last the tag. A sentence is rejected that has a line without a tag, of more or
    fewer columns than the others, or with a tag that is neither O nor PREFIX-TYPE.

    Raises:
        DataError: as `refuse_numbers`.
    """
    examples = []
    for file in list_files(path, _SUFFIXES):
        stem = PurePath(file.removesuffix(".gz")).stem
        text = read_text(file, task.encoding)
        read = list(sentences(text))
        refuse_numbers(file, read)
        for number in _other_tags(text):
            findings.remark(
                f"column {number} of {file} holds tags of entities, too, such as outer ones or those of a model: the "
                "last column is read"
            )
        documents = _documents(text, read)
        for number, (line, tokens, given) in enumerate(read, 1):
            findings.find("sentences")
            if tags := _read_tags(file, line, tokens, given, findings):
                entities = entities_of_tags(tokens, tags)
                findings.find("entities", len(entities))
                examples.append(
                    Example(
                        f"{stem}:{number}",
                        " ".join(tokens),
                        entities=entities,
                        group=documents[number - 1] if documents else None,
                        is_split_into_words=True,
                        is_part=bool(documents),
                    )
                )
    return examples


@functools.lru_cache(maxsize=1024)
def read_tag(tag: str) -> tuple[str, str] | None:
    """(prefix, type) with prefix B, I, E or S; ("O", "") outside; None for what is no tag, or several joined."""
    if tag == "O":
        return _OUTSIDE
    prefix, dash, label = tag.partition("-")
    if not (prefix in _PREFIXES and dash and label) or _JOINED.search(label):
        return None
    return prefix, label


def entities_of_tags(tokens: Sequence[str], tags: Sequence[tuple[str, str]]) -> tuple[Entity, ...]:
    """Entities in the tokens joined by blanks.

    An entity goes on at I-X and E-X behind B-X or I-X, and starts at every other tag of a type: IOB1, IOB2 and BIOES as
    they are meant, and what is ill-formed as seqeval and conlleval read it.
    """
    if tags.count(_OUTSIDE) == len(tags):
        return ()
    entities: list[Entity] = []
    position, open_label = 0, ""
    for token, (prefix, label) in zip(tokens, tags, strict=True):
        if label:
            start = entities.pop().start if prefix in "IE" and label == open_label else position
            entities.append(Entity(start, position + len(token), label))
        position += len(token) + 1
        open_label = label if prefix in "BI" else ""
    return tuple(entities)


def sentences(text: str, *, tagged: bool = True) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number of the first line, tokens and tags by sentence; a line that is not laid out as the others has no token.

    Columns are parted by tabs, so that a token may hold a blank, or by blanks where the first line has no tab; comments
    (`#`) say nothing of it. A line of another number of columns than the first has an empty token, for a token with a
    blank in it may have been taken for two. Any line end will do. Without `tagged` a line may hold a token alone.
    """
    tokens: list[str] = []
    tags: list[str] = []
    lines = _lines(text)
    first = next((line for line in lines if line.strip() and not line.startswith((_DOCUMENT, "#"))), "")
    fields_of = _tabbed if "\t" in first.strip() else _blanked
    needed = max(len(fields_of(first)), 1 + tagged)
    for number, line in enumerate([*lines, ""], 1):
        if line and not line.isspace() and not line.startswith(_DOCUMENT):
            fields = fields_of(line)
            tokens.append(fields[0].strip() if len(fields) == needed else "")
            tags.append(fields[-1])
        elif tokens:
            yield number - len(tokens), tokens, tags
            tokens, tags = [], []


def _other_tags(text: str) -> list[int]:
    """Numbers, from 1, of the columns between token and tag that hold tags of entities, other ones than the last."""
    lines = [line for line in _lines(text) if line.strip() and not line.startswith((_DOCUMENT, "#"))]
    fields_of = _tabbed if lines and "\t" in lines[0].strip() else _blanked
    width = len(fields_of(lines[0])) if lines else 0
    if width < 3:
        return []
    columns = list(zip(*(fields for line in lines if len(fields := fields_of(line)) == width), strict=True))
    found = []
    for number, column in enumerate(columns[1:-1], 2):
        tags = {tag: read_tag(tag.strip()) for tag in {*column}}
        types = {tag[1] for tag in tags.values() if tag and tag[1]}
        if None not in tags.values() and types - _CHUNKS and column != columns[-1]:
            found.append(number)
    return found


def _documents(text: str, sentences: Sequence[tuple[int, Sequence[str], Sequence[str]]]) -> list[str]:
    """The document of each sentence, equal for copies, where lines part a file into several; else none."""
    if _DOCUMENT not in text:
        return []
    starts = [number for number, line in enumerate(_lines(text), 1) if line.startswith(_DOCUMENT)]
    if len(starts) < 2:
        return []
    of_sentence = [bisect(starts, line) for line, _, _ in sentences]
    words: defaultdict[int, list[str]] = defaultdict(list)
    for document, (_, tokens, _) in zip(of_sentence, sentences, strict=True):
        words[document] += tokens
    keys = {document: text_key(" ".join(tokens)).hex() for document, tokens in words.items()}
    return [keys[document] for document in of_sentence]


def _lines(text: str) -> list[str]:
    """The lines, none with the byte-order mark of a file that was joined to another."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.removeprefix("\ufeff") for line in lines] if "\ufeff" in text else lines


def refuse_numbers(file: str, sentences: Sequence[tuple[int, Sequence[str], Sequence[str]]]) -> None:
    """DataError where the first column numbers the tokens or the sentences, as data frames are saved."""
    given = [kept for _, tokens, _ in sentences if (kept := [token for token in tokens if token])]
    numbers_tokens = all(token.isdecimal() for tokens in given for token in tokens)
    numbers_sentences = all(len({*tokens}) == 1 for tokens in given) and len({tokens[0] for tokens in given}) > 1
    if (numbers_tokens or numbers_sentences) and sum(map(len, given)) >= max(_FEW_LINES, 2 * len(given)):
        raise DataError(
            f"{file} must have the token in its first column, which numbers tokens or sentences; take that column out"
        )


def _tabbed(line: str) -> list[str]:
    return line.split("\t")


def _blanked(line: str) -> list[str]:
    return line.split() if line.isascii() else _BLANKS.split(line.strip(" \t"))  # a no-break blank parts nothing


def line_without_token(tokens: Sequence[str]) -> int | None:
    """Number, from 0, of the first line of a sentence that is not laid out as the others."""
    return tokens.index("") if "" in tokens else None


def _read_tags(
    file: str, first_line: int, tokens: list[str], tags: list[str], findings: Findings
) -> list[tuple[str, str]]:
    """The tags of a sentence; none when it is rejected."""
    bad = line_without_token(tokens)
    if bad is not None:
        fix = "take out comments and headings, and part token and tag by a tab where tokens hold blanks"
        findings.reject("line without token and tag, or of other columns", f"{file} line {first_line + bad}", fix)
        return []
    read = [_OUTSIDE] * len(tags) if tags.count("O") == len(tags) else [read_tag(tag.strip()) for tag in tags]
    if None not in read:
        return read  # type: ignore[return-value]
    bad = next(at for at, tag in enumerate(read) if tag is None)
    findings.reject(BAD_TAG, f"{file} line {first_line + bad}", BAD_TAG_FIX)
    return []
