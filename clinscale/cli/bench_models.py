"""`clinscale bench attention`, `step` and `predict`: a model's work against Hugging Face's."""

from enum import StrEnum
from typing import Annotated

import typer

from clinscale.cli.bench_run import (
    Device,
    Families,
    Family,
    HiddenSize,
    Precision,
    Precisions,
    Repeats,
    Rows,
    Threads,
    Tokens,
    names_of,
    run,
)
from clinscale.cli.options import Json

Answers = StrEnum("Answers", ["classification", "entities"])


def attention(
    tokens: Tokens = 4096,
    rows: Rows = 1,
    threads: Threads = 1,
    repeats: Repeats = 5,
    family: Families = None,
    precision: Precisions = None,
    hidden_size: HiddenSize = 768,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Self-attention modules and the MLM head, forward and backward, against Hugging Face's.

    Example: `clinscale bench attention --family bigbird --precision fp32`
    """
    from clinscale.bench import bench_attention

    run(
        bench_attention,
        threads,
        json,
        tells=True,
        tokens=tokens,
        rows=rows,
        repeats=repeats,
        families=names_of(family, Family),
        precisions=names_of(precision, Precision),
        hidden_size=hidden_size,
        device=device,
    )


def step(
    tokens: Tokens = 4096,
    rows: Rows = 1,
    layers: Annotated[list[int] | None, typer.Option(help="Depths; 2 and 12 by default.")] = None,
    threads: Threads = 1,
    repeats: Repeats = 5,
    family: Families = None,
    precision: Precisions = None,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Hidden and attention dropout.")] = 0.0,
    hidden_size: HiddenSize = 768,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Whole steps of masked-language training, against Hugging Face's.

    Example: `clinscale bench step --layers 2 --family longformer --json`
    """
    from clinscale.bench import bench_step

    run(
        bench_step,
        threads,
        json,
        tells=True,
        tokens=tokens,
        rows=rows,
        layers=tuple(layers or (2, 12)),
        repeats=repeats,
        families=names_of(family, Family),
        precisions=names_of(precision, Precision),
        dropout=dropout,
        hidden_size=hidden_size,
        device=device,
    )


def predict(
    documents: Annotated[int, typer.Option(min=1, help="Invented notes.")] = 16,
    tokens: Annotated[
        tuple[int, int], typer.Option(help="Of the shortest and the longest note; the others are evenly between.")
    ] = (1000, 6000),
    max_tokens: Annotated[int, typer.Option(min=64, help="Window of the model.")] = 4096,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of one forward pass.")] = 8,
    layers: Annotated[int, typer.Option(min=1, help="Of the model; 12 at width 768 is base.")] = 12,
    hidden_size: HiddenSize = 768,
    kind: Annotated[
        list[Answers] | None, typer.Option("--kind", help="Repeat for several; both by default.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Of both sides' weights.")] = Precision.fp32,
    family: Families = None,
    threads: Threads = 1,
    repeats: Repeats = 5,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Answers on notes longer than the model, text in, against Hugging Face's pipeline and a loop over its model.

    Example: `clinscale bench predict --family longformer --kind classification`
    """
    from clinscale.bench import bench_predict

    run(
        bench_predict,
        threads,
        json,
        tells=True,
        documents=documents,
        tokens=tokens,
        max_tokens=max_tokens,
        batch_size=batch_size,
        layers=layers,
        hidden_size=hidden_size,
        families=names_of(family, Family),
        kinds=names_of(kind, Answers),
        precision=precision.value,
        repeats=repeats,
        device=device,
    )
