"""brat stand-off: a `.txt` and a `.ann` per document; offsets count characters of the text file as it is."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clinscale.cells import is_blank
from clinscale.errors import DataError
from clinscale.records import list_files, read_text
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.task import TaskConfig

_SUFFIXES = re.compile(r"\.(?:txt|ann)(?:\.gz)?$", re.IGNORECASE)
_TEXT_BOUND = re.compile(r"(T\S*)\t(\S+) (\d{1,12}) ((?:\d{1,12};\d{1,12} )*)(\d{1,12})\t(.*)", re.DOTALL)
"""Id, type, first start, ends and starts of fragments between it and the last end, last end, surface."""
_OTHER_LINES = ("E", "R", "A", "M", "N", "*", "#")
"""Events, relations, attributes, modifications, normalisations, equivalences and notes: not entities."""


def read_brat(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """`brat_documents` in the task's encoding."""
    return brat_documents(path, findings, encoding=task.encoding)


ReadGold = Callable[[str, Sequence[str], str, Findings], Mapping[str, Any]]
"""(text, lines of its `.ann`, name of that file, findings) -> fields of the example."""


def read_entities(text: str, lines: Sequence[str], file: str, findings: Findings) -> dict[str, Any]:
    """The text-bound annotations of a document."""
    return {"entities": entities_of(text, marks_of(lines, file, findings).values(), findings)}


def brat_documents(
    path: str, findings: Findings, *, encoding: str = "utf-8", read_gold: ReadGold = read_entities
) -> list[Example]:
    """One example per document. Finds `documents`, `annotations` (text-bound lines), of these `discontinuous`.

    A discontinuous annotation becomes the one span from its first to its last fragment. For what is off see
    `entities_of`. A malformed line, a text without annotations, and annotations without text are rejected.
    """
    texts, annotations = (_by_stem(list_files(path, (suffix,)), findings) for suffix in (".txt", ".ann"))
    examples = []
    for stem in sorted(texts.keys() | annotations.keys()):
        findings.find("documents")
        if not (stem in texts and stem in annotations):
            there, absent = (texts, ".ann") if stem in texts else (annotations, ".txt")
            findings.reject(f"no {absent} beside it", there[stem], "add the other file (it may be empty)")
            continue
        if example := _read_document(stem, texts[stem], annotations[stem], findings, encoding, read_gold):
            examples.append(example)
    return examples


def _by_stem(files: Sequence[str], findings: Findings) -> dict[str, str]:
    """Files by their path without suffixes, whatever their case; of two that share it the first."""
    found: dict[str, str] = {}
    for file in files:
        stem = _SUFFIXES.sub("", file)
        if stem in found:
            findings.reject("another file has the same name", file, "keep one of the two")
        found.setdefault(stem, file)
    return found


def lines_of_annotations(file: str, encoding: str) -> list[str]:
    """The lines of an `.ann` file, however they end."""
    return read_text(file, encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _read_document(
    stem: str, file: str, beside: str, findings: Findings, encoding: str, read_gold: ReadGold
) -> Example | None:
    try:
        text = read_text(file, encoding)
        lines = lines_of_annotations(beside, encoding)
    except DataError:
        if findings.on_error == "raise":
            raise
        findings.reject(f"not valid {encoding.upper()}", stem, "convert it")
        return None
    if is_blank(text):
        findings.reject("empty text", file, "remove the document")
        return None
    return Example(id=stem.rsplit("/", 1)[-1], text=text, **read_gold(text, lines, beside, findings))


def marks_of(lines: Sequence[str], file: str, findings: Findings) -> dict[str, Mark]:
    """Id, or place where an id repeats, of each text-bound annotation -> its mark."""
    marks: dict[str, Mark] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith(_OTHER_LINES) or not line.strip():
            continue
        place = f"{file} line {number}"
        match = _TEXT_BOUND.fullmatch(line)
        if match is None:
            findings.reject("not `ID, tab, TYPE START END, tab, text`", place, "correct or remove the line")
            continue
        name, label, start, between, end, surface = match.groups()
        parts = _fragments(f"{start} {between}{end}") if between else ()
        findings.find("annotations")
        findings.find("discontinuous", bool(parts))
        marks[place if name in marks else name] = Mark(label, int(start), int(end), surface, place, parts)
    return marks


def _fragments(offsets: str) -> tuple[tuple[int, int], ...]:
    parts = (map(int, part.split()) for part in offsets.split(";"))
    return tuple((start, end) for start, end in parts)
