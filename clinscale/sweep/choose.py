"""Decisions as pure functions: which trial wins, whether the winner becomes champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinscale.errors import ClusterError


@dataclass(frozen=True)
class Trial:
    """One finished trial of a sweep."""

    id: str
    value: float
    """Best score on the development split; higher is better."""
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Promote:
    """The version becomes champion."""

    because: str


@dataclass(frozen=True)
class Keep:
    """The champion stays."""

    because: str


def choose_winner(sweep: str, trials: Sequence[Trial]) -> Trial:
    """The trial with the highest development score; the earlier one where two are equal.

    Raises:
        ClusterError: no trial has a score.
    """
    if not trials:
        raise ClusterError(f"sweep {sweep}: no trial finished with a score; see the errors of its trials")
    return max(trials, key=lambda trial: trial.value)


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
