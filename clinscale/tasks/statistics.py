"""Certainty of scores: intervals, a paired test between two models, scores by length of the documents.

Examples of one document are never independent, so whole documents are drawn again, not single examples.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from clinscale.config import fingerprint
from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.kinds import Kind, Prediction, kind_of
from clinscale.tasks.task import TaskConfig

LENGTHS_TOKENS = (0, 512, 1024, 2048, 4096)
"""Lower bounds of the length bands; a document of exactly 512 tokens is in the first."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Outcomes:
    """Outcome of each test example: numbers from which every score of any subset follows, and no text."""

    task: TaskConfig
    keys: tuple[str, ...]
    """A hash of each example's id and gold, so that two models are compared on the same examples only."""
    documents: np.ndarray
    """(examples,) number of the document that each example asks about."""
    tokens: np.ndarray
    """(examples,) length of that document for the model's own tokenizer."""
    rows: np.ndarray
    """(examples, k) as `Kind.outcomes` gives them."""
    labels: tuple[str, ...] = ()
    """Labels in the order of the model's outputs."""
    scorer: str | None = None
    """Scorer by whose rules `rows` were counted; scores by different rules are never compared. None for labels."""

    @classmethod
    def of(
        cls,
        kind: Kind,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        labels: Sequence[str],
        count_tokens: Callable[[str], int],
    ) -> Self:
        """Judge `predictions`; `count_tokens` is called once for each distinct text."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(e.text for e in examples))}
        lengths = [count_tokens(text) for text in numbers]
        documents = np.array([numbers[example.text] for example in examples])
        return cls(
            task=kind.task,
            keys=tuple(fingerprint(kind.key_of(example)) for example in examples),
            documents=documents,
            tokens=np.array(lengths)[documents],
            rows=kind.outcomes(examples, predictions, labels),
            labels=tuple(labels),
            scorer=kind.task.scored_by,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back; safe to store beside metrics."""
        return {
            "task": self.task.plain(),
            "keys": list(self.keys),
            "documents": self.documents.tolist(),
            "tokens": self.tokens.tolist(),
            "rows": [[round(value, 8) for value in row] for row in self.rows.tolist()],
            "labels": list(self.labels),
            "scorer": self.scorer,
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Outcomes from the values that `plain` made; DataError when it is something else."""
        try:
            task = TaskConfig.parse(values["task"], source=source)
            return cls(
                task=task,
                keys=tuple(values["keys"]),
                **{name: np.array(values[name]) for name in ("documents", "tokens", "rows")},
                labels=tuple(values.get("labels", ())),
                scorer=values.get("scorer", kind_of(task).earlier_scorer),
            )
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{source} holds no outcomes of a test; judge the model again") from None

    def is_comparable(self, other: "Outcomes") -> bool:
        """Whether both are of the same examples, by one metric and one scorer."""
        rules = kind_of(self.task).rules, kind_of(other.task).rules
        return self.keys == other.keys and rules[0] == rules[1] and self.scorer == other.scorer

    def value(self, members: np.ndarray | None = None) -> float:
        """The task's metric on these examples, NaN where it is not defined."""
        kind = kind_of(self.task)
        rows = self.rows if members is None else self.rows[members]
        return kind.scores_of(rows, (kind.metric,)).get(kind.metric, float("nan"))

    def scores(self) -> dict[str, float]:
        """All metrics that are defined on these examples, and the work that the answers make."""
        kind = kind_of(self.task)
        return kind.scores_of(self.rows) | kind.workload(self.rows)

    def label_scores(self, members: np.ndarray | None = None) -> dict[str, float]:
        """F1 of each label that has gold among these examples; nothing for answers."""
        return kind_of(self.task).label_scores(self.rows if members is None else self.rows[members], self.labels)

    @property
    def calibration(self) -> dict[str, float]:
        """Distances of the stated probabilities from the truth; lower is better. Classification only."""
        return kind_of(self.task).calibration(self.rows)


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Advantage of the first model over the second on the same examples."""

    difference: Estimate
    p_value: float
    """Share of such differences when each document's two outcomes are swapped at random."""

    def exceeds(self, least: float = 0.0) -> bool:
        """Whether the first is better by more than `least`, beyond the noise of documents."""
        return self.difference.low > least and self.p_value < 0.05

    def __str__(self) -> str:
        spread = self.difference
        return f"{spread.value:+.4f} (95 % {spread.low:+.4f} to {spread.high:+.4f}, p {self.p_value:.3f})"


@dataclass(frozen=True)
class Band:
    """The score on documents of (more than, up to) so many tokens."""

    above_tokens: int
    up_to_tokens: int | None
    examples: int
    score: Estimate

    @property
    def name(self) -> str:
        """`513-1024_tokens`, as MLflow keys allow it."""
        return _band_name(self.above_tokens, self.up_to_tokens)


def estimate(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The metric with its percentile bootstrap interval over documents (scipy.stats.bootstrap)."""
    members = _members(outcomes.documents)
    return _estimate(outcomes.value, members, resamples, seed)


def compare(ours: Outcomes, theirs: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Paired comparison: interval by bootstrap, p by approximate randomisation (Noreen 1989; SciPy's permutation_test).

    Raises:
        DataError: the two were not judged by one metric on the same examples.
    """
    from scipy.stats import permutation_test

    _check_comparable(ours, theirs)
    kind, members = kind_of(ours.task), _members(ours.documents)
    our_rows, their_rows = kind.exchangeable(ours.rows), kind.exchangeable(theirs.rows)

    def difference(swapped: np.ndarray) -> float:
        """The difference when the two models' outcomes are exchanged on the documents that are `swapped`."""
        where = np.zeros((len(ours.rows), 1), dtype=bool)
        for number in np.flatnonzero(swapped):
            where[members[number]] = True
        sides = np.where(where, their_rows, our_rows), np.where(where, our_rows, their_rows)
        first, second = (kind.scores_of(rows, (kind.metric,)).get(kind.metric, np.nan) for rows in sides)
        return float(first - second)

    spread = _estimate(lambda drawn: ours.value(drawn) - theirs.value(drawn), members, resamples, seed)
    if len(members) < 2:
        return Comparison(spread, 1.0)  # one document proves nothing
    # a document's number represents our outcome on it, its number beyond theirs for theirs; scipy exchanges the two
    documents = np.arange(len(members))
    found = permutation_test(
        (documents, documents + len(members)),
        lambda first, second: difference(first >= len(members)),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    return Comparison(spread, float(found.pvalue))


def estimate_seeds(outcomes: Sequence[Outcomes], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean score of one recipe over its seeds, with a 95 % interval that covers documents and seeds.

    Of one seed it is `estimate`, which knows nothing of the noise between seeds.

    Raises:
        DataError: the seeds were not all judged by one metric on the same examples.
    """
    if len(outcomes) == 1:
        return estimate(outcomes[0], resamples=resamples, seed=seed)
    found = _over_seeds([outcomes], resamples, seed).estimate
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))  # as every metric is from 0 to 1


def compare_seeds(
    ours: Sequence[Outcomes], theirs: Sequence[Outcomes], *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison | None:
    """Advantage of our recipe over theirs, each trained under several seeds: a 95 % t interval and its p.

    The variance is that of the mean difference over documents (paired bootstrap) plus that of each side's mean over its
    seeds; degrees of freedom after Welch and Satterthwaite. A side with one seed is taken to vary as the other one
    does; None when both have one, for then nothing is known of the noise between seeds.

    Raises:
        DataError: they were not all judged by one metric on the same examples.
    """
    for other in (*ours[1:], *theirs):
        _check_comparable(ours[0], other)
    if (len(ours) < 2 and len(theirs) < 2) or len(_members(ours[0].documents)) < 2:
        return None
    found = _over_seeds([ours, theirs], resamples, seed)
    return Comparison(found.estimate, found.p_value)


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean of independent runs, such as those of several seeds, with its 95 % t interval.

    Of one run nothing is known about the noise between runs: its bounds are NaN.
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return Estimate(float(found.mean()), float("nan"), float("nan"))
    return _OverSeeds(float(found.mean()), float(found.var(ddof=1)) / len(found), len(found) - 1).estimate


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of tests made together, adjusted so that the chance of any false alarm is kept (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(
        [min(1.0, (len(p_values) - rank) * p_values[index]) for rank, index in enumerate(order)]
    )
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class _OverSeeds:
    """A mean, or a difference of means, with its variance over documents and seeds."""

    at: float
    variance: float
    freedom: float

    @property
    def estimate(self) -> Estimate:
        from scipy.stats import t

        reach = float(t.ppf(0.975, self.freedom)) * self.variance**0.5 if self.variance else 0.0
        return Estimate(self.at, self.at - reach, self.at + reach)

    @property
    def p_value(self) -> float:
        """Two-sided, that there is no difference."""
        from scipy.stats import t

        if not self.variance:
            return float(self.at == 0)
        return float(2 * t.sf(abs(self.at) / self.variance**0.5, self.freedom))


def _over_seeds(recipes: Sequence[Sequence[Outcomes]], resamples: int, seed: int) -> _OverSeeds:
    """The mean of one recipe's seeds, or of the first minus that of the second."""
    first = recipes[0][0]
    for other in (outcomes for recipe in recipes for outcomes in recipe):
        _check_comparable(first, other)
    members = _members(first.documents)
    sides = [np.array([one.value() for one in recipe]) for recipe in recipes]
    spreads = [side.var(ddof=1) for side in sides if len(side) > 1]

    def at(drawn: np.ndarray) -> float:
        means = [np.mean([one.value(drawn) for one in recipe]) for recipe in recipes]
        return float(means[0] - sum(means[1:]))

    drawn = _drawn(at, members, resamples, seed) if len(members) > 1 else np.zeros(2)
    # variance and its degrees of freedom: of the documents, then of each side's seeds
    parts = [(float(drawn.var(ddof=1)), max(1, len(members) - 1))]
    for side in sides:
        spread = side.var(ddof=1) if len(side) > 1 else spreads[0]
        parts.append((float(spread) / len(side), max(1, len(side) - 1)))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts) if variance else 1.0
    return _OverSeeds(float(sides[0].mean() - sum(side.mean() for side in sides[1:])), variance, freedom)


def differences_by_length(
    ours: Outcomes, theirs: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Our score minus theirs in each length band where both have one; 95 % intervals for all bands together."""
    _check_comparable(ours, theirs)
    bands = {
        _band_name(above, up_to): inside
        for above, up_to, inside in _bands(ours)
        if not np.isnan(ours.value(inside)) and not np.isnan(theirs.value(inside))
    }
    return {
        name: _estimate(
            lambda drawn: ours.value(drawn) - theirs.value(drawn),
            [inside[positions] for positions in _members(ours.documents[inside])],
            resamples,
            seed,
            level=1 - 0.05 / len(bands),
        )
        for name, inside in bands.items()
    }


def differences_by_label(
    ours: Outcomes, theirs: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Our F1 minus theirs for each label that both know; 95 % intervals for all labels together."""
    _check_comparable(ours, theirs)
    members, theirs_now = _members(ours.documents), theirs.label_scores()
    shared = [label for label in ours.label_scores() if label in theirs_now]

    def difference(label: str, drawn: np.ndarray) -> float:
        scores = [one.label_scores(drawn).get(label, float("nan")) for one in (ours, theirs)]
        return scores[0] - scores[1]

    return {
        label: _estimate(
            functools.partial(difference, label), members, resamples, seed, level=1 - 0.05 / len(shared)
        )
        for label in shared
    }


def by_length(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Band]:
    """The score in each band of LENGTHS_TOKENS that has examples on which the metric is defined.

    Without `resamples` there are no intervals.
    """
    bands = []
    for above, up_to, inside in _bands(outcomes):
        if np.isnan(outcomes.value(inside)):
            continue
        members = [inside[positions] for positions in _members(outcomes.documents[inside])]
        bands.append(Band(above, up_to, len(inside), _estimate(outcomes.value, members, resamples, seed)))
    return bands


def _check_comparable(ours: Outcomes, theirs: Outcomes) -> None:
    if not ours.is_comparable(theirs):
        raise DataError(
            f"task {ours.task.name}: the two models were judged on different test examples, or by different metrics "
            "or scorers; judge both on the same data by the same task"
        )


def _bands(outcomes: Outcomes) -> Iterator[tuple[int, int | None, np.ndarray]]:
    """(above, up to, positions of the examples) of each length band that has some."""
    for above, up_to in itertools.pairwise([*LENGTHS_TOKENS, None]):
        assert above is not None
        inside = np.flatnonzero((outcomes.tokens > above) & (outcomes.tokens <= (up_to or np.inf)))
        if len(inside):
            yield above, up_to, inside


def _band_name(above_tokens: int, up_to_tokens: int | None) -> str:
    return f"{above_tokens + 1}-{up_to_tokens or ''}_tokens"


def _members(documents: np.ndarray) -> list[np.ndarray]:
    """Positions of the examples of each document."""
    return [np.flatnonzero(documents == number) for number in np.unique(documents)]


def _estimate(
    value: Callable[[np.ndarray], float],
    members: list[np.ndarray],
    resamples: int,
    seed: int,
    *,
    level: float = 0.95,
) -> Estimate:
    """The value with its percentile interval."""
    at = value(np.concatenate(members))
    if len(members) < 2 or not resamples:
        return Estimate(at, at, at)
    drawn = _drawn(value, members, resamples, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (at, at)
    return Estimate(at, float(low), float(high))


def _drawn(
    value: Callable[[np.ndarray], float], members: list[np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """The value on documents drawn with replacement; draws on which it is not defined do not count."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a perfect score is the same in every draw
        found = bootstrap(
            (np.arange(len(members)),),
            lambda drawn: value(np.concatenate([members[number] for number in drawn])),
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return np.asarray(found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)])
