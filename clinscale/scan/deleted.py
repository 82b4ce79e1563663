"""Rows that were deleted from a SQLite file and are still in it: free pages, and free places of the others."""

import io
import struct
from collections.abc import Iterator
from typing import Any

_HEADER_BYTES = 100
_LEAF, _LEAF_HEADER_BYTES = 0x0D, 8
"""Kind of the pages that hold rows; those of indexes hold copies."""
_MOST_BYTES = 2**28
"""Size of free pages that are read."""
_LEAST_BYTES = 64
"""Bytes other than zero in a free place that is more than the places of rows of before."""


def deleted_bytes(stream: Any) -> io.BufferedReader:
    """The bytes that no row or index holds, page after page; empty where they were overwritten with zeros.

    File format: https://www.sqlite.org/fileformat2.html. Raises EOFError or struct.error where the
    file is damaged, NotImplementedError where more is free than is read.
    """
    stream.seek(0)
    head = stream.read(_HEADER_BYTES)
    (size,) = struct.unpack(">H", head[16:18])
    (trunk,) = struct.unpack(">I", head[32:36])
    page_bytes = 2**16 if size == 1 else size
    free = _free_pages(stream, trunk, page_bytes)
    if len(free) * page_bytes > _MOST_BYTES:
        raise NotImplementedError
    parts = [_page(stream, number, page_bytes) for number in sorted(free)]
    number = 1
    stream.seek(0)
    while page := stream.read(page_bytes):
        if number not in free:
            places = _free_places(page, _HEADER_BYTES if number == 1 else 0)
            parts += [place for place in places if len(place) - place.count(0) > _LEAST_BYTES]
        number += 1
    return io.BufferedReader(io.BytesIO(b"".join(part for part in parts if any(part))))


def _free_pages(stream: Any, trunk: int, page_bytes: int) -> set[int]:
    free: set[int] = set()
    while trunk and trunk not in free:
        page = _page(stream, trunk, page_bytes)
        following, count = struct.unpack(">II", page[:8])
        count = min(count, page_bytes // 4 - 2)
        free |= {trunk, *struct.unpack(f">{count}I", page[8 : 8 + 4 * count])}
        trunk = following
    return free


def _page(stream: Any, number: int, page_bytes: int) -> bytes:
    stream.seek((number - 1) * page_bytes)
    page: bytes = stream.read(page_bytes)
    if len(page) < page_bytes:
        raise EOFError
    return page


def _free_places(page: bytes, at: int) -> Iterator[bytes]:
    """Bytes between the list of cells and the first of them, and the free blocks between cells."""
    if len(page) < at + _LEAF_HEADER_BYTES or page[at] != _LEAF:
        return
    block, cells, content = struct.unpack(">HHH", page[at + 1 : at + 7])
    yield page[at + _LEAF_HEADER_BYTES + 2 * cells : content or 2**16]
    seen = set[int]()
    while at < block <= len(page) - 4 and block not in seen:
        seen.add(block)
        following, size = struct.unpack(">HH", page[block : block + 4])
        yield page[block + 4 : block + size]
        block = following
