"""The readable parts of files of any kind, block by block, so that memory does not grow with the file."""

import bz2
import gzip
import html
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

_BLOCK_BYTES = 2**20
_OVERLAP_BYTES = 2**13
"""Of neighbouring blocks: longer than any phrase."""
_LEAST_BYTES = 15
"""Of a readable part: eight words of one letter and what parts them."""

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_ZIP = b"PK\x03\x04"
_SEALED = (b"PAR1", b"(\xb5/\xfd", b"\x04\x22\x4d\x18", b"7z\xbc\xaf", b"%PDF")
"""Parquet, zstd, lz4, 7z and PDF hold text compressed, and are not opened here."""

FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)
"""What reading a damaged file raises, or, the last one, a file of a format that is not opened."""

_ASCII = np.array([32 <= code < 127 or code in b"\t\n\r" for code in range(256)])

_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrtbf])")
_MARKUP = re.compile(r"<[/!?a-zA-Z][^<>]{0,400}>")


class Piece(NamedTuple):
    """A readable part of a file."""

    inside: str
    """Of what is compressed, which part of the file; else empty."""
    offset: int
    """Of its first byte."""
    raw: bytes

    @property
    def text(self) -> str:
        """Decoded; a character that the edge of a block has cut is replaced."""
        return self.raw.decode(errors="replace")


def read_pieces(path: Path) -> Iterator[Piece]:
    """All readable parts of a file, gzip, bzip2, xz and zip opened; raises one of FAULTS where it cannot be read."""
    with path.open("rb") as file:
        for inside, stream in _opened(file, ""):
            yield from _pieces(inside, stream)


def plain(text: str) -> str:
    """`text` as its reader sees it, whether it stands in JSON, YAML, HTML or as it is: the same from all of them."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2] or "20", 16)), text)
    if "&" in text:
        text = html.unescape(text)
    return _MARKUP.sub(" ", text) if "<" in text else text


def _opened(stream: Any, inside: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The stream, or the streams in it where it is compressed."""
    head = stream.peek(8)[:8]
    if head.startswith(_SEALED):
        raise NotImplementedError
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            with opener(stream) as inner:
                yield from _opened(inner, inside or "decompressed")
            return
    if not head.startswith(_ZIP):
        yield inside, stream
        return
    with zipfile.ZipFile(stream) as archive:
        for number, member in enumerate(archive.infolist(), 1):
            if member.flag_bits & 1:
                raise NotImplementedError  # encrypted
            del member.CRC  # torch writes none, and damage is no matter here
            with archive.open(member) as inner:
                yield from _opened(inner, f"{inside} entry {number}".strip())


def _pieces(inside: str, stream: IO[bytes]) -> Iterator[Piece]:
    offset, tail = 0, b""
    while block := stream.read(_BLOCK_BYTES):
        joined = tail + block
        for start, stop in _readable(joined):
            yield Piece(inside, offset - len(tail) + start, joined[start:stop])
        offset += len(block)
        tail = joined[-_OVERLAP_BYTES:]


def _readable(block: bytes) -> Iterator[tuple[int, int]]:
    """Where printable UTF-8 stands, long enough to be a phrase; in weights that is nearly nowhere."""
    codes = np.frombuffer(block, np.uint8)
    opens, follows = (codes >= 0xC2) & (codes < 0xF5), (codes & 0xC0) == 0x80
    good = _ASCII[codes]
    good |= opens & np.append(follows[1:], True)
    good |= follows & np.append(True, (opens | follows)[:-1])
    edges = np.concatenate([[-1], np.flatnonzero(~good), [len(codes)]])
    for at in np.flatnonzero(np.diff(edges) > _LEAST_BYTES):
        yield int(edges[at]) + 1, int(edges[at + 1])
