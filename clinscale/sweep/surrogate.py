"""Bayesian optimisation over the points of a study: a Gaussian process of their extrapolated ends.

Exact and small (Rasmussen and Williams 2006, algorithm 2.1): a Matern 5/2 kernel with a length for each hyperparameter,
chosen by the marginal likelihood from a few; each end counts as precisely as it is known. The next point has the
highest expected improvement among quasi-random points and steps around the best ones. Points under way count as if they
had come to what is expected of them, so that workers keep away from one another. Priors of the space raise the expected
improvement where they are high, less with each trial.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import ndtr

from clinscale.sweep.curves import End
from clinscale.sweep.space import SearchSpace

_LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.5, 10.0)
_NOISES = (0.01, 0.05, 0.2)
"""Variance of what no hyperparameter explains, as a share of that of the ends."""
_PRIOR_TRIALS = 5.0
"""Trials after which a prior counts as it is stated: before them more, after them less (Hvarfner et al. 2022)."""
_PRIOR_FLOOR = 0.2
"""Density of a prior far from its center, as a share of that there: it may be wrong."""
_MOST_FITTED = 100
"""Trials that lengths are chosen by: the best and the latest."""
_SPREAD, _AROUND, _TOP = 1024, 512, 6
"""Candidates over the whole space, those around the best points, and how many are the best."""
_EXACT = 48
"""Candidates that are turned into points and judged again."""


def next_point(
    space: SearchSpace,
    points: Sequence[Mapping[str, Any]],
    ends: Sequence[End | None],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The point with the highest expected improvement.

    Args:
        space: that is searched.
        points: of all trials so far.
        ends: what each comes to; None of one that has shown nothing yet, minus infinity of one that cannot be trained.
        rng: decides the candidates.
    """
    known = [index for index, end in enumerate(ends) if end is not None]
    shares = np.array([shares_of(space, point) for point in points])
    means = np.array([end.mean for end in ends if end is not None])
    middle = float(np.median(means[np.isfinite(means)]))
    scale = (float(means.max()) - middle) or 1e-9
    # far below the usual, all are alike: the process is to be exact where it is good
    values = np.maximum((means - middle) / scale, -1.5)
    unsure = np.array([end.sd for end in ends if end is not None]) / scale
    process = _Process(shares[known], values, unsure**2)
    waiting = [index for index, end in enumerate(ends) if end is None]
    if waiting:
        believed, _ = process.at(shares[waiting])
        process = process.also(shares[waiting], believed)
    fitted, _ = process.at(shares)
    best = shares[np.argsort(-fitted, kind="stable")[:_TOP]]
    drawn = _candidates(space, best, rng)
    trust = _PRIOR_TRIALS / len(known)
    order = np.argsort(-process.gain(drawn, float(fitted.max())) * _prior_of(space, drawn) ** trust, kind="stable")
    # and some of the others, for a small space whose best points are all tried
    promising = drawn[np.concatenate([order[:_EXACT], order[_EXACT :: len(order) // _EXACT]])]
    # values of whole numbers, steps and choices, and what is searched only at some of them
    candidates = _untried([_point_at(space, row) for row in promising], points)
    exact = np.array([shares_of(space, point) for point in candidates])
    gains = process.gain(exact, float(fitted.max())) * _prior_of(space, exact) ** trust
    return candidates[int(np.argmax(gains))]


class _Process:
    """A Gaussian process with noise of its own at each point."""

    def __init__(
        self,
        points: np.ndarray,
        values: np.ndarray,
        noise: np.ndarray,
        kernel: tuple[np.ndarray, float] | None = None,
    ) -> None:
        self._points, self._values, self._noise = points, values, noise
        self._middle = float(np.average(values, weights=1 / (noise + 0.1)))
        self._scale = float(np.std(values)) or 1.0
        self._lengths, self._rest = kernel or self._chosen()
        self._factor = self._cholesky(points, noise, self._lengths, self._rest)
        self._weights = cho_solve((self._factor, True), values - self._middle)

    def also(self, points: np.ndarray, values: np.ndarray) -> "_Process":
        """The process with more points under the same kernel."""
        return _Process(
            np.vstack([self._points, points]),
            np.append(self._values, values),
            np.append(self._noise, np.zeros(len(values))),
            (self._lengths, self._rest),
        )

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of the smooth part at these points."""
        across = self._scale**2 * _matern(points, self._points, self._lengths)
        half = solve_triangular(self._factor, across.T, lower=True)
        variance = np.maximum(self._scale**2 - (half**2).sum(axis=0), 1e-12)
        return self._middle + across @ self._weights, np.sqrt(variance)

    def gain(self, points: np.ndarray, best: float) -> np.ndarray:
        """Expected improvement over `best` of the smooth part at these points."""
        mean, sd = self.at(points)
        z = (mean - best) / sd
        return np.asarray(sd * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))

    def _chosen(self) -> tuple[np.ndarray, float]:
        """Lengths and noise of the highest marginal likelihood, one after the other."""
        count = len(self._values)
        latest = np.arange(max(0, count - _MOST_FITTED // 2), count)
        some = np.unique(np.concatenate([np.argsort(-self._values, kind="stable")[: _MOST_FITTED // 2], latest]))
        lengths, rest = np.full(self._points.shape[1], 0.6), 0.05
        best = self._likelihood(some, lengths, rest)
        for place in range(len(lengths)):
            for length in _LENGTHS:
                tried = lengths.copy()
                tried[place] = length
                if (found := self._likelihood(some, tried, rest)) > best:
                    best, lengths = found, tried
        for noise in _NOISES:
            if (found := self._likelihood(some, lengths, noise)) > best:
                best, rest = found, noise
        return lengths, rest

    def _likelihood(self, some: np.ndarray, lengths: np.ndarray, rest: float) -> float:
        factor = self._cholesky(self._points[some], self._noise[some], lengths, rest)
        left = solve_triangular(factor, self._values[some] - self._middle, lower=True)
        # lengths are about the whole range, unless the ends say otherwise
        prior = -0.5 * float((np.log(lengths / 0.6) ** 2).sum()) / 1.5**2
        return prior - 0.5 * float(left @ left) - float(np.log(np.diag(factor)).sum())

    def _cholesky(self, points: np.ndarray, noise: np.ndarray, lengths: np.ndarray, rest: float) -> np.ndarray:
        covariance = self._scale**2 * _matern(points, points, lengths)
        covariance[np.diag_indices(len(points))] += noise + self._scale**2 * rest + 1e-8
        return np.asarray(cholesky(covariance, lower=True, check_finite=False))


def shares_of(space: SearchSpace, point: Mapping[str, Any]) -> list[float]:
    """A point of the unit cube; different choices are a whole range apart, what is not searched is in the middle."""
    row: list[float] = []
    for key, dimension in space.parameters.items():
        if dimension.type == "categorical":
            row += [math.sqrt(0.5) * (point.get(key) == choice) for choice in dimension.choices]
        else:
            row.append(dimension.share(point[key]) if key in point else 0.5)
    return row


def _prior_of(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """Density of the priors at rows of shares, 1 where it is highest."""
    density = np.ones(len(rows))
    column = 0
    for dimension in space.parameters.values():
        width = len(dimension.choices) if dimension.type == "categorical" else 1
        part = rows[:, column : column + width]
        column += width
        prior = dimension.prior
        if prior is None:
            continue
        if dimension.type == "categorical":
            is_center = part[:, dimension.choices.index(prior.center)] > 0
            other = prior.spread / max(1, width - 1)
            density *= np.where(is_center, 1 - prior.spread, other) / max(1 - prior.spread, other)
        else:
            away = (part[:, 0] - dimension.share(prior.center)) / prior.spread  # type: ignore[arg-type]
            density *= _PRIOR_FLOOR + (1 - _PRIOR_FLOOR) * np.exp(-(away**2) / 2)
    return density


def _matern(left: np.ndarray, right: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    left, right = left / lengths, right / lengths
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    distance = np.sqrt(5 * np.maximum(squares, 0.0))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def _candidates(space: SearchSpace, best: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of shares: some over the whole space, some a few steps from the best."""
    found = np.zeros((_SPREAD + _AROUND, best.shape[1]))
    origins = best[np.arange(_AROUND) % len(best)]
    steps = np.where(np.arange(_AROUND) % 2, 0.1, 0.03)[:, None]
    kept = rng.random((_AROUND, len(space.parameters))) < 0.7  # the others are over the whole space here too
    column = 0
    for number, dimension in enumerate(space.parameters.values()):
        width = len(dimension.choices) if dimension.type == "categorical" else 1
        part = slice(column, column + width)
        column += width
        if dimension.type == "categorical":
            drawn = rng.integers(0, width, len(found))
            found[np.arange(len(found)), part.start + drawn] = math.sqrt(0.5)
            near = origins[:, part]
        else:
            found[:, part] = rng.random((len(found), 1))
            near = np.clip(origins[:, part] + steps * rng.normal(size=(_AROUND, 1)), 0.0, 1.0)
        found[_SPREAD:, part] = np.where(kept[:, number : number + 1], near, found[_SPREAD:, part])
    return found


def _point_at(space: SearchSpace, row: np.ndarray) -> dict[str, Any]:
    point: dict[str, Any] = {}
    column = 0
    for key, dimension in space.parameters.items():
        if dimension.type == "categorical":
            width = len(dimension.choices)
            point[key] = dimension.choices[int(np.argmax(row[column : column + width]))]
        else:
            width = 1
            point[key] = dimension.at(min(float(row[column]), 1 - 1e-9))
        column += width
    return space.active(point)


def _untried(candidates: list[dict[str, Any]], points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Candidates that are none of the points; all of them where the space holds no others."""
    tried = {tuple(sorted(point.items())) for point in points}
    return [point for point in candidates if tuple(sorted(point.items())) not in tried] or candidates
