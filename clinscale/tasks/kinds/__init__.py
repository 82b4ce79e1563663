"""The kinds of task: examples to model inputs, model outputs to predictions, predictions to scores."""

from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.tasks.example import TaskData
from clinscale.tasks.kinds.classification import threshold_sentence
from clinscale.tasks.kinds.kind import Kind, LongDocuments, Prediction, Reader, Window, column
from clinscale.tasks.kinds.pair import PairKind
from clinscale.tasks.kinds.relations import RelationsKind
from clinscale.tasks.kinds.sequence import SequenceKind
from clinscale.tasks.kinds.spans import SpansKind
from clinscale.tasks.kinds.tokens import TokensKind
from clinscale.tasks.task import KINDS, TaskConfig

__all__ = [
    "Kind",
    "LongDocuments",
    "Prediction",
    "Reader",
    "Window",
    "check_use",
    "column",
    "kind_of",
    "metric_of",
    "scores_equal",
    "threshold_sentence",
]

_KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        SequenceKind,
        PairKind,
        TokensKind,
        SpansKind,
        RelationsKind,
    )
}
KINDS.update(_KINDS)


def kind_of(task: TaskConfig) -> Kind:
    """The kind of `task`, set up with the task's own choices.

    Raises:
        ConfigError: the task's metric is none of its kind's.
    """
    kind = _KINDS[task.kind](task)
    if kind.metric not in kind.metrics:
        raise ConfigError(
            f"task {task.name}: metric must be one of kind {task.kind}, got {kind.metric!r}; "
            f"{nearest(kind.metric, kind.metrics)}"
        )
    return kind


def metric_of(task: TaskConfig) -> str:
    """The metric that selects the best model of `task`: its own choice, else the default of its kind."""
    return kind_of(task).metric


def check_use(data: TaskData) -> None:
    """Refuse data by which every training would be judged alike, or not at all, before there is any.

    Raises:
        DataError: a split lacks gold that the kind, or in dev and test the metric, needs.
    """
    kind = kind_of(data.task)
    for split, examples in data.splits.items():
        if examples:
            kind.check_use(examples, data.labels, split)


def scores_equal(task: TaskConfig) -> str:
    """Name of the script whose scores those of `task` equal."""
    return kind_of(task).scores_equal
