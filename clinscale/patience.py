"""Patience with what is away and may come back, a disk, a server, a cluster: the one policy of trying again."""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 300.0
"""Seconds that what is away is waited for, unless said."""

FIRST_PAUSE_S = 1.0
"""Pause before the second try; each later one is twice as long."""

LONGEST_PAUSE_S = 30.0
"""Pause that no later one exceeds."""

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)


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


def ask_again(
    ask: Callable[[], _Answer], why_away: Callable[[Exception], str | None], *, what: str, total_s: float
) -> _Answer:
    """The answer of `ask`, which is called again, and that is said, while `what` is away.

    Args:
        ask: may be called again after it has raised; an error that is left after `total_s` goes through.
        why_away: the reason why that error is no answer; None for one that is.
        what: the thing that is asked, by its full name.
        total_s: seconds from the first such error to the last try.
    """
    patience: Patience | None = None
    while True:
        try:
            answer = ask()
        except Exception as error:
            why = why_away(error)
            if why and not patience and total_s:
                log.warning(f"{what} does not answer ({why}); trying again for {total_s:g} s")
            patience = patience or Patience(total_s)
            if not why or not patience.pause():
                raise
        else:
            if patience:
                log.warning(f"{what} answers again")
            return answer
