"""Extrapolated ends of partial learning curves, with their uncertainty, from all trials of a study.

From each rung to the next, the gain of a trial is a Bayesian linear regression on its score there, on its gain before
and on its hyperparameters, fitted over the trials that have come to both rungs (Bishop 2006, section 3.3: a Gaussian
prior on the weights; the noise is estimated with one of its own). Chained from rung to rung, they give mean and spread
of a score at the end. Before any trial has come further, the prior says: about the same score, give or take a part of
the spread of all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinscale.sweep.ledger import Trial

_PRIOR_TRIALS = 4.0
"""Trials that the prior of the noise counts for."""
_PRIOR_NOISE = 0.3
"""Noise of a gain before any was seen, in spreads of the scores at its rung."""
_PRIOR_WEIGHTS = (1.0, 0.3, 0.2)
"""Spread of the weights of the constant, of the score and the gain before, and of each hyperparameter."""


@dataclass(frozen=True)
class End:
    """A score at the end of a training, as far as it is known."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Ends:
    """The ends of a study's trials by number; those that failed or have no score at a rung are left out."""

    now: Mapping[int, End]
    """Ends by all that each trial has shown."""
    seen_at: Mapping[Any, Mapping[int, End]]
    """Ends by what each had shown at a rung, by rung."""


def extrapolate(trials: Sequence[Trial], places: Sequence[Any]) -> Ends:
    """The ends of all trials that have come to a rung.

    Args:
        trials: of one study.
        places: rungs in their order, the end of a training last; with none, ends are what was seen last.
    """
    if not places:
        return Ends(
            {t.number: End(t.objective, 0.0) for t in trials if t.searched and t.objective is not None}, {}
        )
    judged = [trial for trial in trials if trial.searched and trial.state != "failed"]
    able = [
        trial
        for trial in judged
        if (trial.state == "complete" and trial.epochs)
        or any(trial.objective_at(place) is not None for place in places)
    ]
    if not able:
        return Ends({}, {})
    # a place that nobody has come to says nothing, as looks have that are beyond the first epoch
    places = [
        *(place for place in places[:-1] if any(trial.objective_at(place) is not None for trial in able)),
        places[-1],
    ]
    scores, points = _scores(able, places), _points(able)
    steps = _steps(scores, points)
    numbers = [trial.number for trial in able]
    seen_at: dict[Any, dict[int, End]] = {}
    now: dict[int, End] = {}
    for place in range(len(places)):
        here = np.flatnonzero(np.isfinite(scores[:, place]))
        mean, variance = scores[here, place], np.zeros(len(here))
        gain_before = np.nan_to_num(mean - scores[here, place - 1]) if place else np.zeros(len(here))
        for step in steps[place:]:
            ahead, variance = step.ahead(mean, variance, gain_before, points[here])
            mean, gain_before = ahead, ahead - mean
        ends = zip(here, mean, np.sqrt(variance), strict=True)
        seen_at[places[place]] = {numbers[index]: End(float(m), float(sd)) for index, m, sd in ends}
        now |= seen_at[places[place]]  # the furthest rung is the last to be written
    return Ends(now, seen_at)


def _steps(scores: np.ndarray, points: np.ndarray) -> list["_Step"]:
    """The regressions from each rung to the next."""
    steps, spread = [], _spread(scores[:, 0])
    for place in range(scores.shape[1] - 1):
        here = scores[:, place]
        known = here[np.isfinite(here)]
        spread = max(_spread(known), 0.1 * spread) if len(known) else spread
        gain_before = np.nan_to_num(here - scores[:, place - 1]) if place else np.zeros(len(here))
        steps.append(_Step(here, scores[:, place + 1], gain_before, points, spread))
    return steps


class _Step:
    """The regression from one rung to the next."""

    def __init__(
        self, here: np.ndarray, after: np.ndarray, gain_before: np.ndarray, points: np.ndarray, spread: float
    ) -> None:
        self._spread = spread
        came = np.isfinite(after) & np.isfinite(here)
        reached = here[np.isfinite(here)]
        self._centre = float(np.median(reached)) if len(reached) else 0.0
        features = self._features(here[came], gain_before[came], points[came])
        gains = (after - here)[came]
        # where all begin alike, what they gain says more of the scale
        self._scale = max(spread, float(np.sqrt(np.mean(gains**2)))) if len(gains) else spread
        gains = gains / self._scale
        usual, score, point = _PRIOR_WEIGHTS
        prior = np.array([usual, score, score, *([point] * points.shape[1])])
        noise = _PRIOR_NOISE**2
        for _ in range(3):  # noise and weights in turns
            precision = np.diag(prior**-2.0) + features.T @ features / noise
            covariance = np.linalg.inv(precision)
            weights = covariance @ features.T @ gains / noise
            left = gains - features @ weights
            noise = (_PRIOR_TRIALS * _PRIOR_NOISE**2 + float(left @ left)) / (_PRIOR_TRIALS + len(gains))
        self._weights, self._covariance, self._noise = weights, covariance, noise

    def _features(self, scores: np.ndarray, gains_before: np.ndarray, points: np.ndarray) -> np.ndarray:
        scaled = np.clip((scores - self._centre) / self._spread, -3, 3)
        before = np.clip(gains_before / self._spread, -3, 3)
        return np.column_stack([np.ones(len(scores)), scaled, before, points])

    def ahead(
        self, mean: np.ndarray, variance: np.ndarray, gains_before: np.ndarray, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance at the next rung of trials that have these at this one."""
        features = self._features(mean, gains_before, points)
        gain = features @ self._weights
        unsure = np.einsum("ij,jk,ik->i", features, self._covariance, features) + self._noise
        grown = max(0.0, 1 + float(self._weights[1]) * self._scale / self._spread) ** 2
        # a best score so far does not fall
        return mean + np.maximum(gain, 0.0) * self._scale, grown * variance + unsure * self._scale**2


def _scores(trials: Sequence[Trial], places: Sequence[Any]) -> np.ndarray:
    """Best scores at each place, NaN where a trial has not come; far below the usual they count as the same."""
    rows = [[trial.objective_at(place) for place in places] for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        if trial.state == "complete":  # it may have ended before the others do
            row[-1] = trial.objective
    scores = np.array([[math.nan if value is None else value for value in row] for row in rows], dtype=float)
    first = scores[np.isfinite(scores[:, 0]), 0]
    middle = float(np.median(first))
    return np.where(np.isfinite(scores), np.maximum(scores, middle - (float(first.max()) - middle)), math.nan)


def _spread(scores: np.ndarray) -> float:
    return float(np.nanstd(scores)) or 1e-9


def _points(trials: Sequence[Trial]) -> np.ndarray:
    """The hyperparameters: numbers by rank from -1 to 1, words as -1 and 1; 0 where one is not searched."""
    columns = []
    for key in sorted({key for trial in trials for key in trial.params}):
        values = [trial.params.get(key) for trial in trials]
        known = list({value for value in values if value is not None})
        if len(known) < 2:
            continue
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        # whole numbers among the others stand in the order of all
        known.sort(key=lambda one, alike=is_number: ("" if alike else str(type(one)), one))  # type: ignore[misc]
        if is_number:
            place = {value: 2 * index / (len(known) - 1) - 1 for index, value in enumerate(known)}
            columns.append([place.get(value, 0.0) for value in values])
        else:
            columns += [[0.0 if v is None else 1.0 if v == one else -1.0 for v in values] for one in known[1:]]
    return np.array(columns, dtype=float).T if columns else np.zeros((len(trials), 0))
