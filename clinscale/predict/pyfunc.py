"""The MLflow model of a registered version, written as a model from code.

MLflow executes this file when a version is loaded; the HF folder is its artifact `hf`. Input is a table with a
`text` column (and `text_pair`: the hypothesis or the question); output is one prediction per row.
"""

from typing import Any

import mlflow.models
import mlflow.pyfunc

from clinscale.predict import load_predictor
from clinscale.records import Record
from clinscale.tasks import Example


class ClinscaleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Loads the HF folder once and answers through `clinscale.predict`."""

    _skip_type_hint_validation = True  # MLflow's way to say that rows are checked here and not by type hints

    def load_context(self, context: Any) -> None:
        """Called by MLflow with the downloaded artifacts."""
        self._predictor = load_predictor(context.artifacts["hf"])

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[Any]:
        """One JSON-ready prediction for each row of a table with `text` and, where needed, `text_pair`.

        Raises:
            DataError: absent column, or a row without text.
        """
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        pair = self._predictor.card.task.kind in ("pair", "spans")
        examples = []
        for number, fields in enumerate(rows, 1):
            record = Record("input", number, fields)
            examples.append(
                Example(
                    id=str(number),
                    text=record.text("text"),
                    text_pair=record.text("text_pair") if pair else None,
                )
            )
        return self._predictor.predict(examples)


mlflow.models.set_model(ClinscaleModel())
