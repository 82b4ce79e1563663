"""The tokens that a file gives one by one, in which its entities are predicted and scored."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from clinscale.tasks.example import Example

_BETWEEN_BLANKS = re.compile(r"[^ ]+")
_BETWEEN_SPACE = re.compile(r"\S+")


def words_of_file(example: Example) -> list[tuple[int, int]]:
    """Characters [start, end) of each token of its file; of a text that was not split there, between white space."""
    pattern = _BETWEEN_BLANKS if example.is_split_into_words else _BETWEEN_SPACE
    return [match.span() for match in pattern.finditer(example.text)]


def in_whole_words(words: Iterable[tuple[int, int]], entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predicted entities, in order and apart, as whole `words`: each is of the entity that holds its first character.

    So the first token of a file's own word represents it, as everywhere where words are given.
    """
    whole: list[dict[str, Any]] = []
    at, last = 0, -1
    for start, end in words:
        while at < len(entities) and entities[at]["end"] <= start:
            at += 1
        if at == len(entities):
            break
        if entities[at]["start"] > start:
            continue
        if at == last:
            whole[-1]["end"] = end
        else:
            whole.append({**entities[at], "start": start, "end": end})
        last = at
    return whole
