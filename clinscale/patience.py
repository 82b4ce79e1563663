"""Patience with what is away and may come back, a disk, a server, a cluster: the one policy of trying again."""

import math
import time
from collections.abc import Callable

FIRST_PAUSE_S = 1.0
"""Pause before the second try; each later one is twice as long."""

LONGEST_PAUSE_S = 30.0
"""Pause that no later one exceeds."""


class Patience:
    """Time given to something that is away: how much of it is left, and the pauses between tries."""

    def __init__(self, total_s: float = math.inf, *, longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        """The time begins now.

        Args:
            total_s: all of it; by default it has no end.
            longest_pause_s: for what is wanted back soon, and costs little to look at.
        """
        self._end_s = time.monotonic() + total_s
        self._longest_s = longest_pause_s
        self._pause_s = min(FIRST_PAUSE_S, longest_pause_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 when the time is over."""
        return max(0.0, self._end_s - time.monotonic())

    def pause(self, sleep: Callable[[float], object] = time.sleep) -> bool:
        """Wait before the next try, the last one at the end of the time; False, at once, when the time is over."""
        if not self.left_s:
            return False
        sleep(min(self._pause_s, self.left_s))
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        return True
