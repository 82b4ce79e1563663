"""Bytes that are written in digits: hexadecimal, base32, base64, base85 in its three alphabets, and uuencode."""

import base64
import binascii
import contextlib
import html
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clinscale.scan.opened import begins_packed, looks_packed, may_be_archive

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{20,}(?:(?:\\[nr]|\s){1,4}[A-Za-z0-9+/_-]{4,})*={0,2}")
_BREAKS = re.compile(rb"\\[nr]|\s")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]+")
_PAIRS = re.compile(
    rb"(?:(?:0[xX][0-9a-fA-F]|(?:\\x)?[0-9a-fA-F]{2}|0[xX][0-9a-fA-F]{2})(?:[,:;\s]{1,3}|(?=\\x))){16,}"
)
_PAIR = re.compile(rb"0[xX]([0-9a-fA-F]{1,2})|(?:\\x)?([0-9a-fA-F]{2})")
"""Bytes one by one, as dumps and programs write them."""
_BASE32 = re.compile(rb"[A-Z2-7]{24,}|[a-z2-7]{24,}")
_UUENCODED = re.compile(rb"(?:^|(?<=[\r\n]))M[ -`]{60}(?:\r?\n[!-M][ -`]{4,60}(?=[\r\n]|\Z))+")
"""Lines of uuencode, a full one first: a sign for the number of bytes, and four signs for each three of them."""
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
_LEAST_GROUPS, _LONG_BYTES, _LONG_RUN, _MOST_STRETCHES = 5, 256, 2**12, 100
"""Groups of digits that make a stretch, bytes that are looked into whatever they are, digits of a long run, and
the most stretches of one that are read."""
_HIGHEST = bytes([84])
_OF_LISTS, _MOST_OF_LISTS = (b'"', b",", b":"), 0.15
"""Signs of JSON without blanks, and the largest share of them in ASCII85."""
_JSON = re.compile(rb"\\?(?:[^\\]|\\[\"\\/nrtu])*+\\?")
_ESCAPED = re.compile(rb"\\(.)")
_ENTITY = re.compile(rb"&(?:lt|gt|amp|quot|#\d+);")
_TEXT = re.compile(rb"(?:[\t\n\r -~]\0?|\0[\t\n\r -~]|[\xc2-\xf4][\x80-\xbf]){15}")


class Written(NamedTuple):
    """A run of digits."""

    start: int
    stop: int
    raws: list[bytes]
    """Bytes that they may be, read from each place at which a block may have cut them."""
    is_sealed: bool = False
    """Whether they are as even as something encrypted, from whichever place they are read, or not all are here."""


def written_in_digits(text: bytes) -> Iterator[Written]:
    """Yield all runs of digits in a text that may be bytes."""
    for run in _BASE64.finditer(text):
        raws = list(_of_base64(_BREAKS.sub(b"", run[0]).rstrip(b"=")))
        is_sealed = all(map(looks_packed, raws)) and not any(map(begins_packed, raws))
        yield Written(*run.span(), raws, is_sealed)
    for run in _PAIRS.finditer(text):
        yield Written(*run.span(), [bytes(int(one or other, 16) for one, other in _PAIR.findall(run[0]))])
    for run in _UUENCODED.finditer(text):
        with contextlib.suppress(binascii.Error):  # lines of capitals
            yield Written(*run.span(), [b"".join(map(binascii.a2b_uu, run[0].splitlines()))])
    yield from _in_base85(text)


def stands_alone(raw: bytes) -> bool:
    """Whether bytes are to be opened by themselves: they hold text, or may be an archive or a table."""
    return bool(_TEXT.search(raw)) or begins_packed(raw) or may_be_archive(raw)


def _in_base85(text: bytes) -> Iterator[Written]:
    """The longest runs first: what is of one alphabet has short runs of the others in it."""
    runs = [(run, name) for name, run_of in _RUNS.items() for run in run_of.finditer(text)]
    is_known = np.zeros(len(text), bool)
    for run, name in sorted(runs, key=lambda found: found[0].start() - found[0].end()):
        is_list = name == "ascii85" and sum(map(run[0].count, _OF_LISTS)) > _MOST_OF_LISTS * len(run[0])
        if is_list or (is_known[run.start()] and is_known[run.end() - 1]) or _BASE64.fullmatch(run[0]):
            continue
        raws = list(_of_base85(run[0], name))
        worth = [raw for raw in raws if _TEXT.search(raw) or begins_packed(raw)]
        is_sealed = not worth and any(map(looks_packed, raws))
        is_known[run.start() : run.end()] |= bool(worth) or is_sealed
        if len(worth) > _MOST_STRETCHES:
            worth, is_sealed = sorted(worth, key=len)[-_MOST_STRETCHES:], True
        else:
            worth += [raw for raw in raws if len(raw) >= _LONG_BYTES and raw not in worth][:_MOST_STRETCHES]
        if worth:
            yield Written(*run.span(), worth, is_sealed)


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


def _spellings(run: bytes) -> Iterator[bytes]:
    """Digits without breaks, where JSON or HTML may have written some of them in another way each once, too."""
    is_json = b"\\" in run and bool(_JSON.fullmatch(run))
    digits = b"".join(run.split())
    if is_json:
        yield _ESCAPED.sub(rb"\1", _BREAKS.sub(b"", run))
    if _ENTITY.search(digits):
        yield html.unescape(digits.decode("latin-1")).encode("latin-1", errors="replace")
    if not is_json or len(run) < _LONG_RUN:  # in a long one it is no chance
        yield digits
