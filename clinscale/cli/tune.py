"""`clinscale tune`: sweeps over tasks and models."""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Address, Home, Json, Overrides, TrackingUri, open_tracking
from clinscale.cli.output import Steps, emit, table
from clinscale.errors import ConfigError

if TYPE_CHECKING:
    from clinscale.sweep import SweepConfig, SweepProgress


def tune(
    task: Annotated[
        list[str], typer.Option("--task", help="Task name or YAML file; repeat for a grid of sweeps.")
    ],
    data: Annotated[list[str], typer.Option("--data", help="Folder of the task's files; one, or one per --task.")],
    model: Annotated[
        list[str], typer.Option("--model", help="Folder, registry or hub name; repeat for a grid of sweeps.")
    ],
    overrides: Overrides = None,
    max_tokens: Annotated[
        list[int] | None,
        typer.Option("--max-tokens", help="Window; repeat (512, 4096) to see whether length pays on your task."),
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="YAML file of the search space.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Sweep name; the default is TASK-MODEL.")] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Search fine-tuning hyperparameters with Ray Tune and Optuna; register each winner.

    Example: `clinscale tune --task task.yaml --data . --model lf --max-tokens 512 --max-tokens 4096`
    """
    from clinscale.runtime import ray_session
    from clinscale.sweep import read_inputs, sweep

    configs = _grid(task, data, model, max_tokens or [None], space, name, overrides or [])
    tracking = open_tracking(tracking_uri, home)
    # all mistakes of the whole grid come out before anything starts
    inputs = [read_inputs(config, tracking=tracking, home=home) for config in configs]
    results = []
    with ray_session(address) as cluster:
        for config, read in zip(configs, inputs, strict=True):
            with Steps(f"Sweep {config.name}", "starting trials") as steps:
                result = sweep(
                    config,
                    tracking=tracking,
                    home=home,
                    cluster=cluster,
                    inputs=read,
                    on_progress=trial_progress(steps, config.recipe.num_trials),
                )
            results.append(result)
    rows = [winner_row(result) for result in results]
    emit({"winners": rows}, as_json=json, people=table("Winners", rows))


def _grid(
    task: list[str],
    data: list[str],
    model: list[str],
    max_tokens: Sequence[int | None],
    space: str | None,
    name: str | None,
    overrides: list[str],
) -> "list[SweepConfig]":
    """One sweep for each task, model and window."""
    from clinscale.cli.names import default_name
    from clinscale.sweep import SweepConfig

    if len(data) not in (1, len(task)):
        raise ConfigError(f"--data is given once, or once per --task; got {len(data)} for {len(task)} tasks")
    folders = data if len(data) == len(task) else data * len(task)
    grid = list(itertools.product(zip(task, folders, strict=True), model, max_tokens))
    if name and len(grid) > 1:
        raise ConfigError(
            f"--name fits one sweep, got {len(grid)} (tasks x models x windows); leave it out for a grid"
        )
    return [
        SweepConfig.load(
            None,
            overrides,
            base={
                "name": name or default_name(one_task, one_model, window),
                "recipe": {
                    "task": one_task,
                    "data": folder,
                    "models": [one_model],
                    "max_tokens": window,
                    "space": space,
                },
            },
        )
        for (one_task, folder), one_model, window in grid
    ]


def trial_progress(steps: Steps, num_trials: int) -> "Callable[[SweepProgress], None]":
    """How a sweep's progress is shown, here and in the demo."""

    def show(at: "SweepProgress") -> None:
        steps.update(at.finished, num_trials, f"best {at.best:.3f}" if at.best is not None else "")

    return show


def winner_row(result: Any) -> dict[str, Any]:
    """How a sweep's winner is shown, here and in the demo."""
    return {
        "task": result.task,
        "kind": result.kind,
        "family": result.family,
        "metric": result.metric,
        "value": result.value,
        "low": result.interval[0],
        "high": result.interval[1],
        "max_tokens": result.max_tokens,
        "trivial": result.trivial,
        "trials": result.trials,
        "name": result.version.name,
        "version": result.version.version,
    }
