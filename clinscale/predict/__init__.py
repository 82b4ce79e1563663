"""A trained folder answers on documents of any length: the one code path for evaluation, serving and the CLI."""

from clinscale.predict.batching import collate, length_sorted_batches
from clinscale.predict.card import TaskCard
from clinscale.predict.inputs import read_documents, write_predictions
from clinscale.predict.packaging import as_pyfunc
from clinscale.predict.predictor import Predictor, load_predictor
from clinscale.predict.workers import predict_files

__all__ = [
    "Predictor",
    "TaskCard",
    "as_pyfunc",
    "collate",
    "length_sorted_batches",
    "load_predictor",
    "predict_files",
    "read_documents",
    "write_predictions",
]
