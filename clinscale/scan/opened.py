"""Contents of files, layer by layer: archives, compressed streams, tables; damaged and sealed ones are reported."""

import bz2
import functools
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from clinscale.scan.deleted import deleted_bytes
from clinscale.scan.forms import is_known, numbers_of_torch, opaque_parts
from clinscale.scan.pictures import PNG, as_file, read_png
from clinscale.scan.tables import arrow_rows, arrow_schema, as_stream, sqlite_rows

FAULTS = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,
    RuntimeError,  # NotImplementedError, RecursionError and zipfile's for a password among them
    ValueError,  # pyarrow's among them
    OverflowError,
    MemoryError,  # a length that a damaged file states
    struct.error,
)
"""Exceptions of reading a damaged file or, NotImplementedError, one of a format that is not opened."""

DEEPEST = 16
"""Layers of archives and compression that are opened; more of them are no accident."""

_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
_TAR, _TAR_AT = b"ustar", 257
_SEALED = (
    *(b"%PDF", b"\xd0\xcf\x11\xe0", b"$FL2", b"$FL3"),  # documents, old Office files, SPSS
    *(b"7z\xbc\xaf", b"Rar!", b"MSCF", b"xar!", b"LZIP", b"\x89LZO", b"\x1f\x9d", b"\xff\x06\0\0sNaPpY"),
    *(b"\x89HDF\r\n", b"Obj\x01", b"ORC", b"FEA1"),  # HDF5, Avro, ORC, Feather of old
    *(b"age-encryption.org/", b"-----BEGIN PGP MESSAGE", b"-----BEGIN AGE", b"Salted__", b"LUKS\xba\xbe"),
    *(b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"),  # pages beside a SQLite file
)
"""Beginnings of formats with text compressed or encrypted that are not opened; what is plain in them is read."""
_DUCKDB, _LMDB = b"DUCK", b"\xde\xc0\xef\xbe"
_LEAST_BSON_BYTES, _MOST_BSON_BYTES = 8, 2**24
_BSON_KINDS = {bytes([kind]) for kind in (*range(0x01, 0x14), 0x7F, 0xFF)}
_LZMA, _ZLIB = b"\x5d\x00\x00", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_ARROW_STREAM = b"\xff\xff\xff\xff"
_SQLITE = b"SQLite format 3\0"
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b\x08": lambda raw: _unpacked(raw, lambda: zlib.decompressobj(31)),
    b"BZh": lambda raw: _unpacked(raw, bz2.BZ2Decompressor),
    b"\xfd7zXZ": lambda raw: _unpacked(raw, lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": lambda raw: _by_arrow(raw, "zstd"),
    b"\x04\x22\x4d\x18": lambda raw: _by_arrow(raw, "lz4"),
}
_TABLES = (b"PAR1", b"ARROW1", _SQLITE)
_SEEN = (PNG, b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"GIF8")
PACKED = (_ZIP, *_SEALED, *_COMPRESSED, *_TABLES, *_SEEN)
"""Beginnings that are no chance: where they cannot be read, something is not looked into."""
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"wOFF", b"wOF2")
"""Beginnings of pictures, and of fonts of pages: even, and no text."""

_SAMPLE_BYTES, _LEAST_SAMPLE_BYTES = 2**16, 2**12
_EVEN = 0.12
"""Sum of squares by which the frequencies of bytes differ from even ones, of compressed or encrypted data; the least
of weights is above 1, that of 4096 random bytes 0.06 on average."""

_MOST_OPAQUE_BYTES = 2**28

_LEAST_BLANKS, _FEW_SIGNS, _MOST_SIGNS = 32, 16, 110
_LONG_WORD, _LEAST_WORDS, _EVEN_LENGTHS = 24, 0.9, 0.15
"""Text of an unknown alphabet: least number of blanks, numbers of signs, length that words stay below, share of gaps
between blanks that are words, and share that the rarer of even and odd lengths has; arrays have one of them."""


