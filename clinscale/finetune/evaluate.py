"""Test metrics, once, from the folder that will be shipped."""

from dataclasses import dataclass
from pathlib import Path

from clinscale.errors import DataError
from clinscale.models import Attention
from clinscale.predict import load_predictor
from clinscale.registry import Tag
from clinscale.tasks import TaskData, kind_of, metric_of


@dataclass(frozen=True)
class Judgement:
    """Scores on the test split, beside those of the trivial baseline."""

    metric: str
    """The one of the metrics that decides."""
    test: dict[str, float]
    trivial: dict[str, float]
    """Majority class, no entities, or no answer."""

    def as_metrics(self, task: str) -> dict[str, float]:
        """By their MLflow keys."""
        return {f"test/{task}/{name}": value for name, value in self.test.items()} | {
            f"trivial/{task}/{name}": value for name, value in self.trivial.items()
        }


def task_tags(data: TaskData) -> dict[str, str]:
    """What runs and versions made from a task's data carry, so that a score can be walked back to it."""
    return {
        Tag.TASK: data.task.name,
        Tag.TASK_KIND: data.task.kind,
        Tag.METRIC: metric_of(data.task),
        Tag.DATA: data.fingerprint,
    }


def judge(folder: str | Path, data: TaskData, *, attention: Attention = "exact") -> Judgement:
    """Score a fine-tuned folder on the test split through the path that serves; DataError without test examples."""
    examples = data.splits.get("test", ())
    if not examples:
        raise DataError(f"task {data.task.name} has no test examples; check its splits")
    kind = kind_of(data.task)
    trivial = kind.trivial(data.splits["train"], examples, data.labels)
    return Judgement(
        metric=metric_of(data.task),
        test=load_predictor(folder, attention=attention).score(examples),
        trivial=kind.score(examples, trivial, data.labels),
    )
