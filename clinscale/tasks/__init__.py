"""Tasks of a model: contract, kinds (sequence, pair, tokens, spans, relations), open formats, catalog.

    task files ──read_task──▶ TaskData ──kind.windows──▶ model ──kind.decode──▶ predictions ──kind.score──▶ metrics

A task is data (`TaskConfig`, a YAML file); a `Kind` is code. This room loads neither torch nor transformers:
tokenizers come in as arguments, outputs as NumPy arrays.
"""

from clinscale.tasks.baselines import NEXT_STEP, baseline_outcomes, baseline_remark, classical, trivial
from clinscale.tasks.catalog import catalog, load_task, options_of
from clinscale.tasks.example import Answer, Entity, Example, TaskData
from clinscale.tasks.findings import Findings, NoExamplesError, OnError
from clinscale.tasks.kinds import (
    Kind,
    LongDocuments,
    Prediction,
    Window,
    check_use,
    column,
    kind_of,
    metric_of,
    scores_equal,
    threshold_sentence,
)
from clinscale.tasks.read import lines_of, read_examples, read_task
from clinscale.tasks.resampling import Estimate
from clinscale.tasks.statistics import (
    Band,
    Comparison,
    Outcomes,
    by_length,
    compare,
    compare_seeds,
    differences_by_label,
    differences_by_length,
    estimate,
    estimate_mean,
    estimate_seeds,
    holm,
)
from clinscale.tasks.survey import counts_of, survey
from clinscale.tasks.task import KINDS, ColumnsConfig, TaskConfig
from clinscale.tasks.unlabelled import (
    DOCUMENT_SUFFIXES,
    DocumentFormat,
    Unlabelled,
    document_format,
    fault_of_texts,
    read_unlabelled,
)

__all__ = [
    "DOCUMENT_SUFFIXES",
    "KINDS",
    "NEXT_STEP",
    "Answer",
    "Band",
    "ColumnsConfig",
    "Comparison",
    "DocumentFormat",
    "Entity",
    "Estimate",
    "Example",
    "Findings",
    "Kind",
    "LongDocuments",
    "NoExamplesError",
    "OnError",
    "Outcomes",
    "Prediction",
    "TaskConfig",
    "TaskData",
    "Unlabelled",
    "Window",
    "baseline_outcomes",
    "baseline_remark",
    "by_length",
    "catalog",
    "check_use",
    "classical",
    "column",
    "compare",
    "compare_seeds",
    "counts_of",
    "differences_by_label",
    "differences_by_length",
    "document_format",
    "estimate",
    "estimate_mean",
    "estimate_seeds",
    "fault_of_texts",
    "holm",
    "kind_of",
    "lines_of",
    "load_task",
    "metric_of",
    "options_of",
    "read_examples",
    "read_task",
    "read_unlabelled",
    "scores_equal",
    "survey",
    "threshold_sentence",
    "trivial",
]
