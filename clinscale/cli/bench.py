"""`clinscale bench`: measured against the peer in the same process."""

import statistics
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli import bench_record
from clinscale.cli.bench_faults import faults
from clinscale.cli.options import Json, Overrides
from clinscale.cli.output import Steps, emit
from clinscale.cli.output import table as table_of
from clinscale.cli.pretrain import Config as PretrainingConfig
from clinscale.cli.pretrain import settings_of
from clinscale.errors import ConfigError
from clinscale.models import EXACT_FAMILIES

if TYPE_CHECKING:
    from clinscale.bench import BenchRecord, Ratio

Family = StrEnum("Family", EXACT_FAMILIES)  # type: ignore[misc]
Precision = StrEnum("Precision", ["fp32", "bf16"])
Answers = StrEnum("Answers", ["classification", "entities"])
Format = StrEnum(
    "Format", ["csv", "jsonl", "json", "parquet", "arrow", "noteevents", "bio", "brat", "i2b2_xml", "squad"]
)
Goal = StrEnum("Goal", ["maximise", "minimise"])
PublicTable = StrEnum("PublicTable", ["arlbench_ppo", "hpobench_mlp_final"])
app = typer.Typer(
    help="Measure clinscale beside its peer, in one process, equality asserted first.", no_args_is_help=True
)
app.command("all")(bench_record.run_all)
app.command()(bench_record.compare)
app.command()(bench_record.tables)
app.command()(faults)

Tokens = Annotated[int, typer.Option(min=8, help="Length of each row.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows of the batch.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; ratios are quoted for one.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turns.")]
Families = Annotated[list[Family] | None, typer.Option("--family", help="Repeat for several; all by default.")]
Precisions = Annotated[
    list[Precision] | None, typer.Option("--precision", help="Repeat for several; both by default.")
]
Stages = Annotated[list[int] | None, typer.Option("--stage", min=0, max=3, help="Repeat; all by default.")]
NumWorkers = Annotated[
    list[int] | None, typer.Option("--num-workers", min=1, help="Repeat; 1, 2 and 4 by default.")
]
HiddenSize = Annotated[int, typer.Option(min=64, help="Width of the model; 768 is base. A multiple of 64.")]
Device = Annotated[str, typer.Option(help="`cpu` or `cuda`.")]


@app.command()
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

    _run(
        bench_attention,
        threads,
        json,
        tells=True,
        tokens=tokens,
        rows=rows,
        repeats=repeats,
        families=_names(family, Family),
        precisions=_names(precision, Precision),
        hidden_size=hidden_size,
        device=device,
    )


@app.command()
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

    _run(
        bench_step,
        threads,
        json,
        tells=True,
        tokens=tokens,
        rows=rows,
        layers=tuple(layers or (2, 12)),
        repeats=repeats,
        families=_names(family, Family),
        precisions=_names(precision, Precision),
        dropout=dropout,
        hidden_size=hidden_size,
        device=device,
    )


@app.command()
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

    _run(
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
        families=_names(family, Family),
        kinds=_names(kind, Answers),
        precision=precision.value,
        repeats=repeats,
        device=device,
    )


