"""Token ids in bytes: found in a file by their values, decoded by tokenizers that may have made them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clinscale.scan.unspelled import NO_TOKENIZER, are_unspelled
from clinscale.scan.windows import Marks, frequent, ranges, sums, sums_of_parities

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LITTLE, _BIG = "<u2", ">u2"
_WINDOW = 16
"""Numbers of two bytes that are judged at once: four ids of 64 bits, or sixteen of 16."""
_COMMON, _LEAST_COMMON = 4096, 4
"""Ids below this are of characters and common words, and so many are in a window; of weights next to none is."""
_LEAST_IDS, _LEAST_CHANGES = 8, 6
"""Least number of ids in a phrase of eight words, and of changes from one to the next: padding and masks have none."""
_MOST_CODE, _LEAST_LETTERS, _MOSTLY = 0x250, 15, 0.95
"""Codes of Latin letters are below this; least number of letters in a phrase, and share of codes that are letters."""
_SHORT = 2**16
_SAMPLE_FLOATS, _LARGEST_FLOAT = 64, 2.0**32
"""Floats of which none is broken where they are ids, and what all ids are below."""
_STRETCH_BYTES = 64
"""Bytes that are judged at once for numbers of objects; a scalar of NumPy takes 17."""
_MOST_COLUMNS = 3
"""Columns of ids and of what is between them: positions, masks, types."""


class _Mark(NamedTuple):
    """Bytes with which a number begins."""

    firsts: bytes
    """One of them, then a byte from `low` to `high`."""
    low: int = 0
    high: int = 255
    least: int = 4
    """Least number of them in a stretch for a run to be looked for; of longer ones chance makes fewer."""


class _Objects:
    """A format that writes each number by itself, behind a byte that says how long it is."""

    def __init__(
        self,
        long: bytes,
        short: bytes,
        marks: Sequence[_Mark],
        order: Literal["little", "big"],
        floats: Mapping[int, str],
    ) -> None:
        """Numbers of which some in a row are no chance; what may stand between: others, brackets, references.

        `marks` are what long numbers begin with: only where they are frequent is a run looked for. `floats` are the
        groups of `long` that are floats, without bytes of zero; the others are whole numbers.
        """
        one, between = (pattern.replace(b"(", b"(?:").replace(b"(?:?", b"(?") for pattern in (long, short))
        self._run = re.compile(rb"(?s)(?:%s)(?:(?:%s){0,12}(?:%s)){6,}(?:%s){0,12}" % (one, between, one, between))
        self._part = re.compile(rb"(?s)%s|%s" % (long, short))
        self._marks, self._order, self._floats = marks, order, floats

    def runs(self, block: bytes, raw: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
        """Places of numbers in a row."""
        good = np.zeros(-(-len(raw) // _STRETCH_BYTES), bool)
        for mark in self._marks:
            found = np.zeros(_STRETCH_BYTES * len(good), bool)
            here = found[: len(raw)]
            for first in mark.firsts:
                here |= raw == first
            if (mark.low, mark.high) != (0, 255):
                here[:-1] &= raw[1:] - np.uint8(mark.low) <= mark.high - mark.low
            good |= sums(found, _STRETCH_BYTES) >= mark.least
        for start, stop in ranges(good):
            yield from (
                run.span() for run in self._run.finditer(block, start * _STRETCH_BYTES, stop * _STRETCH_BYTES)
            )

    def ids(self, raw: bytes) -> npt.NDArray[np.int64]:
        """The numbers of a run."""
        found = (
            (part[part.lastindex], self._floats.get(part.lastindex))
            for part in self._part.finditer(raw)
            if part.lastindex
        )
        return np.array(
            [_whole(one, kind) if kind else int.from_bytes(one, self._order) for one, kind in found], np.int64
        )


def _whole(raw: bytes, kind: str) -> int:
    """A float whose bytes of zero may be left out, 0 where it is not whole."""
    size = np.dtype(kind).itemsize
    value = float(np.frombuffer(raw.ljust(size, b"\0") if kind[0] == ">" else raw.rjust(size, b"\0"), kind)[0])
    return int(value) if value.is_integer() else 0


_OBJECTS = {
    "pickle": _Objects(
        rb"K(.)|M(..)|J(..[\0-\x0f])\0|[CU]\x08(..[\0-\x0f])\0{5}|[CU]\x04(..[\0-\x0f])\0"
        rb"|G([?-A].{3})\0{4}|[CU]\x08\0{4}(.{3}[?-A])|[CU]\x04([\0\x80]..[?-G])",
        rb"[][\x28aeltR\x85-\x87\x94]|[hq].|[jr].{4}|G(?![?-A].{3}\0{4}).{8}",
        (_Mark(b"KMJ"), _Mark(b"CU", 4, 8, 3), _Mark(b"G", 0x3F, 0x41, 3)),
        "little",
        {6: ">f8", 7: "<f8", 8: "<f4"},
    ),
    "msgpack": _Objects(
        rb"\xcd(..)|\xce\0([\0-\x0f]..)|\xcb([?-A].{3})\0{4}|\xca([?-G]..[\0\x80])",
        rb"\xcc(.)|([\0-\x7f])|[\x90-\x9f]|\xdc..|\xdd.{4}|\xcb(?![?-A].{3}\0{4}).{8}",
        (_Mark(b"\xcd"), _Mark(b"\xce", 0, 0, 3), _Mark(b"\xca\xcb", 0x3F, 0x47, 3)),
        "big",
        {3: ">f8", 4: ">f4"},
    ),
    "cbor": _Objects(
        rb"\x19(..)|\x1a\0([\0-\x0f]..)|\xfb([?-A].{3})\0{4}|\xfa([?-G]..[\0\x80])|\xf9([<-{].)",
        rb"\x18(.)|([\0-\x17])|[\x80-\x9f\xff]|\xfb(?![?-A].{3}\0{4}).{8}",
        (_Mark(b"\x19"), _Mark(b"\x1a", 0, 0, 3), _Mark(b"\xfa\xfb", 0x3F, 0x47, 3), _Mark(b"\xf9", 0x3C, 0x7B)),
        "big",
        {3: ">f8", 4: ">f4", 5: ">f2"},
    ),
}
_ARRAY_KINDS = ("i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
_FLOATS = {"<f4": 4, "<f8": 8, ">f4": 4, ">f8": 8}
_OF_KNOWN_FORM = "pickle"
"""The objects that are of a known form: those of others are reported as of none where they are not read."""
ARRAYS = {f"array {order}{kind}": f"{order}{kind}" for order in "<>" for kind in _ARRAY_KINDS}
"""Values of `Piece.encoding` for arrays of which their file says that they are numbers, and how NumPy writes these."""
TOKEN_IDS = frozenset({_LITTLE, _BIG, *_OBJECTS, *_FLOATS, *ARRAYS})
"""Values of `Piece.encoding` for numbers."""


def runs_of_ids(block: bytes, vocabulary_tokens: int) -> Iterator[tuple[int, int, str]]:
    """Yield the places of numbers that may be token ids, and how they are written, one of TOKEN_IDS.

    Arrays of 16, 32 or 64 bits, in either order and from any byte, are all looked for as numbers of two bytes: of wider
    ones the other halves are nothing, or small. Lists of pickle, msgpack and CBOR are read without loading them.

    Args:
        block: of any file.
        vocabulary_tokens: size of the largest vocabulary; 0 if there is none, and only lists of pickle are yielded.
    """
    raw = np.frombuffer(block, np.uint8)
    if not vocabulary_tokens:
        yield from ((*run, _OF_KNOWN_FORM) for run in _OBJECTS[_OF_KNOWN_FORM].runs(block, raw))
        return
    for order, first, start, stop in _arrays(block, raw, vocabulary_tokens):
        yield first + 2 * start, first + 2 * stop, order
    yield from _floats(raw)
    for name, objects in _OBJECTS.items():
        yield from ((*run, name) for run in objects.runs(block, raw))


def decoded(raw: bytes, written: str, tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield what the numbers in `raw`, `written` as one of TOKEN_IDS, are by each tokenizer.

    Those of ARRAYS are found in their file as others, too, and judged alone. Raises NotImplementedError, after all
    others, where numbers that are of a known form are the ids of another tokenizer.
    """
    if written in ARRAYS:
        numbers = _whole_numbers(raw, ARRAYS[written])
    else:
        for tokenizer in tokenizers:
            for ids in _numbers(raw, written, tokenizer.get_vocab_size()):
                yield from spelled(ids, [tokenizer])
                yield from lettered(ids)
        numbers = _OBJECTS[written].ids(raw) if written == _OF_KNOWN_FORM else np.zeros(0, np.int64)
    if are_unspelled(numbers, tokenizers):
        raise NotImplementedError(NO_TOKENIZER)


