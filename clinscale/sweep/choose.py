"""The choice of the winning trial, as a pure function."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clinscale.sweep.ledger import Trial
from clinscale.tasks import NEXT_STEP

_FLAT_TRIALS = 3
"""Fewer equal scores may be chance."""


@dataclass(frozen=True)
class Finalist:
    """A setting that was compared at the end of a study, as its winner's file and MLflow hold it."""

    trial: str
    """Id of the search's own trial."""
    role: str
    """`winner` or `runner-up` of the search, or its `first trial`."""
    params: Mapping[str, Any]
    dev: Mapping[str, float]
    """Development score by seed."""
    mean: float
    """Mean over seeds."""
    deviation: float | None
    """Standard deviation over seeds; None for one seed."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


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
        """Mean over seeds."""
        return statistics.fmean(self.scores.values())

    @property
    def best_seed(self) -> Trial:
        """The trial of the highest development score, whose weights are shipped; of equals the earlier one."""
        return max(self.seeds, key=lambda trial: trial.objective or 0.0)

    def finalist(self) -> Finalist:
        """The setting and its scores, without the trials."""
        scores = list(self.scores.values())
        return Finalist(
            trial=self.seeds[0].id,
            role=self.role,
            params=dict(self.seeds[0].params),
            dev={str(seed): score for seed, score in self.scores.items()},
            mean=self.mean,
            deviation=statistics.stdev(scores) if len(scores) > 1 else None,
        )


def flat_remark(trials: Sequence[Trial], metric: str, dev_examples: int) -> str:
    """The sentence on a search in which no setting has learned more than another; empty where one has.

    Scores are flat when they differ by less than one example of the development split counts, over three trials or
    more. All perfect ones are not: nothing could be better.
    """
    scores = [one.objective for one in trials if one.searched and one.objective is not None]
    if len(scores) < _FLAT_TRIALS or max(scores) >= 1 or max(scores) - min(scores) >= 1 / max(1, dev_examples):
        return ""
    return (
        f"dev {metric} is flat at {max(scores):.4f} over all {len(scores)} trials, so no setting has learned more than "
        f"another; {NEXT_STEP}"
    )


def choose_winner(candidates: Sequence[Candidate]) -> Candidate:
    """The highest mean score over seeds, among those that were trained under most of them; of equals the earlier one.

    One seed against three would be a lucky draw against an average.
    """
    most = max(len(candidate.seeds) for candidate in candidates)
    return max((one for one in candidates if len(one.seeds) == most), key=lambda candidate: candidate.mean)
