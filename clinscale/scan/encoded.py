"""Bytes that are written in digits: hexadecimal, base32, base64, and base85 in its three alphabets."""

import base64
import html
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clinscale.scan.opened import begins_packed, looks_packed

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{20,}(?:(?:\\[nr]|\s){1,4}[A-Za-z0-9+/_-]{4,})*={0,2}")
_BREAKS = re.compile(rb"\\[nr]|\s")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]+")
_BASE32 = re.compile(rb"[A-Z2-7]{24,}|[a-z2-7]{24,}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LEAST_DIGITS = 30
"""Least number of digits of base 85 in a row; in a text many words and lists of numbers are as good."""
_BASE85 = {
    "base85": _LETTERS + b"!#$%&()*+-;<=>?@^_`{|}~",
    "z85": _LETTERS[:10] + _LETTERS[36:] + _LETTERS[10:36] + b".-:+=^!/*?&<>()[]{}@%$#",
    "ascii85": bytes(range(33, 118)),
}
_VALUES = {
    name: bytes(digits.index(code) if code in digits else 255 for code in range(256))
    for name, digits in _BASE85.items()
}
_RUNS = {
    name: re.compile(rb"[%s]{%d,}(?:\s{1,4}[%s]{4,})*" % (signs, _LEAST_DIGITS, signs))
    for name, digits in _BASE85.items()
    for signs in [re.escape(digits) + (b"yz" if name == "ascii85" else b"")]
}
"""Runs of digits; of the last alphabet with its short forms of zeros and blanks."""
_GROUP = 5
_WEIGHTS = 85 ** np.arange(_GROUP - 1, -1, -1, dtype=np.uint64)
_LEAST_GROUPS, _LONG_BYTES = 5, 256
"""Groups of digits that make a stretch, and bytes that are looked into whatever they are."""
_HIGHEST = bytes([84])
_OF_LISTS, _MOST_OF_LISTS = (b'"', b",", b":"), 0.15
"""Signs of JSON without blanks, and the largest share of them in ASCII85."""
_ESCAPED = re.compile(rb"\\(.)")
_ENTITY = re.compile(rb"&(?:lt|gt|amp|quot|#\d+);")
_TEXT = re.compile(rb"(?:[\t\n\r -~]\0?|\0[\t\n\r -~]|[\xc2-\xf4][\x80-\xbf]){15}")


class Written(NamedTuple):
    """A run of digits."""

    start: int
    stop: int
    raws: list[bytes]
    """What they may be: they are read from each place at which a block may have cut them."""
    is_sealed: bool = False
    """Whether they are as even as something encrypted, from whichever place they are read."""


def written_in_digits(text: bytes) -> Iterator[Written]:
    """Yield all runs of digits in a text that may be bytes."""
    for run in _BASE64.finditer(text):
        raws = list(_of_base64(_BREAKS.sub(b"", run[0]).rstrip(b"=")))
        is_sealed = all(map(looks_packed, raws)) and not any(map(begins_packed, raws))
        yield Written(*run.span(), raws, is_sealed)
    for name, run_of in _RUNS.items():
        for run in run_of.finditer(text):
            is_list = name == "ascii85" and sum(map(run[0].count, _OF_LISTS)) > _MOST_OF_LISTS * len(run[0])
            if is_list or _BASE64.fullmatch(run[0]):
                continue
            if raws := [raw for raw in _of_base85(run[0], name) if _is_worth_it(raw)]:
                yield Written(*run.span(), raws)


def _of_base64(digits: bytes) -> Iterator[bytes]:
    if _HEXADECIMAL.fullmatch(digits):
        yield from (bytes.fromhex(digits[at : at + (len(digits) - at) // 2 * 2].decode()) for at in (0, 1))
        return
    if _BASE32.fullmatch(digits):
        for part in (digits[at:] for at in range(8)):
            length = len(part) - (len(part) % 8 in (1, 3, 6))
            yield base64.b32decode(part[:length] + b"=" * (-length % 8), casefold=True)
    digits = digits.translate(_URL_SAFE)
    for part in (digits[at:] for at in range(4)):
        whole = len(part) // 4 * 4
        tail = part[whole:].ljust(4, b"=") if len(part) - whole > 1 else b""
        yield base64.b64decode(part[:whole] + tail)


def _of_base85(run: bytes, name: str) -> Iterator[bytes]:
    """Bytes of each stretch of groups that are numbers of 32 bits, as all are that were written so."""
    for digits in _spellings(run):
        if name == "ascii85":
            digits = digits.replace(b"z", b"!!!!!").replace(b"y", b"+<VdL")
        values = digits.translate(_VALUES[name])
        for at in range(_GROUP):
            missing = -(len(values) - at) % _GROUP
            filled = np.frombuffer(values[at:] + _HIGHEST * missing, np.uint8)
            groups = filled.reshape(-1, _GROUP) @ _WEIGHTS
            edges = np.concatenate([[-1], np.flatnonzero(groups >= 2**32), [len(groups)]])
            for edge in np.flatnonzero(np.diff(edges) > _LEAST_GROUPS):
                raw = groups[edges[edge] + 1 : edges[edge + 1]].astype(">u4").tobytes()
                yield raw[: len(raw) - missing] if edges[edge + 1] == len(groups) else raw


def _spellings(run: bytes) -> set[bytes]:
    """Digits without breaks: as they are, and as JSON or HTML has written some of them."""
    spellings = {b"".join(run.split())}
    if b"\\" in run:
        spellings.add(_ESCAPED.sub(rb"\1", _BREAKS.sub(b"", run)))
    if _ENTITY.search(run):
        spellings.add(html.unescape(b"".join(run.split()).decode("latin-1")).encode("latin-1", errors="replace"))
    return spellings


def _is_worth_it(raw: bytes) -> bool:
    """Whether bytes of digits that may be chance are looked into: text, a compressed file, or many."""
    return len(raw) >= _LONG_BYTES or bool(_TEXT.search(raw)) or begins_packed(raw)
