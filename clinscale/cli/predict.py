"""`clinscale predict`: answers on documents of any length."""

from pathlib import Path
from typing import Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, TrackingUri
from clinscale.cli.output import Steps, emit
from clinscale.models import Attention


def predict(
    model: Annotated[str, typer.Argument(help="Folder of a fine-tuned model, or NAME, NAME@alias, NAME/version.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Text files (one document each), CSV, JSONL, Parquet; folders.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="JSON lines file for the predictions.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 8,
    attention: Annotated[
        Attention, typer.Option("--attention", help="exact: HF's numbers, faster; hf: HF's own code.")
    ] = "exact",
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Predict on documents longer than the model, too: windows are stitched.

    Example: `clinscale predict tcga_organ@champion reports.csv --out predictions.jsonl`
    """
    from clinscale import registry
    from clinscale.predict import load_predictor, read_documents, write_predictions

    folder = model
    if not Path(model).exists():
        folder = registry.fetch_model(registry.connect(tracking_uri, home=home), model, home=home).path
    predictor = load_predictor(folder, batch_size=batch_size, attention=attention)
    documents = list(read_documents(inputs, predictor.card))
    done = 0

    with Steps("Predicting") as steps:

        def on_progress(windows: int) -> None:
            nonlocal done
            done += windows
            steps.update(done, None, f"windows of {len(documents)} documents")

        predictions = predictor.predict(documents, on_progress)
    if out is not None:
        write_predictions(out, documents, predictions)
    rows = [{"id": document.id, **prediction} for document, prediction in zip(documents, predictions, strict=True)]
    values = {"task": predictor.card.task.name, "documents": len(rows), "predictions": rows}
    written = f"{len(rows)} documents predicted" + (f", written to {out}" if out else "")
    emit(values, as_json=json, people=[*([] if out else map(str, rows)), written])
