"""`clinscale bench recipe` and `search`: the cost of getting as far, of a recipe and of a search for settings."""

import functools
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.bench_run import Device, Threads, people_of, run
from clinscale.cli.options import Json, Overrides
from clinscale.cli.output import Steps, emit
from clinscale.cli.output import table as table_of
from clinscale.cli.outputs import check_new
from clinscale.cli.pretrain import Config as PretrainingConfig
from clinscale.cli.pretrain import settings_of
from clinscale.errors import ConfigError

if TYPE_CHECKING:
    from clinscale.bench import BenchRecord

Goal = StrEnum("Goal", ["maximise", "minimise"])
PublicTable = StrEnum("PublicTable", ["arlbench_ppo", "hpobench_mlp_final"])


def recipe(
    config: PretrainingConfig = None,
    overrides: Overrides = None,
    levers: Annotated[
        list[str] | None,
        typer.Option(
            "--lever",
            help="Repeat: falling_mask, falling_mask_cosine, all_mask, spans, muon, schedule_free, short_rows, "
            "small_batches, causal, or your own as 'NAME: recipe.key=value ...'. Default: falling_mask, all_mask, "
            "spans and muon.",
        ),
    ] = None,
    together: Annotated[
        list[str] | None, typer.Option(help="Levers at once, as NAME+NAME; repeat. Default: all that are given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each lever.")] = 3,
    threads: Threads = 1,
    device: Device = "cpu",
    record: Annotated[
        str | None,
        typer.Option(help="Folder that keeps each training as it ends; the same command goes on from there."),
    ] = None,
    json: Json = False,
) -> None:
    """Tokens and device-seconds to the held-out loss that the paper's recipe ends with: the recipe against levers.

    The config is that of `clinscale pretrain`: the paper's recipe at your size, for as long as you can afford. Each
    lever starts as it does and is trained until it has its loss.

    Example: `clinscale bench recipe recipe.shards=shards recipe.model.size=tiny recipe.row_tokens=512
    recipe.rows_per_step=8 recipe.duration=400steps recipe.optimizer.learning_rate=5e-4
    runtime.evaluate_every_steps=20 --lever falling_mask --lever muon --record levers`
    """
    from clinscale.bench import bench_recipe

    run(
        bench_recipe,
        threads,
        json,
        people=lambda found: table_of("bench recipe: cost to the paper's loss", found.rows()),
        config=settings_of(config, overrides, base={"name": "bench"}),
        levers=levers or ["falling_mask", "all_mask", "spans", "muon"],
        together=together or [],
        seeds=seeds,
        device=device,
        record=record,
    )


def search(
    table: Annotated[
        Path | None,
        typer.Option(help="Trainings to replay: what --record has written, or learning curves in a .parquet."),
    ] = None,
    goal: Annotated[
        Goal | None, typer.Option(help="With a .parquet whose metadata does not say it: which values are better.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="With a .parquet: repeat for several; all by default.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Write such a table here instead; takes an hour or two without --convert."),
    ] = None,
    convert: Annotated[
        PublicTable | None,
        typer.Option(help="With --data: a public table to replay or, with --record, to write as .parquet."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="With --convert: folder of the table as published. With --record and --model: one that holds "
            "ncbi_disease_bio, openi_indiana and tcga_pathology, on which the first layers of the model are fine-tuned."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --record: HF folder of the model; without --data a tiny one.")
    ] = None,
    configurations: Annotated[int, typer.Option(min=2, help="With --record: settings of each task.")] = 128,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each method on each task.")] = 30,
    noop_trials: Annotated[
        int, typer.Option(min=0, help="Empty trials on real Ray Tune; 0 leaves them out.")
    ] = 32,
    processes: Annotated[int, typer.Option(min=1, help="Processes to replay or record in.")] = 1,
    json: Json = False,
) -> None:
    """The cost of finding a good setting: random, stock Ray ASHA and others, against a sweep, on recorded trainings.

    A .parquet holds one row for each look at a training: task, config, step, value, seconds (since the look before),
    perhaps seed, and a column for each hyperparameter. No number in value says that the training diverged.

    Example: `clinscale bench search --table tests/bench/search/table.json.gz --processes 2`
    """
    from clinscale.bench import bench_budgets, bench_search, convert_table, record_curves, record_table

    if record:
        check_new(record)
    if convert and not data:
        raise ConfigError("--convert must come with --data, got none; name the folder of the published table")
    if data and not convert and not record:
        raise ConfigError("--data must come with --convert or --record, got neither; say which table is meant")
    if convert and table:
        raise ConfigError("--convert and --table each name what is replayed; leave one out")
    replay = functools.partial(
        run,
        bench_budgets,
        1,
        json,
        people=lambda found: [*_regrets(found), *people_of(found)],
        goal=goal.value if goal else None,
        tasks=tasks or [],
        seeds=seeds,
        processes=processes,
    )
    if convert and data:
        with tempfile.TemporaryDirectory() as folder:
            curves = record or Path(folder) / f"{convert.value}.parquet"
            convert_table(convert.value, data, curves)
            if record:
                emit({"table": str(record)}, as_json=json, people=f"table: {record}")
            else:
                replay(table=curves)
        return
    if record:
        if not model:
            raise ConfigError(
                "--record must come with --model, got none; name the HF folder of a tiny base model such as the demo's"
            )
        recorder = functools.partial(record_curves, data=data) if data else record_table
        with Steps("Fine-tuning") as steps:
            recorder(
                record,
                model=model,
                num_configurations=configurations,
                processes=processes,
                on_progress=lambda done, total: steps.update(done, total),
            )
        emit({"table": str(record)}, as_json=json, people=f"table: {record}")
        return
    if not table:
        raise ConfigError("--table names the recorded fine-tunings to replay; make one with --record")
    if table.suffix == ".parquet":
        replay(table=table)
        return
    if goal or tasks:
        raise ConfigError("--goal and --task are for a table of learning curves in a .parquet; leave them out")
    run(bench_search, 1, json, table=table, seeds=seeds, noop_trials=noop_trials, processes=processes)


def _regrets(record: "BenchRecord") -> list[Any]:
    """The table of regrets at fixed budgets, and a sentence for each task that was left out."""
    rows = [
        {
            "search": name,
            **{
                f"{budget} trainings": f"{mean:.2f} ({low:.2f} to {high:.2f})"
                for budget, (mean, low, high) in at.items()
            },
        }
        for name, at in record.details["regret"].items()
    ]
    left = [f"{name} was left out: {why}" for name, why in record.details["left_out"].items()]
    return [table_of("mean regret at the cost of so many whole trainings: 0 best, 1 median", rows), *left]
