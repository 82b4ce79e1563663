"""Encodings of text files: what a file is written in, and what it holds in place of text."""

import codecs
import re
from pathlib import Path

from clinscale.errors import DataError

LFS_POINTER = b"version https://git-lfs"
"""First bytes of the pointer that Git LFS leaves in place of a file which it has not fetched."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins with the mark of UTF-16, so it is looked for first
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

_NO_TEXT = {
    b"PK\x03\x04": "a workbook or ZIP archive, which is named .xlsx or unpacked",
    b"\x1f\x8b": "gzip, which is named .gz",
    b"BZh": "bzip2, which is unpacked, or packed as .gz",
    b"\xfd7zXZ": "xz, which is unpacked, or packed as .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard, which is unpacked, or packed as .gz",
    b"7z\xbc\xaf\x27\x1c": "7-Zip, which is unpacked, or packed as .gz",
    b"PAR1": "Parquet, which is named .parquet",
    b"ARROW1": "Arrow or Feather, which is named .arrow or .feather",
    b"%PDF-": "a PDF, whose text is extracted first",
    b"\xd0\xcf\x11\xe0": "an old Office file, which is saved anew as .xlsx or text",
    rb"{\rtf": "RTF, which is converted into plain text first",
    b"<!DOCTYPE html": "a web page, whose text is extracted first",
    b"<html": "a web page, whose text is extracted first",
    LFS_POINTER: "a pointer of Git LFS, whose file comes by git lfs pull",
}
"""First bytes of files that hold no text, or not their own."""

_CONTROLS = bytes({*range(1, 32)} - {*b"\t\n\v\f\r\x1b"})
"""Control characters that no text is made of. Zeros are counted elsewhere: they pad text, and are half of UTF-16."""

_LATIN = ("iso8859-1", "iso8859-15")

_ONLY_WINDOWS = re.compile(rb"[\x80-\x9f]")

_CONTINUING = bytes(range(0x80, 0xC0))
"""Bytes with which a letter of UTF-8 goes on, as where a block begins within one."""


def decode(raw: bytes, uri: str | Path, *, encoding: str = "utf-8") -> str:
    """The whole of a file as text without its byte-order mark.

    Raises:
        DataError: names the byte of the file that is not valid in `encoding`.
    """
    codec, mark_bytes = codec_of(raw[:4096], uri, encoding)
    refuse_windows(raw, uri, codec)
    try:
        return raw[mark_bytes:].decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(not_valid(uri, codec, mark_bytes + error.start)) from None


def codec_of(head: bytes, uri: str | Path, encoding: str) -> tuple[str, int]:
    """The encoding of a file that begins with `head`, and the length of its byte-order mark in bytes.

    A mark says more than `encoding`, as in the WHATWG's encoding standard: what Excel calls "Unicode text" is UTF-16.

    Raises:
        DataError: it is of a format that is no text, or UTF-16 without a mark, which reads as UTF-8 or Latin-1 with a
            NUL between the letters, and by its own name in one of two ways.
    """
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:20].lower()  # HTML has no case, and may have blanks in front
    for beginning, what in _NO_TEXT.items():
        if head.startswith(beginning) or (beginning[:1] == b"<" and page.startswith(beginning.lower())):
            raise DataError(f"{uri} must be text, but begins like {what}")
    if head[257:262] == b"ustar":
        raise DataError(f"{uri} must be text, but begins like a TAR archive, which is unpacked first")
    for mark, codec in _MARKS.items():
        if head.startswith(mark):
            return codec, len(mark)
    codec = codecs.lookup(encoding).name
    if "a".encode(codec) == b"a" and 16 * (len(head) - len(head.translate(None, _CONTROLS))) > len(head) > 64:
        raise DataError(
            f"{uri} must be text, but begins with bytes of which many are none; is it of another format?"
        )
    if codec in ("utf-16", "utf-32") and head:
        raise DataError(
            f"{uri} has no byte-order mark; set encoding: {codec}-le, or {codec}-be where that is wrong"
        )
    if b"\0" in head and "a".encode(codec) == b"a":
        for zeros, letters, order in ((head[1::2], head[::2], "le"), (head[::2], head[1::2], "be")):
            if len(zeros) > 3 and zeros.count(0) > len(zeros) / 2 and letters.count(0) < len(letters) / 8:
                raise DataError(
                    f"{uri} is not valid {encoding.upper()}: it looks like UTF-16 without a byte-order mark; "
                    f"set encoding: utf-16-{order}"
                )
    return codec, 0


def refuse_windows(block: bytes, uri: str | Path, codec: str, *, start: int = 0) -> None:
    """DataError where Latin-1 has no letter for a byte, but Windows has: quotation marks and dashes, as in `patient's`.

    And where either was said to be the encoding, but letters are in UTF-8: each would be read as two others.

    Args:
        block: of the file.
        uri: of the file.
        codec: as `codec_of` gives it.
        start: position of the block in the file.
    """
    if codec in (*_LATIN, "cp1252") and _is_utf8(block):
        raise DataError(
            f"{uri} is UTF-8 and not {codec.upper()}, in which it would be other letters; set encoding: utf-8"
        )
    if codec in _LATIN and (found := _ONLY_WINDOWS.search(block)):
        raise DataError(
            f"{uri} is not Latin-1 at byte {start + found.start()}, where Windows has a letter; set encoding: cp1252"
        )


def _is_utf8(block: bytes) -> bool:
    """Whether part of a file has letters beyond ASCII, two or more, and all of them are UTF-8's."""
    if block.isascii():
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(block.lstrip(_CONTINUING))
    except UnicodeDecodeError:
        return False
    return len(text) - len(text.encode("ascii", "ignore")) > 1


def not_valid(uri: str | Path, codec: str, byte: int) -> str:
    """The message about a file with a byte that is not valid in its encoding."""
    return (
        f"{uri} is not valid {codec.upper()} at byte {byte}; set encoding: to what it was written in (latin-1 and "
        "cp1252 are common; --encoding where a verb has it), or convert it: iconv -f LATIN1 -t UTF-8"
    )
