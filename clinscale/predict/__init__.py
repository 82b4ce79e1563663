"""A trained folder answers on documents of any length: the one code path for evaluation, serving and the CLI."""

from clinscale.predict.batching import collate, length_sorted_batches
from clinscale.predict.card import TaskCard
from clinscale.predict.inputs import read_documents, write_predictions
from clinscale.predict.predictor import Predictor, load_predictor
from clinscale.predict.requirements import PYFUNC_CODE, pip_requirements

__all__ = [
    "PYFUNC_CODE",
    "Predictor",
    "TaskCard",
    "collate",
    "length_sorted_batches",
    "load_predictor",
    "pip_requirements",
    "read_documents",
    "write_predictions",
]
