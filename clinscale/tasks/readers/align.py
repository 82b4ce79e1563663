"""Gold offsets that disagree with the text: found by the drift that they share in their document, or left out."""

import functools
import itertools
import operator
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import regex

from clinscale.tasks.example import Entity
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds.words import are_whole_words

REACH = 20
"""Characters that a surface may be away from where its neighbours say; farther may be another mention."""
_SKIP = 2 * REACH + 1
"""Cost of leaving a mark out: more than correcting one alone, there and back again."""
_JUMP = 3 * _SKIP
"""Cost of going farther than REACH: only several marks that agree on one drift are worth it."""
_FEW = 3
"""Number of marks up to which their agreement on a drift beyond REACH is not believed."""
_STATES = 32
"""Number of drifts that are followed at a time."""
_MOST_PLACES = 1000
"""Number of places that are looked at for one mark, those nearest to its offset; a letter is in a book everywhere."""

OFF = "offset off by a few characters"
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
    parts: tuple[tuple[int, int], ...] = ()
    """Characters [start, end) of each fragment of a discontinuous annotation, whose surface joins them by blanks."""


class Span(NamedTuple):
    """Place of a mark in the text, without white space at its ends."""

    start: int
    end: int
    is_moved: bool
    """Whether this is not where its file says."""


def entities_of(text: str, marks: Iterable[Mark], findings: Findings) -> tuple[Entity, ...]:
    """Entities that `marks` describe, within the text, sorted by start and end, without duplicates. They may overlap.

    A mark that is elsewhere than its offset says is found by `locate` and counted; what is not there is rejected.
    """
    return distinct(entity_of_each(text, list(marks), findings), findings)


def entity_of_each(text: str, marks: Sequence[Mark], findings: Findings) -> list[Entity | None]:
    """The entity that each of `marks` means; None for one that is not in the text, which is rejected."""
    found: list[Entity | None] = []
    for mark, span in zip(marks, locate(text, marks), strict=True):
        if span is None:
            findings.reject(NOT_THERE, mark.place, "correct the annotation")
        elif span.is_moved:
            findings.repair(OFF, mark.place)
        found.append(span and Entity(span.start, span.end, mark.label))
    return found


def distinct(entities: Iterable[Entity | None], findings: Findings) -> tuple[Entity, ...]:
    """Each entity once, by start and end; repeated ones are counted."""
    given = [entity for entity in entities if entity is not None]
    found = dict.fromkeys(given)
    findings.leave_out(REPEATED, len(given) - len(found))
    return tuple(sorted(found, key=operator.attrgetter("start", "end")))


def locate(text: str, marks: Sequence[Mark]) -> list[Span | None]:
    """Places of one document's marks, None for a missing one; white space is compared as blanks.

    Offsets of one document are wrong together: another count of line ends or characters, something added or taken away
    before them. So marks are not looked for one by one, where the nearest equal words may be another mention: those
    places are chosen whose drift changes least from mark to mark, by the count of characters that fits them best. A
    mark goes to a place inside a longer word only if its own offset, or the drift of those before it, says so.
    """
    spans = [_as_stated(text, mark) or _Sought(text, mark).at(0) for mark in marks]
    if None not in spans:
        return spans
    order = sorted(range(len(marks)), key=lambda number: marks[number].start)
    counts: tuple[_Count, ...] = (int, _count_of(text, marks))
    ways = [_least_drift([_Sought(text, marks[number], count) for number in order]) for count in counts]
    best = min(ways, key=lambda way: way.cost)
    for number, span in zip(order, best.spans(), strict=True):
        spans[number] = span
    return spans


