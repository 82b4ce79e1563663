"""Token ids in bytes: found in a file by their values, decoded by tokenizers that may have made them."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LITTLE, _BIG = "<u2", ">u2"
_WINDOW = 16
"""Numbers of two bytes that are judged at once: four ids of 64 bits, or sixteen of 16."""
_COMMON, _LEAST_COMMON = 4096, 4
"""Ids below this are of characters and common words, and so many are in a window; of weights next to none is."""
_LEAST_IDS, _LEAST_CHANGES = 8, 6
"""Least number of ids in a phrase of eight words, and of changes from one to the next: padding and masks have none."""
_SHORT = 2**16
_STRETCH_BYTES, _LEAST_MARKS = 64, 3
"""Bytes that are judged at once for numbers of objects; a scalar of NumPy takes 17."""
_MOST_COLUMNS = 3
"""Columns of ids and of what is between them: positions, masks, types."""


class _Objects:
    """A format that writes each number by itself, behind a byte that says how long it is."""

    def __init__(self, long: bytes, short: bytes, marks: Sequence[bytes], order: Literal["little", "big"]) -> None:
        """Numbers of which some in a row are no chance; what may stand between: others, brackets, references.

        `marks` are what long numbers begin with, one or two bytes: only where they are frequent is a run looked for.
        """
        one, between = (pattern.replace(b"(", b"(?:") for pattern in (long, short))
        self._run = re.compile(rb"(?s)(?:%s)(?:(?:%s){0,12}(?:%s)){6,}(?:%s){0,12}" % (one, between, one, between))
        self._part = re.compile(rb"(?s)%s|%s" % (long, short))
        self._marks, self._order = marks, order

    def runs(self, block: bytes, raw: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
        """Places of numbers in a row."""
        if sum(map(block.count, self._marks)) < _LEAST_MARKS:
            return
        marks = np.zeros(-len(raw) % _STRETCH_BYTES + len(raw), np.uint8)
        for mark, *size in self._marks:
            found = raw == mark
            for byte in size:
                found[:-1] &= raw[1:] == byte
            marks[: len(raw)] |= found
        for start, stop in _ranges(_sums(marks, _STRETCH_BYTES) >= _LEAST_MARKS):
            yield from (
                run.span() for run in self._run.finditer(block, start * _STRETCH_BYTES, stop * _STRETCH_BYTES)
            )

    def ids(self, raw: bytes) -> npt.NDArray[np.int64]:
        """The numbers of a run."""
        found = (part[part.lastindex] for part in self._part.finditer(raw) if part.lastindex)
        return np.array([int.from_bytes(one, self._order) for one in found], np.int64)


_OBJECTS = {
    "pickle": _Objects(
        rb"K(.)|M(..)|J(..[\0-\x0f])\0|[CU]\x08(..[\0-\x0f])\0{5}|[CU]\x04(..[\0-\x0f])\0",
        rb"[][\x28aeltR\x85-\x87\x94]|[hq].|[jr].{4}",
        (b"K", b"M", b"J", b"C\x08", b"C\x04", b"U\x08", b"U\x04"),
        "little",
    ),
    "msgpack": _Objects(
        rb"\xcd(..)|\xce\0([\0-\x0f]..)",
        rb"\xcc(.)|([\0-\x7f])|[\x90-\x9f]|\xdc..|\xdd.{4}",
        (b"\xcd", b"\xce\0"),
        "big",
    ),
    "cbor": _Objects(
        rb"\x19(..)|\x1a\0([\0-\x0f]..)", rb"\x18(.)|([\0-\x17])|[\x80-\x9f\xff]", (b"\x19", b"\x1a\0"), "big"
    ),
}
_FLOATS = {"<f4": 4, "<f8": 8}
TOKEN_IDS = frozenset({_LITTLE, _BIG, *_OBJECTS, *_FLOATS})
"""Values of `Piece.encoding` for numbers."""


def runs_of_ids(block: bytes, vocabulary_tokens: int) -> Iterator[tuple[int, int, str]]:
    """Yield the places of numbers that may be token ids, and how they are written, one of TOKEN_IDS.

    Arrays of 16, 32 or 64 bits, in either order and from any byte, are all looked for as numbers of two bytes: of wider
    ones the other halves are nothing, or small. Lists of pickle, msgpack and CBOR are read without loading them.

    Args:
        block: of any file.
        vocabulary_tokens: size of the largest vocabulary; 0 if there is none.
    """
    if not vocabulary_tokens:
        return
    raw = np.frombuffer(block, np.uint8)
    has_arrays = np.count_nonzero(raw < _COMMON >> 8) >= _LEAST_COMMON
    for order, first in ((order, first) for order in (_LITTLE, _BIG) for first in (0, 1) if has_arrays):
        count = max(0, len(block) - first) // 2
        highs = raw[first + (order == _LITTLE) : first + 2 * count : 2]
        for start, stop in _arrays(np.frombuffer(block, order, count, first), highs, vocabulary_tokens):
            yield first + 2 * start, first + 2 * stop, order
    if has_arrays:
        yield from _floats(raw)
    for name, objects in _OBJECTS.items():
        yield from ((*run, name) for run in objects.runs(block, raw))


def decoded(raw: bytes, written: str, tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield what the numbers in `raw`, `written` as one of TOKEN_IDS, are by each tokenizer."""
    for tokenizer in tokenizers:
        for ids in _numbers(raw, written, tokenizer.get_vocab_size()):
            yield from spelled(ids, [tokenizer])


