"""Decisions as pure functions: which trial wins, whether the winner becomes champion."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinscale.sweep.ledger import Trial


@dataclass(frozen=True)
class Candidate:
    """A setting that may win, with all trials that trained it, each under its own seed."""

    role: str
    """`winner` or `runner-up` of the search, or its `first trial`."""
    seeds: tuple[Trial, ...]
    """The trial of the search comes first."""

    @property
    def scores(self) -> dict[int, float]:
        """Development score by seed."""
        return {trial.seed: trial.objective or 0.0 for trial in self.seeds}

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.scores.values())

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        scores = list(self.scores.values())
        return {
            "trial": self.seeds[0].id,
            "role": self.role,
            "params": dict(self.seeds[0].params),
            "dev": {str(seed): score for seed, score in self.scores.items()},
            "mean": self.mean,
            "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        }


@dataclass(frozen=True)
class Promote:
    """The version becomes champion."""

    because: str


@dataclass(frozen=True)
class Keep:
    """The champion stays."""

    because: str


def choose_winner(candidates: Sequence[Candidate]) -> Candidate:
    """The highest mean score over seeds, among those that were trained under most of them; of equals the earlier one.

    One seed against three would be a lucky draw against an average.
    """
    most = max(len(candidate.seeds) for candidate in candidates)
    return max((one for one in candidates if len(one.seeds) == most), key=lambda candidate: candidate.mean)


def decide(metric: str, value: float, data: str, champion: Mapping[str, Any] | None) -> Promote | Keep:
    """Whether a new version with test score `value` on `data` takes the alias `champion`.

    Args:
        metric: name of the score; higher is better.
        value: of the new version on the test split.
        data: fingerprint of the task data.
        champion: `metric`, `value` and `data` of the present champion, None where there is none.
    """
    if champion is None:
        return Promote("there is no champion yet")
    if champion.get("metric") != metric or champion.get("data") != data:
        return Promote("the present champion was judged on other data or by another metric")
    before = float(champion["value"])
    if value > before:
        return Promote(f"test {metric} {value:.4f} is above the champion's {before:.4f}")
    return Keep(f"test {metric} {value:.4f} is not above the champion's {before:.4f}")
