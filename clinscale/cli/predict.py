"""`clinscale predict`: answers on documents of any length."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clinscale.cli.options import DEFAULT_HOME, Address, Home, Json, TrackingUri, local_only
from clinscale.cli.output import Steps, emit, json_text
from clinscale.cli.outputs import check_new
from clinscale.errors import ConfigError
from clinscale.models import Attention, InferencePrecision

if TYPE_CHECKING:
    from clinscale.predict import Tally

# those of clinscale.tasks, which mypy compares: to import it would load NumPy for every verb
_OnError = Literal["raise", "skip"]
_Format = Literal["text", "records", "bio", "i2b2_xml", "squad"]


def predict(
    model: Annotated[str, typer.Argument(help="Folder of a fine-tuned model, or NAME, NAME@alias, NAME/version.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files and folders: text (one document each), CSV, JSONL, Parquet and other tables, BIO, SQuAD, XML."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=local_only,
            help="File for the answers: .jsonl, .parquet, or .csv (formulas made harmless by ').",
        ),
    ] = None,
    on_error: Annotated[
        _OnError | None,
        typer.Option(
            "--on-error",
            help="What cannot be read: raise refuses all, skip gives it a line with its error; default: as the task.",
        ),
    ] = None,
    format: Annotated[
        _Format | None,
        typer.Option("--format", help="What each input is; otherwise its name and beginning decide."),
    ] = None,
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
    """Predict on documents of any length: entities and answers are stitched from windows.

    A text to classify that is longer than the model is read as in training: by default its beginning.

    Files are read as the model's task read them for training, without labels. Each document gets a line with its `id`,
    `file` and `row`, then its answer or an `error`, in order. Documents and answers are streamed, so that neither has
    to fit into memory; with `--workers` on a cluster, inputs and HOME are where all nodes see them.

    Offsets count characters of the text as its file has it: a Windows line end is two, a byte-order mark none. Python
    reads such a text by `open(file, encoding="utf-8-sig", newline="")`.

    Example: `clinscale predict tcga_organ@champion reports.csv --out predictions.jsonl`
    """
    from clinscale import registry
    from clinscale.predict import Line, TaskCard, check_out, is_of_answers, predict_files
    from clinscale.runtime import ray_session
    from clinscale.tasks import kind_of

    if workers and out is None:
        raise ConfigError(f"--workers {workers} writes its answers to a file; add --out predictions.jsonl")
    if out is not None:
        check_out(out)
        check_new(out, is_of_answers)
    folder, label = model, model
    if not model.strip() or not Path(model).exists():
        fetched = registry.fetch_model(registry.connect(tracking_uri, home=home), model, home=home)
        folder, label = fetched.path, fetched.label
    lines: list[Line] = []
    with (
        ray_session(address) if workers else contextlib.nullcontext() as cluster,
        Steps("Predicting") as steps,
    ):
        tally = predict_files(
            folder,
            inputs,
            out,
            on_error=on_error,
            format=format,
            num_workers=workers,
            cluster=cluster,
            batch_size=batch_size,
            attention=attention,
            precision=precision,
            on_lines=lines.extend if out is None or (json and not workers) else None,
            on_progress=lambda done, total, windows: steps.update(
                done, total, f"documents, {windows} windows" if windows else "documents"
            ),
        )
    card = TaskCard.read(folder)
    values = {
        "task": card.task.name,
        "model": label,
        "precision": precision,
        "documents": tally.documents,
        "errors": tally.errors,
        "repeated_ids": tally.repeated_ids,
        **({} if card.task.threshold is None else {"threshold": card.task.threshold}),
        **({"out": str(out)} if workers else {"predictions": lines}),
    }
    shown = [] if out else [json_text(line) for line in lines]
    told = kind_of(card.task).reading_of_threshold(card.labels)
    emit(values, as_json=json, people=[*shown, _summary(tally, out, label) + (f"; {told}" if told else "")])


def _summary(tally: "Tally", out: Path | None, model: str) -> str:
    sentence = f"{tally.documents - tally.errors} of {tally.documents} documents predicted"
    sentence = sentence if tally.errors else f"{tally.documents} documents predicted"
    sentence += f" by {model}"
    sentence += f", written to {out}" if out else ""
    if tally.errors:
        sentence += f"; {tally.errors} could not be read and have a line with their error"
    if tally.repeated_ids:
        sentence += f"; {tally.repeated_ids} have the id of an earlier one: file and row distinguish them"
    return sentence
