"""The readable parts of files of any kind, block by block, so that memory does not grow with the file."""

import bisect
import codecs
import html
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from clinscale.scan.encoded import stands_alone, written_in_digits
from clinscale.scan.forms import MOST_UNKNOWN_BYTES, is_known, unknown_bytes
from clinscale.scan.holes import parts_with_data
from clinscale.scan.opened import (
    FAULTS,
    PACKED,
    Layer,
    begins_packed,
    looks_packed,
    looks_written,
    may_be_archive,
    open_layers,
)
from clinscale.scan.pictures import as_file
from clinscale.scan.token_ids import TOKEN_IDS, runs_of_ids
from clinscale.scan.unreadable import LEAST_SIGNS, is_mixed, unreadable
from clinscale.scan.windows import frequent, sums_of_parities

__all__ = ["FAULTS", "Piece", "plain", "read_pieces"]

_BLOCK_BYTES = 2**20
_OVERLAP_BYTES = 2**13
"""Overlap of neighbouring blocks: longer than any phrase."""
_LEAST_BYTES = 15
"""Least length of a readable part: eight words of one letter and the blanks between them."""

_ENCODED_DEEPEST = 4
"""Layers of digits that are taken off."""
_SHORT_RAW_BYTES = 2**12
"""Bytes written in digits below which many are looked into at once; each by itself costs as much as a long block."""

UTF_8 = "utf-8"
"""Encoding of most texts; a byte that it does not know is read as Windows has it."""
_AS_WINDOWS = "clinscale.as_windows"
_MOSTLY = 0.7
"""Share of ASCII in a text; in what has less, only single letters between others are of Windows."""
_EBCDIC = np.array([bytes([code]).decode("cp037").isprintable() for code in range(256)])
_EBCDIC[[0x05, 0x0D, 0x15, 0x25]] = True
"""Whether a byte is a sign, or a tab or break, on a mainframe."""
_EBCDIC_BLANK, _STRETCH_BYTES, _LEAST_BLANKS = 0x40, 64, 4
"""A blank there, and the least number of them in bytes of text."""
_FILLED_BYTES, _NOTHING = 32, bytes([0xFF]) * 3 * _STRETCH_BYTES
"""Bytes that are judged at once for numbers, and what is neither text nor numbers: wider than what is judged with what
is beside it."""
_LATIN = np.zeros(2**16, bool)
"""Whether a little-endian code of two bytes is of Latin text: letters, signs, breaks, dashes or quotation marks."""
_LATIN[[9, 10, 13]] = _LATIN[32:0x250] = _LATIN[0x2010:0x2070] = True
_LATIN_SWAPPED = _LATIN[np.arange(2**16, dtype=np.uint16).byteswap()]

_HIGHS, _LEAST_HIGHS = 3, 5
"""The high byte of Latin letters is less than this, and so many of eight signs in a row are letters."""

_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrtbf])")
_SHORT_BYTES, _LEAST_WORDS = 64, 8
_WORDS = re.compile(rb"[0-9A-Za-z]+|[\x80-\xff]+")
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Signs without a width, which part no word."""
_MARKUP = re.compile(r"<[/!?a-zA-Z][^<>]{0,400}>")


def _as_windows(fault: UnicodeError) -> tuple[str, int]:
    if not isinstance(fault, UnicodeDecodeError):
        raise fault
    return fault.object[fault.start : fault.end].decode("cp1252", errors="replace"), fault.end


codecs.register_error(_AS_WINDOWS, _as_windows)


class Piece(NamedTuple):
    """A readable part of a file."""

    inside: str
    """Part of the file, if it is compressed; else empty."""
    offset: int
    """Offset of its first byte."""
    raw: bytes
    encoding: str = UTF_8
    """Encoding of the characters; one of TOKEN_IDS for numbers, whose `text` is empty."""

    @property
    def text(self) -> str:
        """Decoded; a character that the edge of a block has cut is replaced."""
        if self.encoding in TOKEN_IDS:
            return ""
        return self.raw.decode(self.encoding, errors=_AS_WINDOWS if self.encoding == UTF_8 else "replace")


def read_pieces(path: Path, vocabulary_tokens: int = 0) -> Iterator[Piece]:
    """All readable parts of a file, what is compressed, a table, of another encoding or in digits as what it holds.

    Numbers below `vocabulary_tokens`, the size of the largest vocabulary, in a row are parts that may be token ids.
    Of a file with long holes each part between them is read as if it were a file.
    Raises one of FAULTS where some part of it cannot be read, after all others.
    """
    with path.open("rb") as file:
        fault: Exception | None = None
        for start, part in parts_with_data(file):
            try:
                for layer in open_layers(part):
                    try:
                        for piece in _pieces(layer, vocabulary_tokens):
                            yield piece if piece.inside else piece._replace(offset=start + piece.offset)
                    except FAULTS as error:
                        fault = fault or error
            except FAULTS as error:
                fault = fault or error
        if fault:
            raise fault


def plain(text: str) -> str:
    """`text` as its reader sees it, the same from JSON, YAML, HTML, an address and from where it is as it is."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_UNSEEN))
    if "%" in text:
        text = unquote(text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2] or "20", 16)), text)
    if "&" in text:
        text = html.unescape(text)
    return _MARKUP.sub(" ", text) if "<" in text else text


