"""Text that nobody can read, such as long runs of signs that are all about as frequent."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clinscale.scan.forms import LEAST_NEGATIVE

_RUN = re.compile(rb"[!-~]{24,}(?:\r?\n[ \t]*[!-~]{24,})*(?:\r?\n[ \t]*[!-~]+)?")
"""Signs without a blank, in lines of any length."""
_DIGESTS = re.compile(rb"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})(?:\s+|\Z)")
_WINDOW, _STEP = 256, 64
"""Signs that are judged at once."""
LEAST_SIGNS, _LEAST_LETTERS = 384, 600
"""Least lengths of what is reported: of any signs, and of letters and digits, which signatures and keys are, too."""
_EVEN, _VERY_EVEN, _MOST_OF_WORDS = 1.6, 1.25, 0.42
"""Chance that two signs are the same, over that of as many signs that are all as frequent: words and most programs have
1.9 and more, digits of any base 1.0 to 1.5. Share of pairs of neighbours that are small letters, or both
capitals, which is more in names that are written together; digits of small or of capital letters alone are very even.
"""
_FRAME, _MOST_OF_FRAME = np.frombuffer(b'",:;', np.uint8), 0.04
"""Signs of lists, and the largest share that one of them has in what is no list."""
_LETTER = np.zeros(256, bool)
_LETTER[np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/_-=", np.uint8)] = True
_CASE = np.zeros(256, np.uint8)
_CASE[ord("a") : ord("z") + 1], _CASE[ord("A") : ord("Z") + 1] = 1, 2
_SPELLED = re.compile(
    rb"(?:(?<![^\s\"'])[^\W\d_][ \t\r\n]{1,4}){48,}"  # l e t t e r s
    rb"|(?:[01]{7,8}[\s,]{1,2}){32,}"
    rb"|[A-Za-z.,]{256,}"  # words without blanks, or with letters between them
    rb"|(?:[.-]{1,7}[ /]{1,3}){96,}"
)
_SIGNED = re.compile(rb"-?\d{1,7}(?:\.0)?(?:[\s,;]{1,12}-?\d{1,7}(?:\.0)?){31,}(?![\d.eE])")


def unreadable(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a text that must be of some coding."""
    for run in _RUN.finditer(text):
        if run.end() - run.start() >= LEAST_SIGNS and not _is_digests(run[0]):
            yield from ((run.start() + start, run.start() + stop) for start, stop in _even(run[0]))
    for run in _SPELLED.finditer(text):
        if len(set(run[0])) > 2 and not run[0].replace(b" ", b"").startswith(b"-" * 30):
            yield run.span()
    for run in _SIGNED.finditer(text):
        if run[0].count(b"-") > LEAST_NEGATIVE * len(run[0].split()):
            yield run.span()


def is_mixed(run: bytes) -> bool:
    """Whether a run is of signs of several kinds in turn, and no list, and no digests."""
    signs = np.frombuffer(b"".join(run.split()), np.uint8)
    return bool(
        not _is_digests(run)
        and len(signs) > 1
        and np.bincount(signs, minlength=256)[_FRAME].max() <= _MOST_OF_FRAME * len(signs)
        and _share_in_words(signs) < _MOST_OF_WORDS
    )


def _share_in_words(signs: npt.NDArray[np.uint8]) -> float:
    case = _CASE[signs]
    return float(((case[1:] == case[:-1]) & (case[1:] > 0)).mean())


def _is_digests(run: bytes) -> bool:
    return not _DIGESTS.sub(b"", run)


def _even(run: bytes) -> Iterator[tuple[int, int]]:
    """Ranges in which each window is even."""
    places = np.flatnonzero(np.frombuffer(run, np.uint8) > 0x20)
    signs = np.frombuffer(run, np.uint8)[places]
    starts = np.arange(0, max(1, len(signs) - _WINDOW + 1), _STEP)
    good = np.array([_is_even(signs[start : start + _WINDOW]) for start in starts])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2):
        start = int(starts[first])
        stop = len(signs) if last == len(starts) else min(int(starts[last - 1]) + _WINDOW, len(signs))
        least = _LEAST_LETTERS if _LETTER[signs[start:stop]].mean() > 0.98 else LEAST_SIGNS
        if stop - start >= least:
            yield int(places[start]), int(places[stop - 1]) + 1


def _is_even(signs: npt.NDArray[np.uint8]) -> bool:
    counts, size = np.bincount(signs, minlength=256), len(signs)
    if size < 2 or counts[_FRAME].max() > _MOST_OF_FRAME * size:
        return False
    same = float((counts * (counts - 1)).sum()) / (size * (size - 1))
    evenness = same * np.count_nonzero(counts)
    return bool(evenness < _VERY_EVEN or (evenness < _EVEN and _share_in_words(signs) < _MOST_OF_WORDS))
