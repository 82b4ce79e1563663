"""Windows of a block in which something is frequent: whole blocks are judged at once, and few bytes one by one."""

import numpy as np
import numpy.typing as npt

Marks = npt.NDArray[np.bool_]


def frequent(marks: Marks, size: int, least: int) -> list[tuple[int, int]]:
    """Ranges of the marked bytes around windows of `size` bytes, at most 255, that hold `least` marks or more.

    They reach one window further, which holds the beginning or the end.
    """
    good = sums(np.pad(marks, (0, -len(marks) % size)), size) >= least
    return [(start * size, min(stop * size, len(marks))) for start, stop in ranges(good)]


def sums(marks: Marks, size: int) -> npt.NDArray[np.uint64]:
    """Number of marks in each window; `size` is 8, 16, 32, 64 or 128, and divides what there is."""
    eights = marks.view(np.uint64)
    while size > 8:
        eights, size = eights[0::2] + eights[1::2], size // 2
    return eights * np.uint64(0x0101010101010101) >> np.uint64(56)


def sums_of_parities(marks: Marks, size: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Number of marks at the even, and at the odd, places of each window."""
    eights = marks.view(np.uint64)
    found = []
    for shift in (0, 8):
        part, left = (eights >> np.uint64(shift)) & np.uint64(0x00FF00FF00FF00FF), size
        while left > 8:
            part, left = part[0::2] + part[1::2], left // 2
        found.append(part * np.uint64(0x0001000100010001) >> np.uint64(48))
    return found[0], found[1]


def ranges(good: Marks) -> list[tuple[int, int]]:
    """Ranges of what is good, and one beside each."""
    if not good.any():
        return []
    wide = good.copy()
    wide[:-1] |= good[1:]
    wide[1:] |= good[:-1]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wide, [False]]).view(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
