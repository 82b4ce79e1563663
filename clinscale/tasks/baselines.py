"""Classical baselines through scikit-learn: what a model must beat to be worth a GPU.

Seconds to minutes on one CPU core, trained on `train`, untuned: scores to compare with, not to ship.
"""

from clinscale.tasks.example import TaskData
from clinscale.tasks.kinds import Prediction, kind_of


def classical(data: TaskData, split: str = "test") -> list[Prediction]:
    """Predictions of a linear model on a split, in the form of the task's kind; see `baseline` of each kind."""
    return kind_of(data.task).baseline(data.splits["train"], data.splits[split], data.labels)


def trivial(data: TaskData, split: str = "test") -> list[Prediction]:
    """Answers without reading: the majority label, no entities, no answer."""
    return kind_of(data.task).trivial(data.splits["train"], data.splits[split], data.labels)