@app.command()
def loading(
    data: Annotated[
        str | None, typer.Option(help="Folder of public data sets; formats that it lacks are invented.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0.01, help="Size of the invented files of each format.")] = 10.0,
    stream_megabytes: Annotated[
        tuple[float, float], typer.Option(help="Sizes of the two NOTEEVENTS whose peak memory is compared.")
    ] = (20.0, 200.0),
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Repeat for several; all by default.")
    ] = None,
    repeats: Repeats = 5,
    seed: Annotated[int, typer.Option(help="Of the invented files.")] = 0,
    json: Json = False,
) -> None:
    """Reading files of each format in one thread, against the obvious script; memory of streaming NOTEEVENTS.

    Example: `clinscale bench loading --data downloads --format brat --format squad`
    """
    from clinscale.bench import bench_loading

    _run(
        bench_loading,
        1,
        json,
        tells=True,
        data=data,
        megabytes=megabytes,
        stream_megabytes=stream_megabytes,
        formats=_names(formats, Format),
        repeats=repeats,
        seed=seed,
    )


@app.command()
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

    _run(
        bench_checkpoint,
        threads,
        json,
        layers=layers,
        hidden_size=hidden_size,
        tokens=tokens,
        stage=stage,
        repeats=repeats,
    )


@app.command()
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

    _run(
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


@app.command()
def plan(
    layers: Annotated[int, typer.Option(min=1, help="Of the model whose memory is measured.")] = 4,
    hidden_size: HiddenSize = 256,
    tokens: Tokens = 1024,
    stages: Stages = None,
    num_workers: NumWorkers = None,
    precision: Annotated[Precision, typer.Option(help="Of the parameters.")] = Precision.fp32,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each shape that are timed.")] = 3,
    json: Json = False,
) -> None:
    """Figures of `clinscale plan` against memory and steps measured here and against published speeds.

    Example: `clinscale bench plan --stage 2 --num-workers 2`
    """
    from clinscale.bench import bench_plan

    _run(
        bench_plan,
        1,
        json,
        tells=True,
        people=lambda record: [
            *_people(record),
            table_of(
                "Steps on this machine",
                [
                    {
                        "model": one["family"],
                        "rows x tokens": f"{one['rows']} x {one['tokens']:,}",
                        "planned s": f"{one['planned_s']:.3g}",
                        "measured s": f"{statistics.median(one['measured_s']):.3g}",
                        "error": f"{one['error']:+.0%}",
                    }
                    for one in record.details["steps"]
                ],
            ),
            table_of(
                "Published beside planned",
                [
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
                ],
            ),
        ],
        layers=layers,
        hidden_size=hidden_size,
        tokens=tokens,
        stages=stages or [0, 1, 2, 3],
        num_workers=num_workers or [1, 2, 4],
        precision=precision.value,
        repeats=repeats,
    )


@app.command()
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

    _run(
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


@app.command()
def corpus(
    data: Annotated[
        str | None, typer.Option(help="Folder of public data sets, whose pretrain_corpus is read; else invented.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0.01, help="Text to be timed on.")] = 10.0,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(help="MB of two invented NOTEEVENTS, built on Ray, whose peak memory is compared."),
    ] = None,
    repeats: Repeats = 5,
    seed: Annotated[int, typer.Option(help="Of the invented notes.")] = 0,
    json: Json = False,
) -> None:
    """Notes to training tokens in one thread, against HF's run_mlm; memory of a build at two sizes.

    Example: `clinscale bench corpus --scale 50 2000`
    """
    from clinscale.bench import bench_corpus

    _run(
        bench_corpus, 1, json, tells=True, data=data, megabytes=megabytes, scale=scale, repeats=repeats, seed=seed
    )


@app.command()
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

    _run(
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


@app.command()
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
        Path | None, typer.Option(help="Write such a table here instead; takes about an hour without --convert.")
    ] = None,
    convert: Annotated[
        PublicTable | None, typer.Option(help="With --record and --data: a public table to write as .parquet.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="With --convert: folder of the table as published.")] = None,
    model: Annotated[str | None, typer.Option(help="With --record: HF folder of the tiny base model.")] = None,
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
    from clinscale.bench import bench_budgets, bench_search, convert_table, record_table

    if record and convert:
        if not data:
            raise ConfigError("--convert must come with --data, got none; name the folder of the published table")
        convert_table(convert.value, data, record)
        emit({"table": str(record)}, as_json=json, people=f"table: {record}")
        return
    if record:
        if not model:
            raise ConfigError(
                "--record must come with --model, got none; name the HF folder of a tiny base model such as the demo's"
            )
        with Steps("Fine-tuning") as steps:
            record_table(
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
        _run(
            bench_budgets,
            1,
            json,
            people=lambda found: [*_regrets(found), *_people(found)],
            table=table,
            goal=goal.value if goal else None,
            tasks=tasks or [],
            seeds=seeds,
            processes=processes,
        )
        return
    if goal or tasks:
        raise ConfigError("--goal and --task are for a table of learning curves in a .parquet; leave them out")
    _run(bench_search, 1, json, table=table, seeds=seeds, noop_trials=noop_trials, processes=processes)


def _names(chosen: list[Any] | None, every: Any) -> tuple[str, ...]:
    return tuple(member.value for member in chosen or every)


def _asked(figure: float | None, at_most: bool) -> str:
    return "" if figure is None else f"{'at most' if at_most else 'at least'} {figure:g}"


def _shown(figure: float | None) -> float | str:
    return "∞" if figure is None else figure  # a peer that never got there has no finite cost


def _told(ratio: "Ratio") -> str:
    median, low, high = ("∞" if one is None else f"{one:.4g}" for one in (ratio.median, ratio.min, ratio.max))
    return median if low == high else f"{median} ({low} to {high})"


def _run(
    bench: "Callable[..., BenchRecord]",
    threads: int,
    json: bool,
    *,
    tells: bool = False,
    people: Callable[[Any], Any] | None = None,
    **options: Any,
) -> None:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    done = 0
    with Steps("Measuring", every_s=0) as steps:

        def on_progress(name: str) -> None:
            nonlocal done
            steps.update(done, None, name)
            done += 1

        if tells:
            options["on_ratio"] = lambda name, found: steps.say(f"{name} {_told(found)}")
        record = bench(**options, on_progress=on_progress)
    emit(record.plain(), as_json=json, people=(people or _people)(record))


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


def _people(record: "BenchRecord") -> list[Any]:
    """The table of ratios, and a sentence for each memory."""
    rows = [
        {
            "ratio": name,
            "median": _shown(ratio.median),
            "min": _shown(ratio.min),
            "max": _shown(ratio.max),
            "asked": _asked(ratio.asked, name in record.at_most),
            **{f"{side} MB/s": speed for side, speed in (record.mb_per_s or {}).get(name, {}).items()},
            **{
                f"{side} {unit}/s": speed
                for side, speeds in (record.per_s or {}).get(name, {}).items()
                for unit, speed in speeds.items()
            },
        }
        for name, ratio in record.ratios.items()
    ]
    shown: list[Any] = [table_of(f"bench {record.surroundings.what}: ratios to the peer", rows)]
    for name, found in (record.memory or {}).items():
        sizes = (found.small_bytes, found.peak_small_bytes), (found.large_bytes, found.peak_large_bytes)
        shown += [
            f"{name}: {size / 1e6:.1f} MB streamed within {peak / 1e6:.1f} MB of memory" for size, peak in sizes
        ]
    return shown