class Layer(NamedTuple):
    """A stream of bytes within a file."""

    inside: str
    """Part of the file, if it is not the whole; else empty."""
    stream: IO[bytes]
    is_form_known: bool = False
    """Whether what is no text in it is of a known form, too."""
    numbers: str = ""
    """NumPy's name of the type of the numbers that it is; they are of another layer as well, and only judged here."""


def open_layers(stream: Any, inside: str = "", depth: int = 0) -> Iterator[Layer]:
    """The stream, or the streams in it where it is compressed; a fault of one part is raised when all others are done.

    Args:
        stream: that can be read and peeked into.
        inside: which part of a file it is.
        depth: layers around it.

    Raises:
        NotImplementedError: a format that is not opened, or more than `DEEPEST` layers. One of FAULTS: damage.
    """
    if depth > DEEPEST:
        raise NotImplementedError
    begin = stream.peek(_TAR_AT + len(_TAR))
    head = begin[:8]
    if begin.startswith(_SEALED) or _is_database(begin) or _is_tfrecord(begin) or _is_bson(begin):
        yield Layer(inside, stream)
        raise NotImplementedError
    if head.startswith(_ZIP):
        yield from _of_zip(stream, inside, depth)
    elif begin[_TAR_AT:].startswith(_TAR):
        yield from _of_tar(stream, inside, depth)
    elif head.startswith((b"PAR1", b"ARROW1")) or (head.startswith(_ARROW_STREAM) and _is_arrow(stream)):
        yield Layer(f"{inside} rows".strip(), as_stream(arrow_rows(stream, head)))
    elif begin.startswith(_SQLITE):
        yield Layer(inside, stream, is_form_known=True)  # what was deleted stays in its pages
        yield Layer(f"{inside} rows".strip(), as_stream(sqlite_rows(stream)))
        yield Layer(f"{inside} deleted".strip(), deleted_bytes(stream))
    elif begin.startswith(PNG):
        yield from _of_png(stream, inside, depth)
    elif opener := _opener(stream, head):
        with opener(stream) as inner:
            yield from open_layers(inner, inside or "decompressed", depth + 1)
    else:
        yield Layer(inside, stream, is_known(begin))
        if is_known(begin) and stream.seekable():
            stream.seek(0)
            yield from _of_opaque(stream, inside, depth)
        if not depth and zipfile.is_zipfile(stream):  # behind a program, or other bytes
            yield from _of_zip(stream, inside, depth)


def _of_opaque(stream: Any, inside: str, depth: int) -> Iterator[Layer]:
    """Numbers in an array file, and parts that are of any form, each as if it were a file; large ones are refused."""
    for name, start, stop, numbers in opaque_parts(stream):
        if numbers:
            for at in range(start, stop, _BLOCK_BYTES):
                stream.seek(at)
                yield Layer(inside, as_file(stream.read(min(_BLOCK_BYTES, stop - at))), numbers=numbers)
            continue
        if stop - start > _MOST_OPAQUE_BYTES:
            raise NotImplementedError
        stream.seek(start)
        yield from open_layers(as_file(stream.read(stop - start)), f"{inside} {name}".strip(), depth + 1)


def _of_png(stream: Any, inside: str, depth: int) -> Iterator[Layer]:
    """A picture's texts, pixels and what is beside them; one that is no chart may have words drawn in it."""
    picture = read_png(stream)
    yield Layer(f"{inside} texts".strip(), as_file(picture.texts))
    yield Layer(f"{inside} pixels".strip(), as_file(picture.pixels), is_form_known=True)
    yield from open_layers(as_file(picture.others), f"{inside} others".strip(), depth + 1)
    if not picture.is_chart:
        raise NotImplementedError