def spelled(numbers: "npt.NDArray[np.int64] | Sequence[int]", tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield what numbers in a row are by each tokenizer: all of them, every second and every third one.

    Numbers that are none of its ids are passed over, as is the id 0 and with it the empty halves of wider numbers: it
    is a special token or a sign.
    """
    numbers = np.asarray(numbers, np.int64)
    for tokenizer in tokenizers:
        ids = numbers[(numbers > 0) & (numbers < tokenizer.get_vocab_size())]
        for columns in range(1, _MOST_COLUMNS + 1):
            for column in (ids[first::columns] for first in range(columns)):
                if len(column) >= _LEAST_IDS and np.count_nonzero(np.diff(column)) >= _LEAST_CHANGES:
                    yield tokenizer.decode(column.tolist())


def _arrays(
    codes: npt.NDArray[np.uint16], highs: npt.NDArray[np.uint8], vocabulary_tokens: int
) -> Iterator[tuple[int, int]]:
    for window, end in _ranges(_judge(codes, highs, vocabulary_tokens)):
        start, stop = window * _WINDOW, end * _WINDOW
        if np.count_nonzero(np.diff(codes[start:stop])) >= _LEAST_CHANGES:
            yield start, min(stop, len(codes))


def _floats(raw: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, str]]:
    """Whole numbers from 2 that are written as floats: their last byte is nothing, their first one 0x40 to 0x47."""
    last, first = raw == 0, raw & 0xF8 == 0x40
    for written, width in _FLOATS.items():
        places = np.flatnonzero(first[width - 1 :] & last[: max(0, len(raw) - width + 1)])
        for phase in range(width) if len(places) >= _LEAST_IDS else ():
            of_phase = places[places % width == phase]
            for run in np.split(of_phase, np.flatnonzero(np.diff(of_phase) > _MOST_COLUMNS * width) + 1):
                if len(run) >= _LEAST_IDS:
                    yield int(run[0]), int(run[-1]) + width, written


def _judge(
    codes: npt.NDArray[np.uint16], highs: npt.NDArray[np.uint8], vocabulary_tokens: int
) -> npt.NDArray[np.bool_]:
    """Whether each window is all ids and has enough common ones, by their high bytes; the last is filled up."""
    common = np.ones(len(highs) + -len(highs) % _WINDOW, bool)
    np.less(highs, _COMMON >> 8, out=common[: len(highs)])
    good: npt.NDArray[np.bool_] = _sums(common.view(np.uint8), _WINDOW) >= _LEAST_COMMON
    if vocabulary_tokens < _SHORT and good.any():
        windows = np.pad(codes, (0, -len(codes) % _WINDOW)).reshape(-1, _WINDOW)
        good[good] = (windows[good] < vocabulary_tokens).all(axis=1)
    return good


def _sums(counts: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint64]:
    """Sums of `size` counts each, all below 256: eight bytes are added at once, then the sums of each eighth."""
    eighths = counts.view(np.uint64).reshape(-1, size // 8).sum(axis=1)
    sums: npt.NDArray[np.uint64] = eighths * np.uint64(0x0101010101010101) >> np.uint64(56)
    return sums


def _ranges(good: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges of what is good, and one beside each: it holds the beginning or the end."""
    if not good.any():
        return []
    good[:-1] |= good[1:]
    good[1:] |= good[:-1].copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).view(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _numbers(raw: bytes, written: str, size: int) -> list[npt.NDArray[np.int64]]:
    if written in _OBJECTS:
        return [_OBJECTS[written].ids(raw)]
    if written in _FLOATS:
        values = np.frombuffer(raw, written)
        return [values[(values >= 0) & (values < size) & (values % 1 == 0)].astype(np.int64)]
    if size <= _SHORT:
        return [np.frombuffer(raw, written, len(raw) // 2).astype(np.int64)]
    wide = written.replace("2", "4")
    return [np.frombuffer(raw, wide, (len(raw) - at) // 4, at).astype(np.int64) for at in (0, 2)]
