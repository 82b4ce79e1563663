"""Files with holes: what takes no room on the disk is zeros, and 10 TB of them are not read."""

import errno
import io
import os
from collections.abc import Iterator
from typing import IO, Any

_BUFFER_BYTES = 2**20
MOST_HOLE_BYTES = 2**30
"""Zeros in holes of a file that are read as any others: what has more is read where it holds data."""


def has_long_holes(found: os.stat_result) -> bool:
    """Whether a file takes so much less room than its size says; one that its file system has compressed does, too."""
    return found.st_size - 512 * found.st_blocks > MOST_HOLE_BYTES


def parts_with_data(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield where each part of a file that holds data begins, and the part as a file; most files are one part."""
    found = os.fstat(file.fileno())
    if has_long_holes(found):
        extents = [*_extents(file.fileno(), found.st_size)]
        file.seek(0)
        if found.st_size - sum(stop - start for start, stop in extents) > MOST_HOLE_BYTES:
            for start, stop in extents:
                yield start, io.BufferedReader(_Extent(file, start, stop), _BUFFER_BYTES)
            return
    yield 0, file


def _extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges that are no holes; all of a file whose system does not tell."""
    at = 0
    while at < size_bytes:
        start, stop = at, size_bytes
        if hasattr(os, "SEEK_DATA"):
            try:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
                stop = min(size_bytes, os.lseek(descriptor, start, os.SEEK_HOLE))
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole to the end
                    return
                if error.errno != errno.EINVAL:  # it tells nothing
                    raise
        yield start, stop
        at = stop


class _Extent(io.RawIOBase):
    """A range of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, stop: int) -> None:
        self._file, self._start, self._stop, self._at = file, start, stop, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._stop}[whence]
        self._at = max(self._start, origin + offset)
        return self._at - self._start

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._at)
        block = self._file.read(max(0, min(len(buffer), self._stop - self._at)))
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)