def _pieces(layer: Layer, vocabulary_tokens: int, encoded: int = 0) -> Iterator[Piece]:
    inside, stream, is_form_known, numbers = layer
    if numbers:
        while block := stream.read(_BLOCK_BYTES):
            yield Piece(inside, 0, block, f"array {numbers}")
        return
    offset, tail, unknown = 0, b"", 0
    fault: Exception | None = None
    while block := stream.read(_BLOCK_BYTES):
        joined = tail + block
        short, texts = dict[bytes, int](), []
        for start, stop, encoding in _texts(joined):
            piece = Piece(inside, offset - len(tail) + start, joined[start:stop], encoding)
            if _is_plain(piece):
                texts.append((start, stop))
            if _may_be_phrase(piece):
                yield piece
            opened = list[tuple[int, int]]()
            if encoded < _ENCODED_DEEPEST:
                try:
                    yield from _decoded(piece, vocabulary_tokens, encoded + 1, short, opened)
                except FAULTS as error:
                    fault = error
            if encoding == UTF_8 and not _is_within(unreadable(piece.raw), opened):
                fault = NotImplementedError()
        try:
            yield from _decoded_short(inside, short, vocabulary_tokens, encoded + 1)
        except FAULTS as error:
            fault = error
        num_read_bytes = sum(stop - start for start, stop in texts)
        if not encoded and (looks_packed(block) or (2 * num_read_bytes < len(joined) and looks_written(block))):
            fault = NotImplementedError()
        if not (is_form_known or encoded):
            unknown += unknown_bytes(joined, texts)
        for start, stop, encoding in runs_of_ids(joined, vocabulary_tokens):
            yield Piece(inside, offset - len(tail) + start, joined[start:stop], encoding)
        offset += len(block)
        tail = joined[-_OVERLAP_BYTES:]
    if unknown > MOST_UNKNOWN_BYTES:
        fault = fault or NotImplementedError()
    if fault:
        raise fault


def _may_be_phrase(piece: Piece) -> bool:
    """Whether enough words are in a short piece, such as chance makes of weights."""
    is_long = len(piece.raw) >= _SHORT_BYTES or piece.encoding != UTF_8
    return is_long or len(_WORDS.findall(piece.raw)) >= _LEAST_WORDS


def _is_within(runs: Iterator[tuple[int, int]], opened: list[tuple[int, int]]) -> bool:
    """Whether most of each run is of what was opened."""
    return all(
        sum(max(0, min(stop, end) - max(start, begin)) for begin, end in opened) * 2 >= stop - start
        for start, stop in runs
    )


def _is_plain(piece: Piece) -> bool:
    """Whether a part that is read as text is nothing else: numbers pass for letters of two bytes, too."""
    text = piece.text
    return piece.encoding == UTF_8 or 2 * sum(sign.isascii() and sign.isprintable() for sign in text) > len(text)


def _is_explained(raw: bytes) -> bool:
    """Whether bytes are something that is looked into: text, or a file of a known form."""
    if begins_packed(raw) or may_be_archive(raw) or is_known(raw):
        return True
    return unknown_bytes(raw, [(start, stop) for start, stop, _ in _texts(raw)]) < len(raw) / 2


def _decoded(
    piece: Piece,
    vocabulary_tokens: int,
    encoded: int,
    short: dict[bytes, int],
    opened: list[tuple[int, int]],
) -> Iterator[Piece]:
    """Contents of what is written in digits; those for `_decoded_short` are added to `short` with their offset.

    The places of what this explains are added to `opened`.

    Raises one of FAULTS where they cannot be read and are a compressed file, not digits in a row and nothing else.
    """
    fault: Exception | None = None
    text = piece.raw if piece.encoding == UTF_8 else piece.text.encode(errors="replace")
    for run in written_in_digits(text):
        if run.is_sealed:
            fault = NotImplementedError()
        if run.stop - run.start >= LEAST_SIGNS:
            if not text[run.start : run.stop].isdigit() and any(map(_is_explained, run.raws)):
                opened.append((run.start, run.stop))
            elif is_mixed(text[run.start : run.stop]):
                fault = NotImplementedError()
        offset = piece.offset + run.start * len(piece.raw) // len(text)
        for raw in run.raws:
            if len(raw) < _SHORT_RAW_BYTES and not stands_alone(raw):
                short.setdefault(raw, offset)
                continue
            try:
                for layer in open_layers(as_file(raw), piece.inside):
                    layer = layer._replace(inside=_encoded_in(layer.inside))
                    yield from (one._replace(offset=offset) for one in _pieces(layer, vocabulary_tokens, encoded))
            except FAULTS as error:
                is_whole_later = run.stop == len(text) and run.stop - run.start < _OVERLAP_BYTES
                if raw.startswith(PACKED) and not is_whole_later:
                    fault = error
    if fault:
        raise fault


