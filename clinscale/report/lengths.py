"""Does reading more than 512 tokens pay? Models judged on the same test examples, short windows against long ones."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from clinscale.errors import DataError
from clinscale.finetune import SHORT_TOKENS, stored_outcomes
from clinscale.registry import RunRecord, Tag, Tracking
from clinscale.report.recorded import finite
from clinscale.tasks import Band, Comparison, Estimate, Outcomes, by_length, compare, compare_seeds, estimate, holm

_LEVEL = 0.05


@dataclass(frozen=True)
class Judged:
    """One model's test scores, with what became of each example."""

    name: str
    max_tokens: int
    dev: float | None
    """Score by which the shown models were chosen among those of their window, never the test score."""
    score: Estimate
    bands: dict[str, Band]
    """Bands by `Band.name`, where the test has such documents."""
    outcomes: tuple[Outcomes, ...]
    """Outcomes by seed of its recipe; the other fields are of the first, which was kept."""


@dataclass(frozen=True)
class LengthAnswer:
    """One task: its models by window, and the best long one against the best short one."""

    task: str
    metric: str
    models: tuple[Judged, ...]
    long: Judged
    short: Judged
    comparison: Comparison
    """Comparison of the two kept seeds, over documents."""
    over_seeds: Comparison | None
    """Comparison of the two recipes, over all their seeds and documents; None when both have one seed."""
    p_value: float | None = None
    """p of `over_seeds` after Holm's correction for all tasks that are asked; None without it."""

    @property
    def bands(self) -> list[Band]:
        """Length bands that any of the models was scored on, shortest first."""
        every = {name: band for model in self.models for name, band in model.bands.items()}
        return sorted(every.values(), key=lambda band: band.above_tokens)

    @property
    def verdict(self) -> str:
        """Verdict in a few words, at the 5 % level of all tasks together."""
        if self.over_seeds is None or self.p_value is None:
            return "one seed each cannot decide"
        if self.p_value >= _LEVEL:
            return "no difference that these seeds and this test set can show"
        return "length pays" if self.over_seeds.difference.value > 0 else "length does not pay"


def length_answers(tracking: Tracking, runs: Iterable[RunRecord]) -> tuple[LengthAnswer, ...]:
    """Answers on length, one for each task judged on the same test examples with a short window and with a long one."""
    asked: defaultdict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.kind in ("sweep", "finetune") and run.tags.get(Tag.MAX_TOKENS, "").isdecimal():
            asked[tuple(run.tags.get(tag, "") for tag in (Tag.TASK, Tag.METRIC, Tag.DATA))].append(run)  # type: ignore[index]
    found = (_answer(tracking, task, metric, same) for (task, metric, _), same in sorted(asked.items()))
    answers = [answer for answer in found if answer]
    adjusted = iter(holm([answer.over_seeds.p_value for answer in answers if answer.over_seeds]))
    return tuple(replace(answer, p_value=next(adjusted)) if answer.over_seeds else answer for answer in answers)


def _answer(tracking: Tracking, task: str, metric: str, runs: Sequence[RunRecord]) -> LengthAnswer | None:
    windows = {_window(run) for run in runs}
    if not min(windows) <= SHORT_TOKENS < max(windows):
        return None
    models = [judged for run in runs if (judged := _judged(tracking, run, task, metric))]
    models.sort(key=lambda one: (one.max_tokens, one.name))
    short = _best([one for one in models if one.max_tokens <= SHORT_TOKENS])
    long = _best([one for one in models if one.max_tokens > SHORT_TOKENS])
    if short is None or long is None:
        return None
    try:
        found = compare(long.outcomes[0], short.outcomes[0])
        seeds = compare_seeds(long.outcomes, short.outcomes)
    except DataError:  # runs on other files under one fingerprint cannot be, but tags can be edited
        return None
    return LengthAnswer(task, metric, tuple(models), long, short, found, seeds)


def _judged(tracking: Tracking, run: RunRecord, task: str, metric: str) -> Judged | None:
    outcomes = stored_outcomes(tracking, run.id)
    if not outcomes:
        return None
    score = estimate(outcomes[0])
    if math.isnan(score.value):  # as ROC AUC on test examples of one label
        return None
    bands = {band.name: band for band in by_length(outcomes[0], resamples=0)}
    dev = finite(run.metrics.get(f"dev/{task}/{metric}"))
    return Judged(run.name, _window(run), dev, score, bands, outcomes)


def _best(models: Sequence[Judged]) -> Judged | None:
    return max(models, key=lambda one: -1.0 if one.dev is None else one.dev, default=None)


def _window(run: RunRecord) -> int:
    return int(run.tags[Tag.MAX_TOKENS])
