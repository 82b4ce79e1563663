"""Findings of reading: what was found, repaired and left out, and where; counts and places, never text."""

from collections import Counter, defaultdict
from typing import Literal

from clinscale.errors import DataError

OnError = Literal["raise", "skip"]


class NoExamplesError(DataError):
    """All was read, but nothing is left for a split; what the findings count is complete."""


class Findings:
    """The log of one reading; readers add to it, `tasks show` and `tasks check` print it."""

    def __init__(self, on_error: OnError = "raise") -> None:
        self.on_error = on_error
        self.found: Counter[str] = Counter()
        """Contents of the files, in the format's own words: `documents`, `annotations`, `rows`, ..."""
        self.rejected: Counter[str] = Counter()
        """Reason -> how many were left out, as broken or by a rule of the task."""
        self.repaired: Counter[str] = Counter()
        """Reason -> how many were repaired."""
        self.remarks: list[str] = []
        """Differences from the expected release, in sentences."""
        self.met: set[tuple[str, ...]] = set()
        """Values that the task asks for, rows to keep or labels to map, and that were found: option first."""
        self.shortened: set[str] = set()
        """Labels that are read as whole numbers, and that a file spells with `.0` behind them."""
        self.places: defaultdict[str, list[str]] = defaultdict(list)
        """Reason -> file and position of each broken or repaired thing."""
        self.fixes: dict[str, str] = {}
        """Reason -> what to do about the broken thing."""

    def find(self, what: str, number: int = 1) -> None:
        """Count `number` more of `what`."""
        if number:
            self.found[what] += number

    def reject(self, reason: str, place: str, fix: str) -> None:
        """Leave out something broken; `place` is file and position.

        Raises:
            DataError: the task does not skip what is broken.
        """
        if self.on_error == "raise":
            raise DataError(f"{place}: {reason}; {fix}, or set on_error: skip to leave it out")
        self.rejected[reason] += 1
        self.places[reason].append(place)
        self.fixes[reason] = fix

    def leave_out(self, reason: str, number: int = 1) -> None:
        """Leave out what a rule of the task excludes; never an error."""
        if number:
            self.rejected[reason] += number

    def repair(self, reason: str, place: str) -> None:
        """Count something repaired at `place`."""
        self.repaired[reason] += 1
        self.places[reason].append(place)

    def remark(self, sentence: str) -> None:
        """Say what is not as expected; the reading goes on."""
        self.remarks.append(sentence)

    def expect(self, what: str, found: int, expected: int, release: str) -> None:
        """Remark on a count that is not that of the release."""
        if found != expected:
            self.remark(f"{what}: found {found:,}, {release} has {expected:,}")