def lettered(numbers: "npt.NDArray[np.int64] | Sequence[int]") -> Iterator[str]:
    """Yield numbers in a row as the signs that they are the codes of, where all are codes of text."""
    codes = np.asarray(numbers, np.int64)
    codes = codes[codes != 0]
    is_text = (codes >= ord(" ")) & (codes < _MOST_CODE) | (codes == ord("\n")) | (codes == ord("\t"))
    if len(codes) >= _LEAST_LETTERS and is_text.mean() > _MOSTLY:
        yield "".join(map(chr, codes[is_text].tolist()))


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
    block: bytes, raw: npt.NDArray[np.uint8], vocabulary_tokens: int
) -> Iterator[tuple[str, int, int, int]]:
    """Order, first byte, and range in numbers of two bytes of what is all ids and has enough common ones.

    Windows are judged by high bytes; the last one is filled up.
    """
    is_common = np.ones(len(raw) + -len(raw) % (2 * _WINDOW), bool)
    np.less(raw, _COMMON >> 8, out=is_common[: len(raw)])
    even, odd = (counts >= _LEAST_COMMON for counts in sums_of_parities(is_common, 2 * _WINDOW))
    for order, first, good in ((_LITTLE, 0, odd), (_LITTLE, 1, even), (_BIG, 0, even), (_BIG, 1, odd)):
        codes = np.frombuffer(block, order, max(0, len(block) - first) // 2, first)
        for window, end in ranges(_below(codes, good, vocabulary_tokens)):
            start, stop = window * _WINDOW, end * _WINDOW
            if np.count_nonzero(np.diff(codes[start:stop])) >= _LEAST_CHANGES:
                yield order, first, start, min(stop, len(codes))


def _below(codes: npt.NDArray[np.uint16], good: Marks, vocabulary_tokens: int) -> Marks:
    """Windows that are good and hold only numbers of the vocabulary."""
    if vocabulary_tokens >= _SHORT or not good.any():
        return good
    good = good.copy()
    whole = len(codes) // _WINDOW
    last = np.full((len(good) - whole) * _WINDOW, 0, codes.dtype)
    last[: len(codes) - whole * _WINDOW] = codes[whole * _WINDOW :]
    windows = np.flatnonzero(good[:whole])
    good[windows] = (codes[: whole * _WINDOW].reshape(-1, _WINDOW)[windows] < vocabulary_tokens).all(axis=1)
    good[whole:] &= (last.reshape(-1, _WINDOW) < vocabulary_tokens).all(axis=1)
    return good


def _floats(raw: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, str]]:
    """Whole numbers from 2 that are written as floats: their last byte is nothing, their first one 0x40 to 0x47."""
    last, first = raw == 0, raw & 0xF8 == 0x40
    for written, width in _FLOATS.items():
        low, high = (last, first) if written[0] == "<" else (first, last)
        marks = high[width - 1 :] & low[: max(0, len(raw) - width + 1)]
        for start, stop in frequent(marks, _STRETCH_BYTES, _STRETCH_BYTES // (_MOST_COLUMNS * width)):
            places = start + np.flatnonzero(marks[start:stop])
            for phase in range(width):
                of_phase = places[places % width == phase]
                for run in np.split(of_phase, np.flatnonzero(np.diff(of_phase) > _MOST_COLUMNS * width) + 1):
                    if len(run) >= _LEAST_IDS:
                        yield int(run[0]), int(run[-1]) + width, written


def _whole_numbers(raw: bytes, kind: str) -> npt.NDArray[np.int64]:
    """An array's numbers; none of floats that are not whole, as weights are."""
    values = np.frombuffer(raw, kind, len(raw) // np.dtype(kind).itemsize)
    if values.dtype.kind == "f":
        is_whole = np.isfinite(values[:_SAMPLE_FLOATS]).all() and not (values[:_SAMPLE_FLOATS] % 1).any()
        values = values[(values >= 0) & (values < _LARGEST_FLOAT) & (values % 1 == 0)] if is_whole else values[:0]
    return values.astype(np.int64)


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
