"""brat stand-off: a `.txt` and a `.ann` per document; offsets count characters of the text file as it is."""

import re
from collections import Counter

from clinscale.errors import DataError
from clinscale.records import list_files, read_text
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.readers.align import locate, without_overlaps
from clinscale.tasks.task import TaskConfig

_TEXT_BOUND = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)", re.DOTALL)
_OTHER_LINES = ("E", "R", "A", "M", "N", "*", "#")
"""Events, relations, attributes, modifications, normalisations, equivalences and notes: not entities."""


def read_brat(task: TaskConfig, path: str, counts: Counter[str]) -> list[Example]:
    """One example per document.

    Adds to counts: `annotations` (text-bound lines), of these `discontinuous`, `repaired`, `rejected`, `nested`.
    A discontinuous annotation becomes the one span from its first to its last fragment. Of overlapping ones the
    longest stays (the first of equals), the others are counted as `nested`.

    Raises:
        DataError: a file without its partner, or a malformed line.
    """
    texts = {file.removesuffix(".txt"): file for file in list_files(path, (".txt",))}
    annotations = {file.removesuffix(".ann"): file for file in list_files(path, (".ann",))}
    for stem in sorted(texts.keys() ^ annotations.keys()):
        there, absent = (".txt", ".ann") if stem in texts else (".ann", ".txt")
        raise DataError(f"{stem}{there} has no {absent} beside it; add an empty .ann or remove the file")
    return [_read_document(stem, counts) for stem in sorted(texts)]


def _read_document(stem: str, counts: Counter[str]) -> Example:
    text = read_text(f"{stem}.txt")
    entities = []
    for number, line in enumerate(read_text(f"{stem}.ann").split("\n"), 1):
        if not line.strip() or line.startswith(_OTHER_LINES):
            continue
        entity = _read_annotation(line.rstrip("\r"), text, counts, f"{stem}.ann line {number}")
        entities += [entity] if entity else []
    kept = without_overlaps(entities)
    counts["nested"] += len(entities) - len(kept)
    return Example(id=stem.rsplit("/", 1)[-1], text=text, entities=kept)


def _read_annotation(line: str, text: str, counts: Counter[str], place: str) -> Entity | None:
    match = _TEXT_BOUND.fullmatch(line)
    if match is None:
        raise DataError(f"{place} is not `ID, tab, TYPE START END, tab, text`; correct or remove it")
    counts["annotations"] += 1
    label, surface = match[1], match[3].strip()
    offsets = [tuple(map(int, fragment.split())) for fragment in match[2].split(";")]
    start, end = offsets[0][0], offsets[-1][1]
    if len(offsets) > 1:  # its surface leaves out what lies between the fragments, so it cannot be compared
        counts["discontinuous"] += 1
        in_order = start < end <= len(text)
        counts["rejected"] += not in_order
        return Entity(start, end, label) if in_order else None
    found = locate(text, surface, start) if surface else None
    if found is None:
        counts["rejected"] += 1
        return None
    found_end = found + len(surface)
    counts["repaired"] += found < start or found_end > end
    return Entity(found, found_end, label)
