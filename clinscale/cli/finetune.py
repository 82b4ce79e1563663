"""`clinscale finetune`: one fine-tuning, test metrics once."""

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import (
    DEFAULT_HOME,
    Address,
    Home,
    Json,
    Overrides,
    SharedWith,
    TrackingUri,
    open_home,
    open_tracking,
    say_unused_gpus,
)
from clinscale.cli.output import Steps, emit, table

if TYPE_CHECKING:
    from clinscale.finetune import FinetuneSummary
    from clinscale.tasks import Estimate


def finetune(
    task: Annotated[str, typer.Option("--task", help="Name in `clinscale tasks`, or the YAML file of your own.")],
    data: Annotated[str, typer.Option("--data", help="Folder of the task's files.")],
    model: Annotated[str, typer.Option("--model", help="Folder, registry name or hub name of the base model.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option("--name", help="Run name; the default is TASK-MODEL.")] = None,
    home: Home = DEFAULT_HOME,
    shared_with: SharedWith = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Fine-tune one model on one task: any encoder that Hugging Face's Auto classes load.

    A model that one GPU does not hold is trained by several workers on Ray with DeepSpeed:
    `runtime.num_workers=4 runtime.gpus_per_worker=1 runtime.zero.stage=3`.

    Example: `clinscale finetune --task task.yaml --data . --model lf recipe.epochs=3 recipe.batch_size=8`
    """
    open_home(home, shared_with)
    from clinscale import registry
    from clinscale.cli.names import default_name
    from clinscale.finetune import FinetuneConfig, run_finetune
    from clinscale.runtime import ray_session

    tracking = open_tracking(tracking_uri, home)
    base = registry.fetch_model(tracking, model, home=home)
    config = FinetuneConfig.load(
        None,
        overrides or [],
        base={
            "name": name or default_name(task, model),
            "task": task,
            "data": data,
            "recipe": {"model": base.path},
        },
    )
    session = ray_session(address) if config.runtime.num_workers > 1 else contextlib.nullcontext()
    with session as cluster, Steps(f"Fine-tuning {config.name}") as steps:
        if cluster:
            say_unused_gpus(cluster, config.runtime.gpus_per_worker, "runtime.gpus_per_worker")
        result = run_finetune(
            config,
            tracking=tracking,
            home=home,
            on_progress=lambda at: steps.update(at["epoch"], config.recipe.epochs, f"loss {at['train/loss']:.4f}"),
            on_event=steps.say,
        )
    emit(_values(config.name, result), as_json=json, people=_tables(config.name, result))


def _values(name: str, result: "FinetuneSummary") -> dict[str, Any]:
    stored = result.best.scores.plain()
    return {
        "name": name,
        "path": str(result.folder),
        "metric": result.metric,
        "dev": result.best.dev,
        **{key: stored[key] for key in ("test", "trivial", "interval", "lengths", "calibration", "max_tokens")},
        "seeds": [{"seed": one.seed, "dev": one.dev, "test": one.scores.test} for one in result.seeds],
        "test_mean": result.test_mean,
        "test_deviation": result.test_deviation,
    }


def _tables(name: str, result: "FinetuneSummary") -> list[Any]:
    """The test scores, those by length of the document, and their spread over seeds."""
    scores = result.best.scores
    rows = [
        {
            "metric": key,
            "test": value,
            "95 % interval": _interval(scores.interval) if key == result.metric else "",
            "trivial": scores.trivial.get(key, ""),
        }
        for key, value in (scores.test | scores.calibration).items()
    ]
    bands = [
        {
            "document tokens": f"{band.above_tokens + 1:,} to {band.up_to_tokens or 'more'}",
            "examples": band.examples,
            result.metric: band.score.value,
            "95 % interval": _interval(band.score),
        }
        for band in scores.lengths
    ]
    people: list[Any] = [table(f"{name}: test scores", rows), table("By length of the document", bands)]
    if result.test_deviation is not None:
        spread = f"{result.test_mean:.4f} ± {result.test_deviation:.4f}"
        people.append(f"{result.metric} over {len(result.seeds)} seeds: {spread} (mean ± standard deviation)")
    return people


def _interval(score: "Estimate") -> str:
    return f"{score.low:.4f} to {score.high:.4f}"
