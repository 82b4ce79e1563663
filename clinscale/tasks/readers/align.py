"""Gold offsets that disagree with the text: repair what is near, and keep of overlapping spans the longest."""

from collections.abc import Iterable

from clinscale.tasks.example import Entity

REACH = 20
"""How many characters an annotated surface may lie from where its offset says; farther may be another mention."""


def locate(text: str, surface: str, start: int) -> int | None:
    """Where `surface` stands nearest to `start` within REACH characters; white space is compared as blanks."""
    first = max(0, start - REACH)
    around, surface = _blank(text[first : start + REACH + len(surface)]), _blank(surface)
    places = [place for place in range(len(around)) if around.startswith(surface, place)]
    return min((first + place for place in places), key=lambda place: abs(place - start), default=None)


def without_overlaps(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The longest of entities that overlap (the first of equals), sorted by start."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start - e.end, e.start)):
        if all(entity.end <= other.start or entity.start >= other.end for other in kept):
            kept.append(entity)
    return tuple(sorted(kept))


def _blank(text: str) -> str:
    return "".join(" " if character.isspace() else character for character in text)
