"""Parts of files that are of no known form: neither text, nor numbers, nor a format that holds nothing else."""

import itertools
import json
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clinscale.scan.windows import Marks

MOST_UNKNOWN_BYTES = 64
"""Bytes of no known form that a file may hold: lengths, flags and names too short to be read."""

_WINDOW = 64
_MOST_OF_WINDOW = 0.5
"""Bytes that are judged at once, and the share of them that is text where what is between counts as its frame."""
_LOW, _HIGH = {2: 0x33, 4: 0x33, 8: 0x3D}, {2: 0x44, 4: 0x44, 8: 0x41}
"""Exponents of numbers between a billionth and some thousands, by width; those of 16 bits are of bfloat16."""
_MOSTLY = 0.9
"""Least share of the numbers of a stretch with such an exponent, or that are zero."""
_FLOAT_WINDOW = 256
_SAFETENSORS = re.compile(rb"(?s).{8}\{\s*\"")
_MOST_HEADER_BYTES = 100_000_000
_OPAQUE = {"U8", "I8"}
"""Types of tensors that can hold any file, byte by byte."""
_KINDS = {f"{kind}{8 * width}": f"<{kind.lower()}{width}" for kind in "IU" for width in (2, 4, 8)}
_KINDS |= {"F32": "<f4", "F64": "<f8"}
_NUMPY_KINDS = {kind[1:] for kind in _KINDS.values()}
_OF_TORCH = {"Short": "<i2", "Int": "<i4", "Long": "<i8", "Float": "<f4", "Double": "<f8"}
"""Types of tensors that can be token ids, and how NumPy writes them."""
_OF_BYTES = {f"torch {kind}Storage" for kind in ("Byte", "Char", "Untyped", "QUInt8", "QInt8")}
_WHOLE = {"I16": "<i2", "I32": "<i4", "I64": "<i8"}
_EXPONENTS = {"F32": ("<u4", 23), "BF16": ("<u2", 7)}
_SMALLEST, _LARGEST, _NO_NUMBER, _FEW = 127 - 64, 127 + 32, 254, 16
"""Exponents of weights, that of masks, and the least number of floats that are judged."""
_SAMPLE_BYTES = 2**20
LEAST_NEGATIVE = 0.15
"""Share of negative ones among whole numbers in a row that are differences: of ids, most likely."""
_NUMPY, _PICKLE = b"\x93NUMPY", re.compile(rb"\x80[\2-\5]")
_PROGRAMS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"MZ", b"wOFF", b"wOF2", b"\0\1\0\0\0", b"OTTO")
"""Beginnings of programs and fonts."""


class Opaque(NamedTuple):
    """Bytes in a file that may be of any form, of which its own form says nothing; or numbers, which may be ids."""

    name: str
    start: int
    stop: int
    numbers: str = ""
    """NumPy's name of their type, if it is known that they are numbers; else empty."""


def is_known(begin: bytes) -> bool:
    """Whether a file begins as one whose binary parts are numbers or a program, by its own form."""
    return (
        bool(_SAFETENSORS.match(begin) and int.from_bytes(begin[:8], "little") < _MOST_HEADER_BYTES)
        or bool(_PICKLE.match(begin))
        or begin.startswith((_NUMPY, *_PROGRAMS))
        or _is_bytecode(begin)
    )


def opaque_parts(stream: Any) -> list[Opaque]:
    """Parts of a file of arrays or a pickle that are of any form: bytes, numbers, and what follows the end.

    Empty for other files. The stream is where it was. Raises ValueError where a header is damaged.
    """
    start = stream.tell()
    try:
        begin = stream.read(10)
        if _SAFETENSORS.match(begin):
            length = int.from_bytes(begin[:8], "little")
            stream.seek(start + 8)
            return _of_safetensors(json.loads(stream.read(length)), start + 8 + length, stream)
        if begin.startswith(_NUMPY):
            stream.seek(start)
            return _of_numpy(stream)
        return _of_pickle(stream, start) if _PICKLE.match(begin) else []
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("damaged header") from error
    finally:
        stream.seek(start)


def numbers_of_torch(archive: zipfile.ZipFile) -> dict[str, str]:
    """Places, from 1, of the entries of a torch file that are numbers of more than a byte; empty for others.

    Each is with how NumPy writes the numbers, empty for those that cannot be token ids.

    Raises ValueError or a fault of zipfile where the entry that names them is damaged.
    """
    names = archive.namelist()
    index = next((name for name in names if name.endswith("/data.pkl")), None)
    if index is None or archive.getinfo(index).file_size > _MOST_HEADER_BYTES:
        return {}
    with archive.open(index) as entry:
        entry._expected_crc = None  # type: ignore[attr-defined]  # torch writes none
        kinds = dict(_kinds_of_numbers(entry.read()))
    folder = index.removesuffix(".pkl")
    keys = ((str(at), name.removeprefix(f"{folder}/")) for at, name in enumerate(names, 1))
    return {place: kinds[key] for place, key in keys if key in kinds}


