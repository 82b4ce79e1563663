"""`clinscale demo`: the whole flow on synthetic notes, with the very code that runs on a cluster."""

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import Json, SharedWith, local_only, open_home, open_tracking
from clinscale.cli.output import Steps, emit, table
from clinscale.errors import ConfigError

if TYPE_CHECKING:
    from clinscale.corpus import ShardSet
    from clinscale.pretrain import PretrainResult
    from clinscale.registry import ModelVersion, Tracking
    from clinscale.runtime import Cluster
    from clinscale.sweep import StudyResult

TASKS = ("demo_documents", "demo_pairs", "demo_entities", "demo_questions")
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # tiny models underfit as it is
LONG_TASK = "demo_documents"
SHORT_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Demo:
    """Folder and size of the demo."""

    folder: Path
    tracking: "Tracking"
    cluster: "Cluster"
    scale: float
    """Share of the full size of data and training."""
    num_trials: int

    @property
    def data(self) -> Path:
        """Synthetic notes and task files."""
        return self.folder / "data"


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", callback=local_only, help="Folder for everything that the demo writes.")
    ] = Path("demo"),
    num_trials: Annotated[int, typer.Option(min=2, help="Trials of each task, on average.")] = 4,
    scale: Annotated[float, typer.Option(help="Share of the full size; the numbers mean little below 1.")] = 1.0,
    shared_with: SharedWith = None,
    json: Json = False,
) -> None:
    """Notes in, registered models out, one pulled and used: both models, four of the five task kinds, on this machine.

    Example: `clinscale demo --dir demo`
    """
    from clinscale.models import EXACT_FAMILIES
    from clinscale.report import write_report
    from clinscale.runtime import ray_session
    from clinscale.synthetic import write_demo_data

    if not 0 < scale <= 1:
        raise ConfigError(f"--scale must be above 0 and not above 1, got {scale}; 1 is the whole demo")
    open_home(folder, shared_with)
    started_s = time.monotonic()
    write_demo_data(folder / "data", scale=scale)
    tracking = open_tracking(f"sqlite:///{(folder / 'mlflow.db').absolute()}", folder)
    with ray_session(num_cpus=max(2, os.cpu_count() or 2)) as cluster:
        run = Demo(folder, tracking, cluster, scale, num_trials)
        shards = _build_corpus(run)
        bases = [_pretrain(run, shards, family) for family in EXACT_FAMILIES]
        winners = _sweep(run, bases)
    long_versus_short = _long_versus_short(run, next(winner for winner in winners if winner.task == LONG_TASK))
    pulled = _pull_and_predict(run, winners[0].version)
    report = write_report(tracking, folder / "report.html")
    _emit(bases, winners, long_versus_short, pulled, report, time.monotonic() - started_s, json)


def _build_corpus(run: Demo) -> "ShardSet":
    from clinscale.corpus import CorpusConfig, SourceConfig, build_shards

    notes = SourceConfig(uri=str(run.data / "notes" / "notes.jsonl.gz"), id_column="id")
    config = CorpusConfig(sources=(notes,), vocab_size=2048, validation_fraction=0.08)
    with Steps("Building the corpus") as steps:
        return build_shards(config, str(run.folder / "shards"), on_progress=lambda done: steps.update(done, None))


def _pretrain(run: Demo, shards: "ShardSet", family: str) -> "PretrainResult":
    from clinscale.cli.pretrain import progress_of
    from clinscale.pretrain import PretrainConfig, pretrain

    config = PretrainConfig.parse(
        {
            "name": f"demo-{family}",
            "recipe": {
                "shards": shards.uri,
                "model": {"family": family, "size": "tiny", "hf_overrides": _NO_DROPOUT},
                "row_tokens": 128,
                "rows_per_step": 16,
                "duration": f"{max(20, round(300 * run.scale))}steps",
                "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.01, "warmup_ratio": 0.1},
                "global_first_token": True,
            },
            "runtime": {
                "num_workers": 2,
                "zero": {"stage": 2},
                "evaluate_every_steps": 100,
                "evaluation_rows": 64,
            },
        },
        source="demo",
    )
    with Steps(f"Pretraining {config.name}", "starting workers") as steps:
        return pretrain(
            config,
            tracking=run.tracking,
            home=run.folder,
            on_progress=lambda *at: steps.update(*progress_of(*at)),
        )


