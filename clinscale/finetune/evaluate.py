"""Test metrics, once, from the folder that will be shipped, with how sure they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clinscale import models, registry
from clinscale.errors import ChangedDataError, DataError
from clinscale.models import Attention
from clinscale.predict import load_predictor
from clinscale.registry import Tag
from clinscale.tasks import (
    Band,
    Comparison,
    Estimate,
    Outcomes,
    TaskData,
    baseline_outcomes,
    by_length,
    compare,
    estimate,
    kind_of,
    metric_of,
    trivial,
)

OUTCOMES_FILE = "test_outcomes.json"
"""Artifact of runs that judged the test split: what became of each example, without text."""
OUTCOMES_BY_SEED_FILE = "test_outcomes_by_seed.json"
"""Artifact of runs that trained one recipe under more seeds: a list of the others' outcomes."""
TRIVIAL_OUTCOMES_FILE = "trivial_outcomes.json"
"""Artifact of sweeps: the outcomes of the trivial baseline on the same test, which a first champion must beat."""

SHORT_TOKENS = 512
"""Window of BERT; models that read more are also judged in windows of this length."""


@dataclass(frozen=True)
class Scores:
    """Scores on the test split, beside those of the trivial baseline; the stored part of a judgement."""

    metric: str
    """The one of the metrics that decides."""
    test: dict[str, float]
    trivial: dict[str, float]
    """Majority class, no entities, or no answer."""
    interval: Estimate
    """95 % interval of the metric, by bootstrap over documents."""
    lengths: tuple[Band, ...]
    """The metric by length of the document in the model's own tokens."""
    calibration: dict[str, float]
    """Distances of the stated probabilities from the truth; lower is better. Classification only."""
    max_tokens: int
    """Window that the model read."""
    short: Comparison | None
    """Advantage of the whole window over windows of SHORT_TOKENS, with the same weights; None where the window
    is no longer than that."""

    def as_metrics(self, task: str, dev: float) -> dict[str, float]:
        """All metrics by their MLflow keys; `dev` is that on the development split, by which the model was chosen."""
        return {
            f"dev/{task}/{self.metric}": dev,
            **{f"test/{task}/{name}": value for name, value in (self.test | self.calibration).items()},
            **{f"trivial/{task}/{name}": value for name, value in self.trivial.items()},
            f"test/{task}/{self.metric}_low": self.interval.low,
            f"test/{task}/{self.metric}_high": self.interval.high,
            **{f"test/{task}/{self.metric}/{band.name}": band.score.value for band in self.lengths},
            **({f"test/{task}/{self.metric}_above_512_tokens": self.short.difference.value} if self.short else {}),
        }

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back; outcomes have their own files."""
        return asdict(Scores(*(getattr(self, field.name) for field in fields(Scores))))

    @staticmethod
    def parse(values: Mapping[str, Any], *, source: str) -> "Scores":
        """Scores from a mapping that has the values of `plain` among others; DataError when it has not."""
        try:
            short = values.get("short")
            return Scores(
                metric=values["metric"],
                test=dict(values["test"]),
                trivial=dict(values["trivial"]),
                interval=Estimate(**values["interval"]),
                lengths=tuple(Band(**{**band, "score": Estimate(**band["score"])}) for band in values["lengths"]),
                calibration=dict(values["calibration"]),
                max_tokens=values["max_tokens"],
                short=Comparison(Estimate(**short["difference"]), short["p_value"]) if short else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(f"{source} holds no scores of a test; judge the model again") from None


@dataclass(frozen=True)
class Judgement(Scores):
    """Scores on the test split with the outcomes that they were counted from."""

    outcomes: Outcomes
    """Outcome of each example, for comparing models later."""
    trivial_outcomes: Outcomes
    """Outcomes of the trivial baseline on the same examples."""


def stored_outcomes(tracking: registry.Tracking, run_id: str) -> tuple[Outcomes, ...]:
    """Test outcomes that a run logged, the kept seed first, then the others of its recipe; empty if it judged none."""
    kept = registry.read_json_artifact(tracking, run_id, OUTCOMES_FILE)
    others = registry.read_json_artifact(tracking, run_id, OUTCOMES_BY_SEED_FILE) or []
    return tuple(Outcomes.parse(one, source=f"run {run_id}") for one in (kept, *others) if one)


def stored_trivial_outcomes(tracking: registry.Tracking, run_id: str) -> Outcomes | None:
    """Outcomes of the trivial baseline that a run logged; None when it logged none, as those of earlier versions."""
    kept = registry.read_json_artifact(tracking, run_id, TRIVIAL_OUTCOMES_FILE)
    return Outcomes.parse(kept, source=f"run {run_id}") if kept else None


def task_tags(data: TaskData) -> dict[str, str]:
    """Tags of runs and versions made from a task's data, by which a score can be traced back to it."""
    return {
        Tag.TASK: data.task.name,
        Tag.TASK_KIND: data.task.kind,
        Tag.METRIC: metric_of(data.task),
        Tag.DATA: data.fingerprint,
    }


def task_inputs(data: TaskData) -> registry.UsedData:
    """A task's data as MLflow names it among a run's inputs."""
    counts = {f"{split} examples": len(examples) for split, examples in data.splits.items()}
    return registry.UsedData(data.task.name, data.fingerprint, "fine-tuning", counts)


def check_judged(folder: Path, fingerprint: str, *, of: Path) -> None:
    """Check that an HF folder still holds the model that was judged, whose fingerprint a file `of` results has.

    Raises:
        DataError: it is not there. ChangedDataError: it is another one by now.
    """
    models.check_hf_folder(folder)
    now = models.model_fingerprint(folder)
    if fingerprint not in ("", now):  # empty in files of earlier versions
        raise ChangedDataError(
            f"{folder} no longer holds the model whose scores {of.name} beside it has (fingerprint {fingerprint} "
            f"before, {now} now); put it back, or begin anew under another name"
        )


def judge(folder: str | Path, data: TaskData, *, attention: Attention = "exact") -> Judgement:
    """Score a fine-tuned folder on the test split through the path that serves.

    Raises:
        DataError: there are no test examples, or the task's metric is not defined on them.
    """
    examples = data.splits.get("test", ())
    if not examples:
        raise DataError(f"task {data.task.name} has no test examples; check its splits")
    predictor = load_predictor(folder, attention=attention)
    kind, outcomes = predictor.kind, predictor.outcomes(examples)
    max_tokens = predictor.card.max_tokens
    short = None
    if max_tokens > SHORT_TOKENS:
        predictor.card = predictor.card.model_copy(update={"max_tokens": SHORT_TOKENS})
        short = compare(outcomes, predictor.outcomes(examples))
    nothing_read = baseline_outcomes(data, trivial)
    return Judgement(
        metric=metric_of(data.task),
        test=kind.all_scores(outcomes.rows),
        trivial=kind_of(nothing_read.task).all_scores(nothing_read.rows),
        interval=estimate(outcomes),
        lengths=tuple(by_length(outcomes)),
        calibration=kind.calibration(outcomes.rows),
        max_tokens=max_tokens,
        outcomes=outcomes,
        trivial_outcomes=nothing_read,
        short=short,
    )