def looks_packed(block: bytes) -> bool:
    """Whether bytes are as even as those of compressed or encrypted data, and no picture."""
    sample = np.frombuffer(block, np.uint8, min(len(block), _SAMPLE_BYTES))
    if len(sample) < _LEAST_SAMPLE_BYTES or block.startswith(_PICTURES):
        return False
    shares = np.bincount(sample, minlength=256) / len(sample)
    return bool(256 * np.square(shares).sum() - 1 < _EVEN)


def looks_written(block: bytes) -> bool:
    """Whether bytes are as those of words: some signs of few, and one of them between words of usual lengths.

    So are those of any encoding of one byte a sign; numbers have more of them, or no such lengths.
    """
    sample = np.frombuffer(block, np.uint8, min(len(block), _SAMPLE_BYTES))
    counts = np.bincount(sample, minlength=256)
    blank, used = int(counts.argmax()), int(np.count_nonzero(counts > len(sample) // _SAMPLE_BYTES))
    lengths = np.diff(np.flatnonzero(sample == blank))
    if len(lengths) < _LEAST_BLANKS or not _FEW_SIGNS <= used <= _MOST_SIGNS:
        return False
    is_word = (lengths > 1) & (lengths < _LONG_WORD)
    return bool(is_word.mean() > _LEAST_WORDS and _EVEN_LENGTHS < (lengths % 2).mean() < 1 - _EVEN_LENGTHS)


def begins_packed(raw: bytes) -> bool:
    """Whether bytes begin as a compressed file, a table or a picture does."""
    if raw.startswith((*PACKED, *_PICTURES)):
        return True
    stream = io.BufferedReader(io.BytesIO(raw))
    return any(
        raw.startswith(magics) and _begins(opener, stream)
        for magics, opener in ((_LZMA, _of_lzma), (_ZLIB, _of_zlib))
    )


def may_be_archive(raw: bytes) -> bool:
    """Whether bytes may be an archive or a table that does not begin as one."""
    return raw[_TAR_AT:].startswith(_TAR) or _ZIP_END in raw or raw.startswith(_ARROW_STREAM) or _is_database(raw)


def _is_database(begin: bytes) -> bool:
    return begin[8:12] == _DUCKDB or begin[16:20] == _LMDB


def _of_zip(stream: Any, inside: str, depth: int) -> Iterator[Layer]:
    with zipfile.ZipFile(stream) as archive:

        def opened(member: zipfile.ZipInfo) -> IO[bytes]:
            if member.flag_bits & 1:
                raise NotImplementedError  # encrypted
            inner = archive.open(member)
            inner._expected_crc = None  # type: ignore[attr-defined]  # torch writes none, and damage is reported
            return inner

        try:
            numbers = numbers_of_torch(archive)
        except FAULTS:
            numbers = {}
        entries = (functools.partial(opened, one) for one in archive.infolist())
        for layer in _of_entries(entries, inside, depth):
            number = layer.inside.removeprefix(f"{inside} entry ".lstrip())
            yield layer._replace(is_form_known=True) if number in numbers else layer
        for place in (place for place, kind in numbers.items() if kind):
            with opened(archive.infolist()[int(place) - 1]) as inner:
                yield Layer(inside, inner, numbers=numbers[place])
        yield _of_names([*archive.namelist(), archive.comment.decode(errors="replace")], inside)


def _of_tar(stream: Any, inside: str, depth: int) -> Iterator[Layer]:
    names = []
    with tarfile.open(fileobj=stream, mode="r:") as archive:

        def members() -> Iterator[Callable[[], Any]]:
            for member in archive:
                names.extend([member.name, member.linkname, *member.pax_headers.values()])
                if member.isfile():
                    yield functools.partial(archive.extractfile, member)

        yield from _of_entries(members(), inside, depth)
    yield _of_names(names, inside)


def _of_names(names: list[str], inside: str) -> Layer:
    return Layer(f"{inside} names".strip(), as_file("\n".join(names).encode(errors="replace")))


def _of_entries(entries: Iterable[Callable[[], IO[bytes]]], inside: str, depth: int) -> Iterator[Layer]:
    fault: Exception | None = None
    for number, entry in enumerate(entries, 1):
        try:
            with entry() as inner:
                yield from open_layers(inner, f"{inside} entry {number}".strip(), depth + 1)
        except FAULTS as error:
            fault = fault or error
    if fault:
        raise fault


def _opener(stream: Any, head: bytes) -> Callable[[Any], Any] | None:
    for magic, opener in _COMPRESSED.items():
        if head.startswith(magic):
            return opener
    for magics, opener in ((_LZMA, _of_lzma), (_ZLIB, _of_zlib)):
        if head.startswith(magics) and _begins(opener, stream):
            return opener
    return None


def _of_lzma(stream: Any) -> Any:
    return _unpacked(stream, lzma.LZMADecompressor)


def _of_zlib(stream: Any) -> Any:
    return _unpacked(stream, zlib.decompressobj)


def _begins(opener: Callable[[Any], Any], stream: Any) -> bool:
    """Whether a stream whose beginning is common elsewhere, too, is compressed; reads a little, and goes back."""
    start = stream.tell()
    try:
        return bool(opener(stream).read(16))
    except FAULTS:
        return False
    finally:
        stream.seek(start)


def _by_arrow(stream: Any, codec: str) -> Any:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), codec))


