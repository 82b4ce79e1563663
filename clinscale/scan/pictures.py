"""Contents of a PNG, those that nobody sees too: its texts, its pixels, and what is not of the picture."""

import io
import struct
import zlib
from typing import Any, NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES = 2**27
"""Size of a picture, and of all that is packed in it."""
_OF_IMAGE = {b"IHDR", b"PLTE", b"IEND", b"tRNS", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"bKGD", b"sBIT", b"tIME"}
_OURS = b"Software\0Matplotlib"
"""Text with which the library that draws our charts signs them."""


class Picture(NamedTuple):
    """The contents of a PNG."""

    texts: bytes
    pixels: bytes
    others: bytes
    """Chunks of other kinds, and what follows the last one."""
    is_chart: bool
    """Whether it was drawn from numbers; what is written in another picture is seen by nobody who reads bytes."""


def read_png(stream: Any) -> Picture:
    """The contents of a PNG; EOFError or zlib.error where it is damaged, NotImplementedError where it is too large.

    Chunks: https://www.w3.org/TR/png-3/.
    """
    raw = stream.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise NotImplementedError
    at, kind = len(PNG), b""
    texts, image, others, num_bytes = [], [], [], 0
    while kind != b"IEND":
        if at + 12 > len(raw):
            raise EOFError
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        chunk = raw[at + 8 : at + 8 + length]
        at += length + 12
        if kind in {b"tEXt", b"zTXt", b"iTXt"}:
            texts.append(_text(kind, chunk, _MOST_BYTES - num_bytes))
            num_bytes += len(texts[-1])
        elif kind == b"IDAT":
            image.append(chunk)
        elif kind not in _OF_IMAGE:
            others.append(chunk)
    is_chart = any(text.startswith(_OURS) for text in texts)
    return Picture(
        b"\n".join(texts), _unpacked(b"".join(image), _MOST_BYTES), b"".join([*others, raw[at:]]), is_chart
    )


def _text(kind: bytes, chunk: bytes, most_bytes: int) -> bytes:
    key, _, value = chunk.partition(b"\0")
    if kind == b"tEXt":
        return chunk
    if kind == b"zTXt":
        return key + b"\0" + _unpacked(value[1:], most_bytes)
    is_packed, fields = value[:1] == b"\1", value[2:].split(b"\0", 2)
    return b"\0".join([key, *fields[:-1], _unpacked(fields[-1], most_bytes) if is_packed else fields[-1]])


def _unpacked(raw: bytes, most_bytes: int) -> bytes:
    one = zlib.decompressobj()
    found = one.decompress(raw, max(1, most_bytes))
    if one.unconsumed_tail:
        raise NotImplementedError
    return found


def as_file(raw: bytes) -> io.BufferedReader:
    """Bytes as the content of a file."""
    return io.BufferedReader(io.BytesIO(raw))
