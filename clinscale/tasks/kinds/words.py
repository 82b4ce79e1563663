"""The words of a text and their BIO tags: the unit in which entities are learned, stitched and scored.

A word is a run of letters, of digits, or of other visible characters. No token of a byte-level BPE spans two words
(but for English clitics such as 's), so entities that begin or end inside a word are widened to it, in gold and in
predictions alike.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from clinscale.tasks.example import Entity

_WORD = re.compile(r"[^\W\d_]+|\d+|(?:[^\w\s]|_)+")

OUTSIDE = "O"


def words_of(text: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each word, in order."""
    return [match.span() for match in _WORD.finditer(text)]


def tag_words(words: Sequence[tuple[int, int]], entities: Iterable[Entity]) -> list[str]:
    """A BIO tag per word; a word that several entities touch belongs to the first of them."""
    tags = [OUTSIDE] * len(words)
    ends = [end for _, end in words]
    for entity in sorted(entities):
        prefix = "B"
        for number in range(bisect_right(ends, entity.start), len(words)):
            if words[number][0] >= entity.end:
                break
            if tags[number] == OUTSIDE:
                tags[number] = f"{prefix}-{entity.label}"
                prefix = "I"
    return tags


def visible_end(text: str, word: tuple[int, int]) -> int:
    """Where an entity that closes with `word` ends: `5%).` ends before the full stop, which is the sentence's."""
    start, end = word
    return start + 1 + len(text[start + 1 : end].rstrip(".,;:"))


def word_at(words: Sequence[tuple[int, int]], character: int) -> int | None:
    """Number of the word that holds `character`."""
    number = bisect_right(words, (character, float("inf"))) - 1
    return number if number >= 0 and words[number][0] <= character < words[number][1] else None
