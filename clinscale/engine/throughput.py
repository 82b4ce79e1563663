"""How fast a loop goes, in the unit that users pay for."""

import time


class ThroughputMeter:
    """Tokens per second between two readings, by the monotonic clock."""

    def __init__(self) -> None:
        self._tokens = 0
        self._since_s = time.monotonic()

    def add(self, tokens: int) -> None:
        """Count the tokens of one step, over all workers."""
        self._tokens += tokens

    def tokens_per_second(self) -> float:
        """The rate since the last reading; starts a new interval."""
        now_s = time.monotonic()
        rate = self._tokens / max(now_s - self._since_s, 1e-9)
        self._tokens, self._since_s = 0, now_s
        return rate