def _decoded_short(inside: str, short: dict[bytes, int], vocabulary_tokens: int, encoded: int) -> Iterator[Piece]:
    """Contents of short runs of digits, as identifiers are: at once, each filled up as at the end of a block."""
    filled = [raw + bytes(-len(raw) % _FILLED_BYTES) for raw in short]
    raws = [raw + _NOTHING[len(raw) % _STRETCH_BYTES :] for raw in filled]
    starts, offsets = [0, *itertools.accumulate(map(len, raws))], list(short.values())
    layer = Layer(_encoded_in(inside), io.BytesIO(b"".join(raws)))
    for one in _pieces(layer, vocabulary_tokens, encoded):
        middle = one.offset + len(one.raw) // 2
        yield one._replace(offset=offsets[bisect.bisect(starts, middle) - 1])


def _encoded_in(inside: str) -> str:
    return inside if "encoded" in inside else f"{inside} encoded".strip()


def _texts(block: bytes) -> Iterator[tuple[int, int, str]]:
    """Places of text that is long enough to be a phrase, and its encoding."""
    codes = np.frombuffer(block, np.uint8)
    yield from ((*run, UTF_8) for run in _readable(codes))
    for start, stop in frequent(codes == _EBCDIC_BLANK, _STRETCH_BYTES, _LEAST_BLANKS):
        yield from ((start + first, start + last, "cp037") for first, last in _runs(_EBCDIC[codes[start:stop]]))
    yield from _readable_utf16(block, codes)
    yield from _readable_utf32(block, codes)


def _readable_utf16(block: bytes, codes: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, str]]:
    """Places of Latin text in two bytes a letter, in either order and from either byte."""
    is_high = np.pad(codes < _HIGHS, (0, -len(codes) % 16))
    if all(counts.max(initial=0) < _LEAST_HIGHS for counts in sums_of_parities(is_high, 16)):
        return
    for latin, encoding in ((_LATIN, "utf-16-le"), (_LATIN_SWAPPED, "utf-16-be")):
        for first in (0, 1):
            codes = np.frombuffer(block, "<u2", count=(len(block) - first) // 2, offset=first)
            for start, stop in _runs(latin.take(codes)):
                yield first + 2 * start, first + 2 * stop, encoding


def _readable_utf32(block: bytes, codes: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, str]]:
    """Places of text in four bytes a letter, in either order and from any byte."""
    if not frequent(codes == 0, _STRETCH_BYTES, _STRETCH_BYTES // 2):
        return
    for kind, encoding in (("<u4", "utf-32-le"), (">u4", "utf-32-be")):
        for first in range(4):
            codes = np.frombuffer(block, kind, max(0, len(block) - first) // 4, first)
            for start, stop in _runs(_LATIN.take(codes, mode="clip")):
                yield first + 4 * start, first + 4 * stop, encoding


def _readable(codes: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Places of printable UTF-8, or of ASCII with signs of Windows; weights hold next to none."""
    good = codes - np.uint8(32) < 95
    for blank in b"\t\n\r":
        good |= codes == blank
    num_ascii = np.count_nonzero(good)
    if num_ascii > _MOSTLY * len(codes):
        good |= codes >= 0x80
    else:
        opens, follows = codes - np.uint8(0xC2) < 0xF5 - 0xC2, codes & 0xC0 == 0x80
        is_letter = (codes | 32) - np.uint8(ord("a")) < 26
        lone = codes >= 0xC0
        lone[1:-1] &= is_letter[:-2] & is_letter[2:]
        good |= lone
        good[1:] |= follows[1:] & (opens | follows)[:-1]
        good[:-1] |= opens[:-1] & follows[1:]
        good[-1:] |= opens[-1:]
        good[:1] |= follows[:1]
    yield from _runs(good)


def _runs(good: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Ranges in which enough are good in a row: around each eight that are, of which weights hold few."""
    eights = np.flatnonzero(good[: len(good) // 8 * 8].view(np.uint64) == 0x0101010101010101)
    if not len(eights):
        return
    cuts = np.flatnonzero(np.diff(eights) > 1)
    starts, stops = 8 * eights[np.append(0, cuts + 1)], 8 * eights[np.append(cuts, -1)] + 8
    around = np.pad(good, 8)
    before, after = (around[at[:, None] + np.arange(8)] for at in (starts, stops + 8))
    starts = starts - np.logical_and.accumulate(before[:, ::-1], axis=1).sum(axis=1)
    stops = stops + np.logical_and.accumulate(after, axis=1).sum(axis=1)
    for at in np.flatnonzero(stops - starts >= _LEAST_BYTES):
        yield int(starts[at]), int(stops[at])
