"""Contents of files, layer by layer: archives, compressed streams, tables; damaged and sealed ones are reported."""

import bz2
import functools
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

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
    struct.error,
)
"""Exceptions of reading a damaged file or, NotImplementedError, one of a format that is not opened."""

DEEPEST = 16
"""Layers of archives and compression that are opened; more of them are no accident."""

_ZIP = b"PK\x03\x04"
_TAR, _TAR_AT = b"ustar", 257
_SEALED = (b"7z\xbc\xaf", b"%PDF", b"Rar!", b"\xd0\xcf\x11\xe0")
"""7z, PDF, RAR and old Office files hold text compressed or encrypted, and are not opened here."""
_LZMA, _ZLIB = b"\x5d\x00\x00", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_ARROW_STREAM = b"\xff\xff\xff\xff"


def open_layers(stream: Any, inside: str = "", depth: int = 0) -> Iterator[tuple[str, IO[bytes]]]:
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
    if head.startswith(_SEALED):
        raise NotImplementedError
    if head.startswith(_ZIP):
        yield from _of_zip(stream, inside, depth)
    elif begin[_TAR_AT:].startswith(_TAR):
        yield from _of_tar(stream, inside, depth)
    elif head.startswith((b"PAR1", b"ARROW1")) or (head.startswith(_ARROW_STREAM) and _is_arrow(stream)):
        yield f"{inside} rows".strip(), io.BufferedReader(_Rows(_batches(stream, head)))
    elif opener := _opener(stream, head):
        with opener(stream) as inner:
            yield from open_layers(inner, inside or "decompressed", depth + 1)
    else:
        yield inside, stream


def _of_zip(stream: Any, inside: str, depth: int) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:

        def opened(member: zipfile.ZipInfo) -> IO[bytes]:
            if member.flag_bits & 1:
                raise NotImplementedError  # encrypted
            inner = archive.open(member)
            inner._expected_crc = None  # type: ignore[attr-defined]  # torch writes none, and damage is reported
            return inner

        yield from _of_entries((functools.partial(opened, one) for one in archive.infolist()), inside, depth)


def _of_tar(stream: Any, inside: str, depth: int) -> Iterator[tuple[str, IO[bytes]]]:
    names = []
    with tarfile.open(fileobj=stream, mode="r:") as archive:

        def members() -> Iterator[Callable[[], Any]]:
            for member in archive:
                names.extend([member.name, member.linkname, *member.pax_headers.values()])
                if member.isfile():
                    yield functools.partial(archive.extractfile, member)

        yield from _of_entries(members(), inside, depth)
    yield f"{inside} names".strip(), io.BufferedReader(io.BytesIO("\n".join(names).encode(errors="replace")))


def _of_entries(
    entries: Iterable[Callable[[], IO[bytes]]], inside: str, depth: int
) -> Iterator[tuple[str, IO[bytes]]]:
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
    strong: dict[bytes, Callable[[Any], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ": lzma.open,
        b"\x28\xb5\x2f\xfd": lambda raw: _by_arrow(raw, "zstd"),
        b"\x04\x22\x4d\x18": lambda raw: _by_arrow(raw, "lz4"),
    }
    for magic, opener in strong.items():
        if head.startswith(magic):
            return opener
    if head.startswith(_LZMA) and _begins(lzma.open, stream):
        return lzma.open
    if head.startswith(_ZLIB) and _begins(_inflated, stream):
        return _inflated
    return None


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


class _Inflated(io.RawIOBase):
    def __init__(self, stream: Any) -> None:
        self._stream, self._inflate = stream, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            raw = self._inflate.unconsumed_tail or self._stream.read(2**16)
            if found := self._inflate.decompress(raw, len(buffer)):
                buffer[: len(found)] = found
                return len(found)
            if not raw and not self._inflate.eof:
                raise EOFError
        return 0


def _inflated(stream: Any) -> Any:
    return io.BufferedReader(_Inflated(stream))


def _is_arrow(stream: Any) -> bool:
    return _begins(_schema, stream)


def _schema(stream: Any) -> Any:
    import pyarrow

    return io.BytesIO(pyarrow.ipc.open_stream(pyarrow.PythonFile(stream, "r")).schema.serialize().to_pybytes())


def _batches(stream: Any, head: bytes) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.PythonFile(stream if stream.seekable() else io.BytesIO(stream.read()), "r")
    try:
        if head.startswith(b"PAR1"):
            yield from pyarrow.parquet.ParquetFile(file).iter_batches(4096)
        elif head.startswith(b"ARROW1"):
            reader = pyarrow.ipc.open_file(file)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from pyarrow.ipc.open_stream(file)
    except (pyarrow.ArrowException, OSError):
        raise NotImplementedError from None


class _Rows(io.RawIOBase):
    """A table as JSON lines, read as bytes; bytes in it are as they are."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches, self._left = batches, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            batch = next(self._batches, None)
            if batch is None:
                return 0
            rows = (json.dumps(row, ensure_ascii=False, default=_as_text) for row in batch.to_pylist())
            self._left = "".join(f"{row}\n" for row in rows).encode(errors="replace")
        found, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(found)] = found
        return len(found)


def _as_text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
