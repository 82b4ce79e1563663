"""`clinscale predict`: answers on documents of any length."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Address, Home, Json, TrackingUri
from clinscale.cli.output import Steps, emit
from clinscale.errors import ConfigError
from clinscale.models import Attention, InferencePrecision


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
    precision: Annotated[
        InferencePrecision, typer.Option("--precision", help="bf16: half the memory, faster, a little off.")
    ] = "fp32",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes on Ray that share the documents, a GPU each where there are; needs --out."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Predict on documents longer than the model, too: windows are stitched.

    With `--workers` documents and answers are streamed, so that neither has to fit into memory; on a cluster, inputs
    and HOME lie where all nodes see them.

    Example: `clinscale predict tcga_organ@champion reports.csv --out predictions.jsonl`
    """
    from clinscale import registry

    if workers and out is None:
        raise ConfigError(f"--workers {workers} writes its answers to a file; add --out predictions.jsonl")
    folder = model
    if not Path(model).exists():
        folder = registry.fetch_model(registry.connect(tracking_uri, home=home), model, home=home).path
    if workers and out is not None:
        values = _on_workers(folder, inputs, out, workers, address, batch_size, attention, precision)
        shown: list[str] = []
    else:
        values = _here(folder, inputs, out, batch_size, attention, precision)
        shown = [] if out else list(map(str, values["predictions"]))
    written = f"{values['documents']} documents predicted" + (f", written to {out}" if out else "")
    emit(values, as_json=json, people=[*shown, written])


def _here(
    folder: str,
    inputs: list[str],
    out: Path | None,
    batch_size: int,
    attention: Attention,
    precision: InferencePrecision,
) -> dict[str, Any]:
    from clinscale.predict import load_predictor, read_documents, write_predictions

    predictor = load_predictor(folder, batch_size=batch_size, attention=attention, precision=precision)
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
    task = predictor.card.task.name
    return {"task": task, "precision": precision, "documents": len(rows), "predictions": rows}


def _on_workers(
    folder: str,
    inputs: list[str],
    out: Path,
    workers: int,
    address: str | None,
    batch_size: int,
    attention: Attention,
    precision: InferencePrecision,
) -> dict[str, Any]:
    from clinscale.predict import TaskCard, predict_files
    from clinscale.runtime import ray_session

    with ray_session(address) as cluster, Steps("Predicting") as steps:
        documents = predict_files(
            folder,
            inputs,
            out,
            num_workers=workers,
            cluster=cluster,
            batch_size=batch_size,
            attention=attention,
            precision=precision,
            on_progress=lambda done, total: steps.update(done, total, "documents"),
        )
    task = TaskCard.read(folder).task.name
    return {"task": task, "precision": precision, "documents": documents, "out": str(out)}
