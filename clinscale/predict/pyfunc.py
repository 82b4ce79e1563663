"""The MLflow model of a registered version, written as a model from code.

MLflow executes this file when a version is loaded; the HF folder is its artifact `hf`. Input is a table with a
`text` column and what else the task's kind needs (`text_pair`: the hypothesis or the question); output is one
prediction per row.

The version carries clinscale's code for prediction in one archive, which comes before an installed clinscale. In a
process that has imported clinscale already, that one answers, and Python's path stays as it is: processes that it
spawns would import the archive.
"""

# the archive must be on the path before clinscale is imported from it

import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc

# MLflow would print the whole table into its error about one that lacks a column or has a column of numbers
os.environ.setdefault("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")

if "clinscale" not in sys.modules:
    sys.path[:0] = map(str, Path(__file__).parent.glob("code/*.zip"))

import clinscale
from clinscale.cells import CellError
from clinscale.errors import ConfigError
from clinscale.predict import Document, answer, load_predictor
from clinscale.records import Record
from clinscale.tasks import Example, fault_of_texts

# the rooms that no version carries, the registry say, come from an installed clinscale where there is one
clinscale.__path__ = pkgutil.extend_path(clinscale.__path__, clinscale.__name__)


class ClinscaleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Loads the HF folder once and answers through `clinscale.predict`."""

    _skip_type_hint_validation = True  # MLflow's way to say that rows are checked here and not by type hints

    def load_context(self, context: Any) -> None:
        """Called by MLflow with the downloaded artifacts."""
        self._predictor = load_predictor(context.artifacts["hf"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[Any]:
        """One JSON-ready prediction for each row of a table with `text` and, where needed, `text_pair`.

        `params["batch_size"]` is the most windows of one forward pass. `params["on_error"]` says what becomes of a row
        without text: `raise` (also where the task says nothing else) refuses all, `skip` answers it by an `error`.

        Raises:
            ConfigError: a batch size below 1, or an `on_error` that is neither.
            DataError: absent column, or a row without text.
        """
        usual = self._predictor.batch_size
        batch_size = int((params or {}).get("batch_size", usual))
        if batch_size < 1:
            raise ConfigError(
                f"params: batch_size must be at least 1, got {batch_size}; leave it out for the usual one"
            )
        on_error = (params or {}).get("on_error") or self._predictor.card.task.on_error
        if on_error not in ("raise", "skip"):
            raise ConfigError(
                f"params: on_error must be raise or skip, got {on_error!r}; leave it out for the task's own"
            )
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        kind = self._predictor.kind
        documents = []
        for number, fields in enumerate(rows, 1):
            record = Record("input", number, fields)
            example, fault = None, ""
            try:
                text = record.text("text")
                second = record.text("text_pair") if kind.second_text_column else None
                if why := fault_of_texts(text, second):
                    raise CellError(why, "fix it or drop the row", record.place)
                example = Example(str(number), text, second, **kind.read_given(record, text))
            except CellError as error:
                if on_error == "raise":
                    raise
                fault = error.reason
            documents.append(Document(str(number), "input", number, example, fault))
        self._predictor.batch_size = batch_size
        try:
            lines = answer(self._predictor, documents, on_error)
        finally:  # params are of one call
            self._predictor.batch_size = usual
        return [{key: value for key, value in line.items() if key not in ("id", "file", "row")} for line in lines]


mlflow.models.set_model(ClinscaleModel())