def _kinds_of_numbers(pickled: bytes) -> Iterator[tuple[str, str]]:
    """Names and kinds of the storages in a pickle of torch.

    Their class is before each, whole or by its place in the memo.
    """
    memo: dict[int, str] = {}
    kind = named = ""
    for code, value, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL" and str(value).startswith("torch ") and str(value).endswith("Storage"):
            kind = named = str(value)
        elif code.name in {"BINPUT", "LONG_BINPUT"} and isinstance(value, int):
            if named:
                memo[value] = named
            named = ""
        elif code.name in {"BINGET", "LONG_BINGET"} and isinstance(value, int):
            kind = memo.get(value, kind)
        elif code.name == "BINUNICODE" and kind:
            if kind not in _OF_BYTES:
                yield str(value), _OF_TORCH.get(kind.removeprefix("torch ").removesuffix("Storage"), "")
            kind = ""


def unknown_bytes(block: bytes, texts: list[tuple[int, int]]) -> int:
    """Number of bytes of a block that are no text, no float and no filling.

    Args:
        block: of any file.
        texts: ranges of it that were read as text.
    """
    raw = np.frombuffer(block, np.uint8)
    is_text = np.zeros(len(raw) + -len(raw) % _WINDOW, bool)
    for start, stop in texts:
        is_text[start:stop] = True
    is_text |= np.repeat(is_text.reshape(-1, _WINDOW).mean(axis=1) >= _MOST_OF_WINDOW, _WINDOW)
    other = ~is_text[: len(raw)] & (raw != 0) & (raw != 0xFF)
    if np.count_nonzero(other) <= MOST_UNKNOWN_BYTES:
        return int(np.count_nonzero(other))
    return int(np.count_nonzero(other & ~_of_floats(raw)))


def _of_floats(raw: npt.NDArray[np.uint8]) -> Marks:
    """Bytes in windows that are floats of any width from any byte."""
    filled = np.pad(raw, (0, -len(raw) % _FLOAT_WINDOW), mode="edge")
    known = np.zeros(len(filled) // _FLOAT_WINDOW, bool)
    for width, low in _LOW.items():
        for phase in range(width):
            exponent = filled[phase::width].reshape(-1, _FLOAT_WINDOW // width)
            size = exponent & 0x7F
            is_usual = (size >= low) & (size <= _HIGH[width]) | (exponent == 0)
            known |= (is_usual.mean(axis=1) >= _MOSTLY) & (exponent != 0).any(axis=1)
    return np.repeat(known, _FLOAT_WINDOW)[: len(raw)]


def _is_bytecode(begin: bytes) -> bool:
    return begin[2:4] == b"\r\n" and begin[4:8] in {bytes([flags, 0, 0, 0]) for flags in range(4)}


def _of_safetensors(header: dict[str, Any], data_start: int, stream: Any) -> list[Opaque]:
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    found = [
        Opaque(f"tensor {number}", *(data_start + at for at in tensor["data_offsets"]))
        for number, tensor in enumerate(tensors, 1)
        if tensor["dtype"] in _OPAQUE or _is_odd(tensor, data_start, stream)
    ]
    for tensor in tensors:
        if tensor["dtype"] in _KINDS:
            start, stop = tensor["data_offsets"]
            found.append(Opaque("", data_start + start, data_start + stop, _KINDS[tensor["dtype"]]))
    last = max((one["data_offsets"][1] for one in tensors), default=0)
    return found + _behind(data_start + last, stream)


def _of_numpy(stream: Any) -> list[Opaque]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        return []  # a pickle follows
    start = stream.tell()
    stop = start + math.prod(shape) * dtype.itemsize
    is_opaque = dtype.kind in "USV" or (dtype.itemsize == 1 and dtype.kind in "iu")
    bytes_of = [Opaque("array", start, stop)] if is_opaque else []
    numbers = [Opaque("", start, stop, dtype.str)] if dtype.str[1:] in _NUMPY_KINDS else []
    return bytes_of + numbers + _behind(stop, stream)


def _is_odd(tensor: dict[str, Any], data_start: int, stream: Any) -> bool:
    """Whether whole numbers are negative now and then, as no ids are, or floats of sizes that no weights have."""
    kind, (start, stop) = tensor["dtype"], tensor["data_offsets"]
    if kind not in _WHOLE and kind not in _EXPONENTS:
        return False
    stream.seek(data_start + start)
    raw = stream.read(max(0, min(stop - start, _SAMPLE_BYTES)))
    if kind in _WHOLE:
        values = np.frombuffer(raw, _WHOLE[kind])
        return bool(len(values) and (values < 0).mean() >= LEAST_NEGATIVE)
    width, low_bits = _EXPONENTS[kind]
    values = np.frombuffer(raw, width)
    exponents = (values[values != 0] >> low_bits) & 0xFF
    is_usual = (exponents >= _SMALLEST) & (exponents <= _LARGEST) | (exponents >= _NO_NUMBER)
    return len(exponents) >= _FEW and bool(is_usual.mean() < _MOSTLY)


def _of_pickle(stream: Any, start: int) -> list[Opaque]:
    stream.seek(start)
    found = []
    codes = itertools.pairwise(pickletools.genops(stream))
    for (_, value, at), (_, _, following) in codes:
        if isinstance(value, bytes | bytearray) and len(value) > MOST_UNKNOWN_BYTES and following:
            found.append(Opaque(f"bytes at {at}", start + following - len(value), start + following))
    return found + _behind(stream.tell(), stream)


def _behind(stop: int, stream: Any) -> list[Opaque]:
    size = stream.seek(0, 2)
    return [Opaque("behind the last array", stop, size)] if size > stop else []
