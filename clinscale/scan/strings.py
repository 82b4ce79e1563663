"""The readable parts of files of any kind, block by block, so that memory does not grow with the file."""

import base64
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from clinscale.scan.opened import FAULTS, PACKED, looks_packed, open_layers
from clinscale.scan.token_ids import runs_of_ids

__all__ = ["FAULTS", "Piece", "plain", "read_pieces"]

_BLOCK_BYTES = 2**20
_OVERLAP_BYTES = 2**13
"""Overlap of neighbouring blocks: longer than any phrase."""
_LEAST_BYTES = 15
"""Least length of a readable part: eight words of one letter and the blanks between them."""

_ENCODED_DEEPEST = 4
"""Layers of base64 and hexadecimal digits that are taken off."""

_ASCII = np.array([32 <= code < 127 or code in b"\t\n\r" for code in range(256)])
_LATIN = np.zeros(2**16, bool)
"""Whether a little-endian code of two bytes is of Latin text: letters, signs, breaks, dashes or quotation marks."""
_LATIN[[9, 10, 13]] = _LATIN[32:0x250] = _LATIN[0x2010:0x2070] = True
_LATIN_SWAPPED = _LATIN[np.arange(2**16, dtype=np.uint16).byteswap()]

_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrtbf])")
_MARKUP = re.compile(r"<[/!?a-zA-Z][^<>]{0,400}>")


_ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{20,}(?:(?:\\[nr]|\s){1,4}[A-Za-z0-9+/_-]{4,})*={0,2}")
_BREAKS = re.compile(rb"\\[nr]|\s")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]+")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class Piece(NamedTuple):
    """A readable part of a file."""

    inside: str
    """Part of the file, if it is compressed; else empty."""
    offset: int
    """Offset of its first byte."""
    raw: bytes
    encoding: str = "utf-8"
    """Encoding of the characters; one of TOKEN_IDS for numbers, which have no `text` but by a tokenizer."""

    @property
    def text(self) -> str:
        """Decoded; a character that the edge of a block has cut is replaced."""
        return self.raw.decode(self.encoding, errors="replace")


def read_pieces(path: Path, vocabulary_tokens: int = 0) -> Iterator[Piece]:
    """All readable parts of a file, what is compressed, a table, UTF-16, base64 or hexadecimal as what it holds.

    Numbers below `vocabulary_tokens`, the size of the largest vocabulary, in a row are parts that may be token ids.
    Raises one of FAULTS where some part of it cannot be read, after all others.
    """
    with path.open("rb") as file:
        fault: Exception | None = None
        for inside, stream in open_layers(file):
            try:
                yield from _pieces(inside, stream, vocabulary_tokens)
            except FAULTS as error:
                fault = fault or error
        if fault:
            raise fault


def plain(text: str) -> str:
    """`text` as its reader sees it, the same from JSON, YAML, HTML, an address and from where it is as it is."""
    if "%" in text:
        text = unquote(text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2] or "20", 16)), text)
    if "&" in text:
        text = html.unescape(text)
    return _MARKUP.sub(" ", text) if "<" in text else text


def _pieces(inside: str, stream: IO[bytes], vocabulary_tokens: int, encoded: int = 0) -> Iterator[Piece]:
    offset, tail = 0, b""
    fault: Exception | None = None
    while block := stream.read(_BLOCK_BYTES):
        joined = tail + block
        if not encoded and looks_packed(block):
            fault = NotImplementedError()
        for start, stop in _readable(joined):
            piece = Piece(inside, offset - len(tail) + start, joined[start:stop])
            yield piece
            if encoded < _ENCODED_DEEPEST:
                try:
                    yield from _decoded(piece, vocabulary_tokens, encoded + 1)
                except FAULTS as error:
                    fault = error
        for start, stop, encoding in _readable_utf16(joined):
            yield Piece(inside, offset - len(tail) + start, joined[start:stop], encoding)
        for start, stop, encoding in runs_of_ids(joined, vocabulary_tokens):
            yield Piece(inside, offset - len(tail) + start, joined[start:stop], encoding)
        offset += len(block)
        tail = joined[-_OVERLAP_BYTES:]
    if fault:
        raise fault


def _decoded(piece: Piece, vocabulary_tokens: int, encoded: int) -> Iterator[Piece]:
    """Contents of base64 or hexadecimal digits, from each place at which a block may have cut them.

    Raises one of FAULTS where they cannot be read and are a compressed file, not digits in a row and nothing else.
    """
    fault: Exception | None = None
    for run in _ENCODED.finditer(piece.raw):
        digits = _BREAKS.sub(b"", run[0]).rstrip(b"=")
        found = []
        if _HEXADECIMAL.fullmatch(digits):
            found = [bytes.fromhex(digits[at : at + (len(digits) - at) // 2 * 2].decode()) for at in (0, 1)]
        else:
            digits = digits.translate(_URL_SAFE)
            found = [
                base64.b64decode(digits[at : at + (len(digits) - at) // 4 * 4] + tail)
                for at in range(4)
                for tail in [
                    digits[at + (len(digits) - at) // 4 * 4 :].ljust(4, b"=") if _padded(digits, at) else b""
                ]
            ]
        for raw in found:
            try:
                for inside, stream in open_layers(io.BufferedReader(io.BytesIO(raw)), piece.inside):
                    place = f"{inside} encoded".strip() if "encoded" not in inside else inside
                    yield from (
                        one._replace(offset=piece.offset + run.start())
                        for one in _pieces(place, stream, vocabulary_tokens, encoded)
                    )
            except FAULTS as error:
                is_whole_later = run.end() == len(piece.raw) and len(digits) < _OVERLAP_BYTES
                if raw.startswith(PACKED) and not is_whole_later:
                    fault = error
    if fault:
        raise fault


def _padded(digits: bytes, at: int) -> bool:
    return (len(digits) - at) % 4 > 1


def _readable_utf16(block: bytes) -> Iterator[tuple[int, int, str]]:
    """Places of Latin text in two bytes a letter, in either order and from either byte."""
    if len(block) < 2 * _LEAST_BYTES:
        return
    for latin, encoding in ((_LATIN, "utf-16-le"), (_LATIN_SWAPPED, "utf-16-be")):
        for first in (0, 1):
            codes = np.frombuffer(block, "<u2", count=(len(block) - first) // 2, offset=first)
            for start, stop in _runs(latin.take(codes)):
                yield first + 2 * start, first + 2 * stop, encoding


def _readable(block: bytes) -> Iterator[tuple[int, int]]:
    """Places of printable UTF-8 that is long enough to be a phrase; weights hold next to none."""
    codes = np.frombuffer(block, np.uint8)
    opens, follows = (codes >= 0xC2) & (codes < 0xF5), (codes & 0xC0) == 0x80
    good = _ASCII[codes]
    good |= opens & np.append(follows[1:], True)
    good |= follows & np.append(True, (opens | follows)[:-1])
    yield from _runs(good)


def _runs(good: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Ranges in which enough are good in a row; eight at once show that of weights few are."""
    eights = good[: len(good) // 8 * 8].view(np.uint64)
    if not (eights == 0x0101010101010101).any():
        return
    edges = np.concatenate([[-1], np.flatnonzero(~good), [len(good)]])
    for at in np.flatnonzero(np.diff(edges) > _LEAST_BYTES):
        yield int(edges[at]) + 1, int(edges[at + 1])
