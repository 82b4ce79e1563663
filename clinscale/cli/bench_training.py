"""`clinscale bench checkpoint`, `zero`, `plan` and `pretrain`: training on several workers, and forecasts of it."""

import statistics
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.bench_run import (
    HiddenSize,
    NumWorkers,
    Precision,
    Repeats,
    Stages,
    Threads,
    Tokens,
    names_of,
    people_of,
    run,
)
from clinscale.cli.options import Json
from clinscale.cli.output import table as table_of

if TYPE_CHECKING:
    from clinscale.bench import BenchRecord


def checkpoint(
    layers: Annotated[int, typer.Option(min=1, help="Of the model; 12 at width 768 is base.")] = 12,
    hidden_size: HiddenSize = 768,
    tokens: Tokens = 1024,
    stage: Annotated[int, typer.Option(min=0, max=3, help="ZeRO stage.")] = 2,
    threads: Threads = 1,
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Cost of a checkpoint for training, against DeepSpeed's save and a copy to storage, which training waits for.

    Example: `clinscale bench checkpoint --layers 12`
    """
    from clinscale.bench import bench_checkpoint

    run(
        bench_checkpoint,
        threads,
        json,
        layers=layers,
        hidden_size=hidden_size,
        tokens=tokens,
        stage=stage,
        repeats=repeats,
    )


def zero(
    layers: Annotated[int, typer.Option(min=1, help="Of the model.")] = 4,
    hidden_size: HiddenSize = 256,
    stages: Stages = None,
    num_workers: NumWorkers = None,
    precision: Annotated[Precision, typer.Option(help="Of the parameters.")] = Precision.fp32,
    json: Json = False,
) -> None:
    """Memory of model states on each rank at each ZeRO stage, against what arithmetic says.

    Example: `clinscale bench zero --stage 2 --num-workers 4`
    """
    from clinscale.bench import bench_zero

    run(
        bench_zero,
        1,
        json,
        tells=True,
        layers=layers,
        hidden_size=hidden_size,
        stages=stages or [0, 1, 2, 3],
        num_workers=num_workers or [1, 2, 4],
        precision=precision.value,
    )


def plan(
    layers: Annotated[int, typer.Option(min=1, help="Of the model whose memory is measured.")] = 4,
    hidden_size: HiddenSize = 256,
    tokens: Tokens = 1024,
    stages: Stages = None,
    num_workers: NumWorkers = None,
    precision: Annotated[Precision, typer.Option(help="Of the parameters.")] = Precision.fp32,
    step_precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Of the steps that are timed; repeat. Default: fp32, and bf16 where the processor computes in it."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each shape that are timed.")] = 3,
    json: Json = False,
) -> None:
    """Figures of `clinscale plan` against memory and steps measured here and against published speeds.

    Example: `clinscale bench plan --stage 2 --num-workers 2`
    """
    from clinscale.bench import bench_plan

    run(
        bench_plan,
        1,
        json,
        tells=True,
        people=_plan_people,
        layers=layers,
        hidden_size=hidden_size,
        tokens=tokens,
        stages=stages or [0, 1, 2, 3],
        num_workers=num_workers or [1, 2, 4],
        precision=precision.value,
        step_precisions=names_of(step_precision, Precision),
        repeats=repeats,
    )


def pretrain(
    num_workers: Annotated[int, typer.Option(min=2, help="Ray Train workers and ranks of torchrun.")] = 2,
    steps: Annotated[int, typer.Option(min=12, help="Steps of each side that are timed.")] = 120,
    rows_per_step: Annotated[int, typer.Option(min=1, help="Global batch.")] = 16,
    row_tokens: Annotated[int, typer.Option(min=16, help="Length of each row.")] = 512,
    size: Annotated[str, typer.Option(help="A named size of the model.")] = "tiny",
    stage: Annotated[int, typer.Option(min=0, max=3, help="ZeRO stage.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Kills.")] = 3,
    json: Json = False,
) -> None:
    """The loop under Ray Train against the same loop under torchrun; recovery from a kill against a cold start.

    Example: `clinscale bench pretrain --steps 60`
    """
    from clinscale.bench import bench_pretrain

    run(
        bench_pretrain,
        1,
        json,
        num_workers=num_workers,
        steps=steps,
        rows_per_step=rows_per_step,
        row_tokens=row_tokens,
        size=size,
        stage=stage,
        repeats=repeats,
    )


def _plan_people(record: "BenchRecord") -> list[Any]:
    """Ratios, the steps and the anchors, each planned beside measured, and what was left out."""
    steps = [
        {
            "model": one["family"],
            "precision": one["precision"],
            "rows x tokens": f"{one['rows']} x {one['tokens']:,}",
            "planned s": f"{one['planned_s']:.3g}",
            "measured s": f"{statistics.median(one['measured_s']):.3g}",
            "error": f"{one['error']:+.0%}",
            "machine": "busy" if one["probe"]["is_busy"] else "",
        }
        for one in record.details["steps"]
    ]
    anchors = [
        {
            "anchor": one["name"],
            "unit": one["unit"],
            "published": f"{one['published']:,.4g}",
            "planned": f"{one['planned']:,.4g}",
            "error": f"{one['error']:+.0%}" + (" (fitted)" if one["is_fitted"] else ""),
            "source": one["source"],
            "remark": one["remark"],
        }
        for one in record.details["anchors"]
    ]
    return [
        *people_of(record),
        *([table_of("Steps on this machine", steps)] if steps else []),
        *(f"steps in {name} were left out: {why}" for name, why in record.details["steps_left_out"].items()),
        table_of("Published beside planned", anchors),
    ]