def without_overlaps(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The longest of entities that overlap (the first of equals), sorted by start.

    BIO tags, which all four i2b2 sets are scored by, hold one entity per word.
    """
    kept: list[Entity] = []
    starts: list[int] = []
    for entity in sorted(entities, key=lambda e: (e.start - e.end, e.start)):
        # those kept are in order and apart, so only its neighbours can overlap it
        at = bisect(starts, entity.start)
        if (at == 0 or kept[at - 1].end <= entity.start) and (at == len(kept) or entity.end <= kept[at].start):
            kept.insert(at, entity)
            starts.insert(at, entity.start)
    return tuple(kept)


def _as_stated(text: str, mark: Mark) -> Span | None:
    """The span of a mark without any fault, which nearly all are."""
    _, start, end, surface, _, parts = mark
    if surface and not parts and start >= 0 and text[start:end] == surface and surface == surface.strip():
        return Span(start, end, is_moved=False)
    return None


_Count = Callable[[int], int]
"""Offset as a file counts -> character of the text."""


class _Sought:
    """One mark, to be looked for in the text."""

    def __init__(self, text: str, mark: Mark, count: _Count = int) -> None:
        self._text, self._mark, self._count = text, mark, count
        self.has_surface = mark.surface is not None
        self._pieces = [(self._begin(start, piece), piece.strip()) for start, piece in _pieces(mark)]
        self._patterns: list[regex.Pattern[str]] = []

    def _begin(self, start: int, surface: str) -> int:
        """Beginning of a surface that may have white space in front, which its offset counts or not."""
        blanks = len(surface) - len(surface.lstrip())
        here = self._count(start)
        return here if self._text[here : here + 1].strip() else self._count(start + blanks)

    def at(self, drift: int) -> Span | None:
        """The span if the mark is where its offset says, moved by `drift`."""
        if not self.has_surface:
            return self._span(self._count(self._mark.start) + drift, self._count(self._mark.end) + drift)
        ends = [self._end(number, start + drift) for number, (start, _) in enumerate(self._pieces)]
        if not ends or None in ends:
            return None
        return self._span(self._pieces[0][0] + drift, ends[-1] or 0)

    @functools.cached_property
    def drifts(self) -> list[int]:
        """Differences from the mark's offset of the places where it is found in whole words; in order."""
        start, surface = self._pieces[0] if self._pieces else (0, "")
        if not surface:
            return []
        is_all = len(self._pieces) == 1
        places = _places_of(self._text, surface, whole=is_all)
        nearest = bisect_left(places, start)
        near = places[max(0, nearest - _MOST_PLACES // 2) : nearest + _MOST_PLACES // 2]
        return [place - start for place in near if is_all or self.is_at(place - start, whole=True)]

    def is_at(self, drift: int, *, whole: bool) -> bool:
        """Whether `at` finds it there; with `whole`, in whole words."""
        span = self.at(drift)
        return span is not None and (not whole or are_whole_words(self._text, span.start, span.end))

    def _end(self, number: int, start: int) -> int | None:
        surface = self._pieces[number][1]
        if not surface or start < 0:
            return None
        if self._text.startswith(surface, start):
            return start + len(surface)
        if self._text[start : start + 1] != surface[0]:  # no pattern is needed for nearly all places
            return None
        match = self._pattern(number).match(self._text, start)
        return match.end() if match else None

    def _pattern(self, number: int) -> "regex.Pattern[str]":
        if not self._patterns:
            self._patterns = [_pattern_of(surface) for _, surface in self._pieces]
        return self._patterns[number]

    def _span(self, start: int, end: int) -> Span | None:
        start, end = _trimmed(self._text, start, end)
        if not 0 <= start < end <= len(self._text):
            return None
        stated_start, stated_end = _trimmed(self._text, self._mark.start, self._mark.end)
        return Span(start, end, start != stated_start or end > stated_end)


@functools.lru_cache(maxsize=256)
def _pattern_of(surface: str) -> "regex.Pattern[str]":
    return regex.compile(r"\s+".join(map(regex.escape, surface.split())))


@functools.lru_cache(maxsize=256)  # marks of one document repeat their words
def _places_of(text: str, surface: str, *, whole: bool) -> list[int]:
    """Places where a surface begins, in order; with `whole`, those in whole words."""
    found = _pattern_of(surface).finditer(text, overlapped=True)
    return [match.start() for match in found if not whole or are_whole_words(text, *match.span())]


def _pieces(mark: Mark) -> list[tuple[int, str]]:
    """Start and surface of each fragment; none where the surface is not that of the fragments."""
    if mark.surface is None:
        return []
    if not mark.parts:
        return [(mark.start, mark.surface)]
    lengths = [end - start for start, end in mark.parts]
    if len(mark.surface) != sum(lengths) + len(lengths) - 1:
        return []
    firsts = itertools.accumulate((length + 1 for length in lengths), initial=0)
    return [
        (start, mark.surface[first : first + length])
        for (start, _), first, length in zip(mark.parts, firsts, lengths, strict=False)
    ]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without the white space at both ends."""
    part = text[max(0, start) : max(0, end)]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))


def _count_of(text: str, marks: Sequence[Mark]) -> _Count:
    """The file's way of counting characters: that by which most marks are where they should be, by one small drift."""
    stated = [mark for mark in marks if mark.surface is not None]
    best: _Count = int
    most = -1
    for number, count in enumerate(_counts(text)):
        sought = [_Sought(text, mark, count) for mark in stated]
        fitting = [sum(one.is_at(drift, whole=number > 0) for one in sought) for drift in (0, -1, 1, -2, 2)]
        if number and max(fitting) <= _FEW:  # another count and a drift at once need more to show for it
            fitting = fitting[:1]
        if max(fitting) > most:
            best, most = count, max(fitting)
    return best


def _counts(text: str) -> Iterator[_Count]:
    """Characters as they are; line ends as one or as two; UTF-16 units or UTF-8 bytes: where that differs."""
    yield int
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_feed, is_return = points == ord("\n"), points == ord("\r")
    after_return = np.append(False, is_return[:-1])
    one, over_7_bits, over_11, over_16 = np.ones(len(points), int), points > 0x7F, points > 0x7FF, points > 0xFFFF
    seen = {np.arange(len(points) + 1).tobytes()}
    for sizes in (one, one + over_16, one + over_7_bits + over_11 + over_16):
        as_one = np.where(np.append(is_return[:-1] & is_feed[1:], False), 0, sizes)
        as_two = np.where(is_feed & ~after_return, 2, sizes)
        for counted in (sizes, as_one, as_two):
            ends = np.append(0, np.cumsum(counted))
            if ends.tobytes() not in seen:
                seen.add(ends.tobytes())
                yield functools.partial(bisect_left, ends.tolist())


class _Path(NamedTuple):
    cost: float
    before: "_Path | None"
    span: Span | None

    def spans(self) -> list[Span | None]:
        """Places of all marks so far."""
        found: list[Span | None] = []
        path = self
        while path.before is not None:
            found.append(path.span)
            path = path.before
        return found[::-1]


def _least_drift(sought: Sequence[_Sought]) -> _Path:
    """The places of the marks, in their order, for which the drift changes least."""
    votes = Counter(drift for one in sought for drift in one.drifts)
    agreed = [
        drift for drift, number in votes.most_common(_STATES) if number > _FEW and 10 * number >= len(sought)
    ]
    paths = {0: _Path(0, None, None)}  # drift -> the cheapest way to it
    for one in sought:
        paths = _followed(paths, one, agreed)
    return min(paths.values(), key=lambda path: path.cost)


def _followed(paths: dict[int, _Path], one: _Sought, agreed: Sequence[int]) -> dict[int, _Path]:
    """The paths that go on with a mark: at the drift so far, near it, at one of the `agreed`, and without the mark."""
    ways: dict[int, _Path] = {}

    def offer(drift: int, cost: float, path: _Path, span: Span | None) -> None:
        if drift not in ways or cost < ways[drift].cost:
            ways[drift] = _Path(cost, path, span)

    for drift, path in paths.items():
        here = one.at(drift)
        offer(drift, path.cost + (_SKIP if here is None and one.has_surface else 0), path, here)
        near = slice(bisect_left(one.drifts, drift - REACH), bisect(one.drifts, drift + REACH))
        for found in one.drifts[near]:
            offer(found, path.cost + abs(found - drift), path, one.at(found))
    cheapest = min(paths, key=lambda drift: paths[drift].cost)
    for found in agreed:
        if one.is_at(found, whole=True):
            least = 1 - 1 / (1 + abs(found - cheapest))  # of two ways that explain as much, the shorter
            offer(found, paths[cheapest].cost + _JUMP + least, paths[cheapest], one.at(found))
    kept = sorted(ways, key=lambda drift: ways[drift].cost)[:_STATES]
    return {drift: ways[drift] for drift in kept}
