"""Certainty of scores: intervals, a paired test between two models, scores by length of the documents.

Examples of one document or patient are never independent, so that whole ones are drawn again, not single examples.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from clinscale.config import fingerprint
from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.kinds import Kind, Prediction, kind_of
from clinscale.tasks.kinds.classification import f1_of
from clinscale.tasks.resampling import (
    OF_DIFFERENCES,
    OF_SCORES,
    Estimate,
    drawn_values,
    estimate_on,
    if_proven,
    members_of,
    paired_p,
    with_unseen,
    with_zero,
)
from clinscale.tasks.split import group_numbers
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
    """(examples,) number of the document that each example asks about, or of its patient or group, where it names one:
    what is drawn together."""
    tokens: np.ndarray
    """(examples,) length of its document for the model's own tokenizer."""
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
        lengths = {text: count_tokens(text) for text in dict.fromkeys(example.text for example in examples)}
        return cls(
            task=kind.task,
            keys=tuple(fingerprint(kind.key_of(example)) for example in examples),
            documents=np.array(group_numbers(examples)),
            tokens=np.array([lengths[example.text] for example in examples]),
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
            "rows": self.rows.tolist(),  # to the last digit, for a ranking tells apart what rounding makes equal
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
        """Whether both are of the same examples by one kind, its labels in one order, one metric and one scorer."""
        ours, theirs = kind_of(self.task), kind_of(other.task)
        are_labels_known = self.labels and other.labels  # earlier versions left them out
        return (
            self.keys == other.keys
            and (ours.name, ours.rules, self.scorer) == (theirs.name, theirs.rules, other.scorer)
            and (self.labels == other.labels or not are_labels_known)
        )

    def value(self, members: np.ndarray | None = None) -> float:
        """The task's metric on these examples, NaN where it is not defined."""
        kind = kind_of(self.task)
        rows = self.rows if members is None else self.rows[members]
        return kind.scores_of(rows, (kind.metric,)).get(kind.metric, float("nan"))

    def scores(self) -> dict[str, float]:
        """All metrics that are defined on these examples, and the work that the answers make."""
        kind = kind_of(self.task)
        return kind.scores_of(self.rows) | kind.workload(self.rows)

    def label_counts(self) -> np.ndarray:
        """(examples, labels, 3): how often each label is right, predicted and gold."""
        return kind_of(self.task).label_counts(self.rows, self.labels)

    def label_scores(self, members: np.ndarray | None = None) -> dict[str, float]:
        """F1 of each label that has gold among these examples; nothing for answers."""
        return kind_of(self.task).label_scores(self.rows if members is None else self.rows[members], self.labels)

    @property
    def calibration(self) -> dict[str, float]:
        """Distances of the stated probabilities from the truth; lower is better. Classification only."""
        return kind_of(self.task).calibration(self.rows)


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
    members = members_of(outcomes.documents)
    found = estimate_on(outcomes.value, members, resamples, seed)
    return with_unseen(found, len(members)) if resamples else found


def compare(ours: Outcomes, theirs: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Paired comparison: interval by bootstrap, p by approximate randomisation (Noreen 1989; SciPy's permutation_test).

    Raises:
        DataError: the two were not judged by one metric on the same examples.
    """
    _check_comparable(ours, theirs)
    kind, members = kind_of(ours.task), members_of(ours.documents)

    def score(rows: np.ndarray) -> float:
        return kind.scores_of(rows, (kind.metric,)).get(kind.metric, np.nan)

    sides = kind.exchangeable(ours.rows), kind.exchangeable(theirs.rows)
    spread = estimate_on(
        lambda drawn: ours.value(drawn) - theirs.value(drawn), members, resamples, seed, bounds=OF_DIFFERENCES
    )
    return Comparison(spread, paired_p(score, *sides, members, resamples, seed))


def estimate_seeds(outcomes: Sequence[Outcomes], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean score of one recipe over its seeds, with a 95 % interval that covers documents and seeds.

    Of one seed it is `estimate`, which knows nothing of the noise between seeds.

    Raises:
        DataError: the seeds were not all judged by one metric on the same examples.
    """
    if len(outcomes) == 1:
        return estimate(outcomes[0], resamples=resamples, seed=seed)
    if len(np.unique(outcomes[0].documents)) < 2:
        return Estimate(float(np.mean([one.value() for one in outcomes])), *OF_SCORES)
    found = _over_seeds([outcomes], resamples, seed).estimate
    found = with_unseen(found, len(np.unique(outcomes[0].documents)))
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
    documents = len(np.unique(ours[0].documents))
    if (len(ours) < 2 and len(theirs) < 2) or documents < 2:
        return None
    found = _over_seeds([ours, theirs], resamples, seed)
    # the least p of exchanging the outcomes of so few documents: where all differ alike, they seem to have no noise
    least = 0.5 ** (documents - 1)
    spread = found.estimate if least < 0.05 else with_zero(found.estimate)
    return Comparison(spread, max(found.p_value, least))


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
    members = members_of(first.documents)
    sides = [np.array([one.value() for one in recipe]) for recipe in recipes]
    spreads = [side.var(ddof=1) for side in sides if len(side) > 1]

    def at(drawn: np.ndarray) -> float:
        means = [np.mean([one.value(drawn) for one in recipe]) for recipe in recipes]
        return float(means[0] - sum(means[1:]))

    drawn = drawn_values(at, members, resamples, seed) if len(members) > 1 else np.zeros(2)
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
    kind = kind_of(ours.task)
    bands = {
        _band_name(above, up_to): inside
        for above, up_to, inside in _bands(ours)
        if not np.isnan(ours.value(inside)) and not np.isnan(theirs.value(inside))
    }
    level = 1 - 0.05 / max(1, len(bands))

    def score(rows: np.ndarray) -> float:
        return kind.scores_of(rows, (kind.metric,)).get(kind.metric, np.nan)

    def difference(inside: np.ndarray) -> Estimate:
        """The interval on the examples `inside`."""
        members = members_of(ours.documents[inside])
        spread = estimate_on(
            lambda drawn: ours.value(inside[drawn]) - theirs.value(inside[drawn]),
            members,
            resamples,
            seed,
            level=level,
            bounds=OF_DIFFERENCES,
        )
        first, second = (kind.exchangeable(one.rows[inside]) for one in (ours, theirs))
        return if_proven(spread, level, lambda: paired_p(score, first, second, members, resamples, seed))

    return {name: difference(inside) for name, inside in bands.items()}


def differences_by_label(
    ours: Outcomes, theirs: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Our F1 minus theirs for each label that both know; 95 % intervals for all labels together."""
    _check_comparable(ours, theirs)
    members, theirs_now = members_of(ours.documents), theirs.label_scores()
    shared = [label for label in ours.label_scores() if label in theirs_now]
    level = 1 - 0.05 / max(1, len(shared))
    counts = [dict(zip(one.labels, one.label_counts().swapaxes(0, 1), strict=False)) for one in (ours, theirs)]

    def f1(rows: np.ndarray) -> float:
        right, predicted, gold = rows.sum(axis=0)
        return f1_of(right, predicted, gold) if gold else np.nan

    def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
        spread = estimate_on(
            lambda drawn: f1(first[drawn]) - f1(second[drawn]),
            members,
            resamples,
            seed,
            level=level,
            bounds=OF_DIFFERENCES,
        )
        return if_proven(spread, level, lambda: paired_p(f1, first, second, members, resamples, seed))

    return {label: difference(*(one[label] for one in counts)) for label in shared}


def by_length(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Band]:
    """The score in each band of LENGTHS_TOKENS that has examples on which the metric is defined.

    Without `resamples` there are no intervals.
    """
    bands = []
    for above, up_to, inside in _bands(outcomes):
        if np.isnan(outcomes.value(inside)):
            continue
        members = [inside[positions] for positions in members_of(outcomes.documents[inside])]
        score = estimate_on(outcomes.value, members, resamples, seed)
        bands.append(Band(above, up_to, len(inside), with_unseen(score, len(members)) if resamples else score))
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
