"""Classical baselines through scikit-learn: what a model must beat to be worth a GPU.

Seconds to minutes on one CPU core, trained on `train`, untuned: scores to compare with, not to ship.
"""

from collections.abc import Callable

from clinscale.tasks.example import TaskData
from clinscale.tasks.kinds import Prediction, kind_of, metric_of
from clinscale.tasks.statistics import Outcomes, compare

Baseline = Callable[[TaskData, str], list[Prediction]]
"""(data, split) -> predictions on the split."""

NEXT_STEP = "give more data, start from a pretrained base, or search longer"
"""Advice on a model that has not learned more than a baseline."""


def classical(data: TaskData, split: str = "test") -> list[Prediction]:
    """Predictions of a linear model on a split, in the form of the task's kind; see `baseline` of each kind."""
    return kind_of(data.task).baseline(data.splits["train"], data.splits[split], data.labels)


def trivial(data: TaskData, split: str = "test") -> list[Prediction]:
    """Answers without reading: the majority label, no entities, no answer."""
    return kind_of(data.task).trivial(data.splits["train"], data.splits[split], data.labels)


def baseline_outcomes(data: TaskData, baseline: Baseline, split: str = "test") -> Outcomes:
    """Outcomes of `trivial` or `classical` on a split; lengths are in words.

    Where models have a threshold, the baseline has its own, chosen on the development split by the same rule.
    """
    kind, examples = kind_of(data.task), data.splits[split]
    if kind.chooses_threshold(data.labels):
        dev = kind.dev_scores(data.splits["dev"], baseline(data, "dev"), data.labels)
        kind = kind_of(data.task.model_copy(update={"threshold": dev["threshold"]}))
    return Outcomes.of(kind, examples, baseline(data, split), data.labels, lambda text: len(text.split()))


def baseline_remark(ours: Outcomes, theirs: Outcomes, baseline: str) -> str:
    """The sentence on a model that does not beat a baseline beyond noise; empty where it does.

    Args:
        ours: outcomes of the model.
        theirs: of the baseline, on the same examples.
        baseline: `trivial` or `linear`.

    Raises:
        DataError: they are not of the same examples.
    """
    found = compare(ours, theirs)
    if found.exceeds():
        return ""
    return (
        f"{metric_of(ours.task)} {ours.value():.4f} does not beat the {baseline} baseline's {theirs.value():.4f} "
        f"beyond noise: {found}; {NEXT_STEP}"
    )
