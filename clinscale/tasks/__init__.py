"""What is asked of a model: task contract, four kinds (sequence, pair, tokens, spans), open formats, catalog.

    task files ──read_task──▶ TaskData ──kind.windows──▶ model ──kind.decode──▶ predictions ──kind.score──▶ metrics

A task is data (`TaskConfig`, a YAML file); a `Kind` is code. This room loads neither torch nor transformers:
tokenizers come in as arguments, outputs as NumPy arrays.
"""

from clinscale.tasks.catalog import catalog, load_task
from clinscale.tasks.example import Answer, Entity, Example, TaskData
from clinscale.tasks.kinds import Kind, Prediction, Window, kind_of, metric_of
from clinscale.tasks.read import read_task
from clinscale.tasks.task import ColumnsConfig, TaskConfig

__all__ = [
    "Answer",
    "ColumnsConfig",
    "Entity",
    "Example",
    "Kind",
    "Prediction",
    "TaskConfig",
    "TaskData",
    "Window",
    "catalog",
    "kind_of",
    "load_task",
    "metric_of",
    "read_task",
]
