"""Documents drawn again and exchanged: intervals of any number, and the paired test (Efron; Noreen 1989; both SciPy's).

A document's examples are its members: positions in arrays with a row for each example.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its 95 % interval; of one document that is all that is possible."""

    value: float
    low: float
    high: float


OF_SCORES, OF_DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""Bounds of every metric, and of a difference of two."""


def members_of(documents: np.ndarray) -> list[np.ndarray]:
    """Positions of the examples of each document."""
    by_document = np.argsort(documents, kind="stable")
    starts = np.unique(documents[by_document], return_index=True)[1]
    return np.split(by_document, starts[1:]) if len(documents) else []


def estimate_on(
    value: Callable[[np.ndarray], float],
    members: Sequence[np.ndarray],
    resamples: int,
    seed: int,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = OF_SCORES,
) -> Estimate:
    """The value with its percentile interval; that is all from one bound to the other where nothing is known."""
    at = value(np.concatenate(members))
    if not resamples:
        return Estimate(at, at, at)
    drawn = drawn_values(value, members, resamples, seed) if len(members) > 1 else np.zeros(0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else bounds
    return Estimate(at, float(low), float(high))


def with_unseen(spread: Estimate, documents: int) -> Estimate:
    """The interval of a score; of one that is 0 or 1 in every draw, with room for documents unlike these.

    To draw them again tells of no other. So large a share of others is missed by so many with a chance of 2.5 %
    (Clopper and Pearson 1934).
    """
    if spread.low != spread.high or spread.value not in OF_SCORES:
        return spread
    unseen = 1 - 0.025 ** (1 / documents)
    return Estimate(spread.value, max(0.0, spread.value - unseen), min(1.0, spread.value + unseen))


def drawn_values(
    value: Callable[[np.ndarray], float], members: Sequence[np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """The value on documents drawn with replacement; draws on which it is not defined do not count."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    positions, sizes = np.concatenate(members), np.array([len(rows) for rows in members])
    starts = np.cumsum(sizes) - sizes

    def rows_of(drawn: np.ndarray) -> np.ndarray:
        """Positions of all examples of these documents, one document after the other."""
        ends = np.cumsum(sizes[drawn])
        first_of_row = np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])
        return np.asarray(positions[first_of_row + np.arange(ends[-1])])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a perfect score is the same in every draw
        found = bootstrap(
            (np.arange(len(members)),),
            lambda drawn: value(rows_of(drawn)),
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return np.asarray(found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)])


def paired_p(
    score: Callable[[np.ndarray], float],
    ours: np.ndarray,
    theirs: np.ndarray,
    members: Sequence[np.ndarray],
    resamples: int,
    seed: int,
) -> float:
    """The share of differences of scores, with the rows of documents exchanged at random, as large as that found.

    1 where nothing is proven: of one document, and of scores of which one is not defined.
    """
    from scipy.stats import permutation_test

    if len(members) < 2:
        return 1.0
    if np.isnan(score(ours) - score(theirs)):  # SciPy takes NaN for more than any exchange gives
        return 1.0
    of_row = np.empty(len(ours), dtype=int)
    for number, rows in enumerate(members):
        of_row[rows] = number

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        exchanged = (first >= len(members))[of_row].reshape(-1, *[1] * (ours.ndim - 1))
        sides = np.where(exchanged, theirs, ours), np.where(exchanged, ours, theirs)
        return float(score(sides[0]) - score(sides[1]))

    # a document's number represents our outcome on it, its number beyond theirs for theirs; scipy exchanges the two
    documents = np.arange(len(members))
    found = permutation_test(
        (documents, documents + len(members)),
        difference,
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def if_proven(spread: Estimate, level: float, p_value: Callable[[], float]) -> Estimate:
    """The interval, with zero in it unless the paired test shows a difference, too.

    An interval of few documents is too narrow: of one whose label no other has, each draw gives the same difference.
    Four that agree are the least that prove anything, at p 0.125.
    """
    if spread.low <= 0 <= spread.high or p_value() <= max(1 - level, 0.5**3):
        return spread
    return with_zero(spread)


def with_zero(spread: Estimate) -> Estimate:
    """The interval, widened to hold zero."""
    return Estimate(spread.value, min(spread.low, 0.0), max(spread.high, 0.0))
