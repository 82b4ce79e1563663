"""Token ids as arrays of numbers: found in a file by their values, decoded by tokenizers that may have made them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKEN_IDS = "token ids"
"""Value of `Piece.encoding` for an array of numbers."""

_WINDOW = 16
"""Numbers of two bytes that are judged at once: four ids of 64 bits, or sixteen of 16."""
_COMMON, _LEAST_COMMON = 4096, 4
"""Ids below this are of characters and common words, and so many are in a window; of weights next to none is."""
_LEAST_IDS, _LEAST_CHANGES = 8, 6
"""Least number of ids in a phrase of eight words, and of changes from one to the next: padding and masks have none."""
_SHORT = 2**16


def runs_of_ids(block: bytes, vocabulary_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the places of numbers that may be token ids, little-endian in 16, 32 or 64 bits and from any byte.

    All three are looked for as numbers of two bytes: of wider ones the upper halves are nothing, or small.

    Args:
        block: of any file.
        vocabulary_tokens: size of the largest vocabulary; 0 if there is none.
    """
    for first in (0, 1) if vocabulary_tokens else ():
        codes = np.frombuffer(block, "<u2", count=max(0, len(block) - first) // 2, offset=first)
        good = _judge(codes, vocabulary_tokens)
        good[:-1] |= good[1:]  # the windows beside them hold the first and the last ids
        good[1:] |= good[:-1].copy()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).view(np.int8)))
        for start, stop in (edges.reshape(-1, 2) * _WINDOW).tolist():
            if np.count_nonzero(np.diff(codes[start:stop])) >= _LEAST_CHANGES:
                yield first + 2 * start, first + 2 * min(stop, len(codes))


def decoded(raw: bytes, tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield what the numbers in `raw` are by each tokenizer; those that are none of its ids are passed over.

    The id 0 is passed over, too, as are the empty halves of wider numbers: it is a special token or a sign.
    """
    for tokenizer in tokenizers:
        size = tokenizer.get_vocab_size()
        for ids in _numbers(raw, size):
            ids = ids[(ids > 0) & (ids < size)]
            if len(ids) >= _LEAST_IDS and np.count_nonzero(np.diff(ids)) >= _LEAST_CHANGES:
                yield tokenizer.decode(ids.tolist())


def _judge(codes: npt.NDArray[np.uint16], vocabulary_tokens: int) -> npt.NDArray[np.bool_]:
    """Whether each window is all ids and has enough common ones; the last is filled up."""
    windows = np.pad(codes, (0, -len(codes) % _WINDOW)).reshape(-1, _WINDOW)
    good: npt.NDArray[np.bool_] = np.count_nonzero(windows < _COMMON, axis=1) >= _LEAST_COMMON
    if vocabulary_tokens < _SHORT:
        good[good] = (windows[good] < vocabulary_tokens).all(axis=1)
    return good


def _numbers(raw: bytes, size: int) -> list[npt.NDArray[np.uint32]]:
    if size <= _SHORT:
        return [np.frombuffer(raw, "<u2").astype(np.uint32)]
    return [np.frombuffer(raw, np.dtype("<u4"), count=(len(raw) - at) // 4, offset=at) for at in (0, 2)]
