"""A trained folder answers on documents of any length: the one code path for evaluation, serving and the CLI."""

from clinscale.predict.answers import Line, Tally, answer, check_out, is_of_answers, open_answers
from clinscale.predict.batching import collate, length_sorted_batches
from clinscale.predict.card import TaskCard
from clinscale.predict.files import predict_files
from clinscale.predict.inputs import Document, Inputs
from clinscale.predict.packaging import as_pyfunc
from clinscale.predict.predictor import Predictor, load_predictor, windows_of

__all__ = [
    "Document",
    "Inputs",
    "Line",
    "Predictor",
    "Tally",
    "TaskCard",
    "answer",
    "as_pyfunc",
    "check_out",
    "collate",
    "is_of_answers",
    "length_sorted_batches",
    "load_predictor",
    "open_answers",
    "predict_files",
    "windows_of",
]