def _sweep(run: Demo, bases: "list[PretrainResult]") -> "list[StudyResult]":
    """All tasks under one budget; the base model is searched as well."""
    from clinscale.cli.tune import trial_progress
    from clinscale.sweep import SweepConfig, sweep

    models = [base.version.label for base in bases]
    config = SweepConfig.parse(
        {
            "name": "demo",
            "recipe": {
                "studies": [
                    {"name": task, "task": task, "data": str(run.data), "models": models} for task in TASKS
                ],
                "budget": {"trials": run.num_trials * len(TASKS)},
            },
        },
        source="demo",
    )
    with Steps(f"Sweeping {len(TASKS)} tasks", "starting trials") as steps:
        result = sweep(
            config,
            tracking=run.tracking,
            home=run.folder,
            cluster=run.cluster,
            on_progress=trial_progress(steps),
        )
    for error in result.failures.values():
        raise error
    return list(result.studies)


def _long_versus_short(run: Demo, winner: "StudyResult") -> dict[str, Any]:
    """The winner's own recipe once more, reading only the first 512 tokens of each document."""
    from clinscale.finetune import FinetuneConfig, run_finetune

    config = FinetuneConfig.parse(
        {
            "name": f"{winner.task}-{SHORT_TOKENS}",
            "task": winner.task,
            "data": str(run.data),
            "recipe": {**winner.recipe.plain(), "max_tokens": SHORT_TOKENS},
        },
        source="demo",
    )
    with Steps(f"Reading only {SHORT_TOKENS} tokens") as steps:
        short = run_finetune(
            config,
            tracking=run.tracking,
            home=run.folder,
            on_progress=lambda at: steps.update(at["epoch"], config.recipe.epochs),
        )
    return {
        "task": winner.task,
        "metric": winner.metric,
        "value_4096_or_max": winner.value,
        "value_512": short.test[winner.metric],
    }


def _pull_and_predict(run: Demo, version: "ModelVersion") -> dict[str, Any]:
    """The winner as another user would get it, asked about a document that nobody has seen."""
    from clinscale import registry
    from clinscale.predict import load_predictor
    from clinscale.synthetic import new_document
    from clinscale.tasks import Example

    reference = f"{version.name}/{version.version}"
    out = run.folder / "pulled" / f"{version.name}-{version.version}"
    pulled = registry.pull(run.tracking, reference, out, home=run.folder)
    text, _ = new_document(seed=1)
    [prediction] = load_predictor(pulled.path).predict([Example(id="new", text=text)])
    return {"name": pulled.name, "version": pulled.version, "path": str(pulled.path), "prediction": prediction}


def _emit(
    bases: "list[PretrainResult]",
    winners: "list[StudyResult]",
    long_versus_short: dict[str, Any],
    pulled: dict[str, Any],
    report: Path,
    seconds: float,
    as_json: bool,
) -> None:
    from clinscale.cli.pretrain import base_row
    from clinscale.cli.tune import remarks, verdict, winner_row

    values: dict[str, Any] = {
        "base_models": [base_row(base) for base in bases],
        "winners": [winner_row(winner) for winner in winners],
        "remarks": remarks(winners),
        "long_versus_short": long_versus_short,
        "pulled": pulled,
        "report": str(report),
        "seconds": round(seconds, 1),
    }
    people = [
        table("Base models", values["base_models"]),
        table("Winners", values["winners"]),
        *values["remarks"],
        *map(verdict, winners),
        table("Long against short", [long_versus_short]),
        table("Pulled and used", [pulled]),
        f"report: {report}   ({seconds:.0f} s)",
        f"every run in a browser: clinscale ui --home {report.parent}",
    ]
    emit(values, as_json=as_json, people=people)
