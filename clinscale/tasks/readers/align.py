"""Gold offsets that disagree with the text: repair what is near, and keep of overlapping spans the longest."""

import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clinscale.tasks.example import Entity
from clinscale.tasks.findings import Findings

REACH = 20
"""How many characters an annotated surface may lie from where its offset says; farther may be another mention."""

OFF = "offset off by a few characters"
INSIDE_WORD = "widened to whole words"
NOT_THERE = "span not found at its offset"
NESTED = "overlaps a longer span"
REPEATED = "repeats another annotation"


class Mark(NamedTuple):
    """One annotation as its file states it."""

    label: str
    start: int
    end: int
    surface: str | None
    """The annotated text as the file repeats it; None where it repeats none that could be compared."""
    place: str
    """File and position, for the findings."""


def entities_of(text: str, marks: Iterable[Mark], findings: Findings) -> tuple[Entity, ...]:
    """The entities that `marks` mean: sorted, each within the text, none overlapping another.

    A surface that stands near its offset is repaired; what is not there is rejected. Of equal annotations one is kept,
    of overlapping ones the longest (the first of equals): BIO tags, which all four i2b2 sets are scored by, hold one
    entity per word.
    """
    found: dict[Entity, None] = {}
    for mark in marks:
        if entity := _entity(text, mark, findings):
            already = len(found)
            found[entity] = None
            if len(found) == already:
                findings.leave_out(REPEATED)
    kept = without_overlaps(found)
    if len(kept) < len(found):
        findings.leave_out(NESTED, len(found) - len(kept))
    return kept


def _entity(text: str, mark: Mark, findings: Findings) -> Entity | None:
    if mark.surface is None:
        at, length = mark.start, mark.end - mark.start
        inside = 0 <= at < at + length <= len(text) and not text[at : at + length].isspace()
    else:
        found = locate(text, surface, mark.start) if (surface := mark.surface.strip()) else None
        at, length, inside = found or 0, len(surface), found is not None
    if not inside:
        findings.reject(NOT_THERE, mark.place, "correct the annotation")
        return None
    if mark.surface is not None and (at < mark.start or at + length > mark.end):
        findings.repair(OFF, mark.place)
    return Entity(at, at + length, mark.label)


def locate(text: str, surface: str, start: int) -> int | None:
    """Where `surface` stands nearest to `start` within REACH characters; white space is compared as blanks."""
    if start >= 0 and text.startswith(surface, start):
        return start
    if start >= 0 and _blank(text[start : start + len(surface)]) == _blank(surface):
        return start
    first = max(0, start - REACH)
    around, surface = _blank(text[first : start + REACH + len(surface)]), _blank(surface)
    places = (first + place for place in _occurrences(around, surface))
    return min(places, key=lambda place: abs(place - start), default=None)


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters [start, end) widened to whole runs of letters and of digits, which no tokenizer gives in part."""
    while start > 0 and _joined(text[start - 1 : start + 1]):
        start -= 1
    while end < len(text) and _joined(text[end - 1 : end + 1]):
        end += 1
    return start, end


def without_overlaps(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The longest of entities that overlap (the first of equals), sorted by start."""
    kept: list[Entity] = []
    starts: list[int] = []
    for entity in sorted(entities, key=lambda e: (e.start - e.end, e.start)):
        # those kept are in order and apart, so only its neighbours can overlap it
        at = bisect(starts, entity.start)
        if (at == 0 or kept[at - 1].end <= entity.start) and (at == len(kept) or entity.end <= kept[at].start):
            kept.insert(at, entity)
            starts.insert(at, entity.start)
    return tuple(kept)


def _joined(pair: str) -> bool:
    return pair.isalpha() or pair.isdigit()


def _occurrences(text: str, part: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + 1)


def _blank(text: str) -> str:
    return re.sub(r"\s", " ", text)