_BLOCK_BYTES = 2**20
_STEP_BYTES = 2**12
"""Compressed bytes that are opened at once, so that a bomb of zeros is some megabytes."""


class _Unpacked(io.RawIOBase):
    """Compressed streams of one kind, one after another; what else follows is a fault, not the end."""

    def __init__(self, stream: Any, new: Callable[[], Any]) -> None:
        self._stream, self._new = stream, new
        self._start = stream.tell() if stream.seekable() else 0
        self._begin()

    def _begin(self) -> None:
        self._one, self._raw, self._left, self._at = self._new(), b"", memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Back by reading anew from the start."""
        if whence == io.SEEK_END:
            while self.read(_BLOCK_BYTES):
                pass
        target = offset + (0 if whence == io.SEEK_SET else self._at)
        if target < self._at:
            self._stream.seek(self._start)
            self._begin()
        while self._at < target and self.read(min(_BLOCK_BYTES, target - self._at)):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            raw, self._raw = self._raw or self._stream.read(_STEP_BYTES), b""
            if not raw:
                if self._one.eof:
                    return 0
                raise EOFError
            if self._one.eof:
                if not (raw := raw.lstrip(b"\0")):
                    continue  # filled up
                self._one = self._new()
            self._left = memoryview(self._one.decompress(raw))
            self._raw = self._one.unused_data
        found, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        self._at += len(found)
        buffer[: len(found)] = found
        return len(found)


def _unpacked(stream: Any, new: Callable[[], Any]) -> Any:
    return io.BufferedReader(_Unpacked(stream, new))


def _is_tfrecord(begin: bytes) -> bool:
    """Whether a file is of TensorFlow's records: their first length is followed by its CRC-32C."""
    crc = 2**32 - 1
    for byte in begin[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 2**32 - 1
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return any(begin[:8]) and begin[8:12] == masked.to_bytes(4, "little")


def _is_bson(begin: bytes) -> bool:
    """Whether a file begins as documents of MongoDB do: a length, the type of the first field, and its name."""
    length, kind, name = int.from_bytes(begin[:4], "little"), begin[4:5], begin[5:].partition(b"\0")
    return (
        _LEAST_BSON_BYTES <= length <= _MOST_BSON_BYTES
        and kind in _BSON_KINDS
        and name[0].isascii()
        and name[0].decode("latin-1").isprintable()
        and bool(name[0] and name[1])
        and begin[length - 1 : length] in {b"", b"\0"}
    )


def _is_arrow(stream: Any) -> bool:
    return _begins(arrow_schema, stream)
