"""What was deleted from a SQLite file and is still in it: free pages, and free places of the others."""

import io
import struct
from collections.abc import Iterator
from typing import Any

_HEADER_BYTES = 100
_LEAVES, _INNER = {0x0A, 0x0D}, {0x02, 0x05}
"""Kinds of pages of a tree, and the length of their own headers: 8 bytes, and 12."""


def deleted_bytes(stream: Any) -> io.BufferedReader:
    """The bytes that no row or index holds, page after page; empty where they were overwritten with zeros.

    File format: https://www.sqlite.org/fileformat2.html. Raises EOFError where the file is cut short.
    """
    stream.seek(0)
    head = stream.read(_HEADER_BYTES)
    (size,) = struct.unpack(">H", head[16:18])
    (trunk,) = struct.unpack(">I", head[32:36])
    page_bytes = 2**16 if size == 1 else size
    free = _free_pages(stream, trunk, page_bytes)
    parts = [_page(stream, number, page_bytes) for number in sorted(free)]
    number = 1
    stream.seek(0)
    while page := stream.read(page_bytes):
        if number not in free:
            parts += _free_places(page, _HEADER_BYTES if number == 1 else 0)
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
    """What is between the list of cells and the first of them, and the free blocks between cells."""
    if len(page) < at + 12 or page[at] not in _LEAVES | _INNER:
        return
    block, cells, content = struct.unpack(">HHH", page[at + 1 : at + 7])
    yield page[at + (8 if page[at] in _LEAVES else 12) + 2 * cells : content or 2**16]
    seen = set[int]()
    while at < block <= len(page) - 4 and block not in seen:
        seen.add(block)
        following, size = struct.unpack(">HH", page[block : block + 4])
        yield page[block + 4 : block + size]
        block = following
