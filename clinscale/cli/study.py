"""`clinscale study`: models by tasks by seeds under one protocol, to a league table."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any

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
from clinscale.cli.output import Steps, console, emit, table
from clinscale.cli.pretrain import progress_of
from clinscale.cli.tune import shown
from clinscale.units import format_seconds

_FAILED = 1
ProtocolFile = Annotated[str, typer.Argument(help="YAML file, or a protocol of the package: open, paper.")]


def study(
    protocol: ProtocolFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the grid, what is missing on disk and expected hours; start nothing."
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
    shared_with: SharedWith = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Make the bases, search every task with every model, judge each once, and write a league table.

    The same command goes on where it was interrupted. What is missing is left out and listed at the end, with exit code
    1.

    Example: `clinscale study open data_folder=/data name=ward --dry-run`
    """
    open_home(home, shared_with)
    from clinscale.runtime import ray_session
    from clinscale.study import Protocol, Watch, outline, run_study

    config = Protocol.load(protocol, overrides or [])
    tracking = open_tracking(tracking_uri, home)
    if dry_run:
        with ray_session(address) as cluster:
            say_unused_gpus(cluster, config.sweep_runtime.gpus_per_trial, "sweep_runtime.gpus_per_trial")
            found = outline(config, tracking=tracking, home=home, cluster=cluster)
        emit(found.plain(), as_json=json, people=_outline_tables(found, protocol))
        if found.failures:
            raise typer.Exit(_FAILED)
        return
    console.print(f"Study {config.name} ...", soft_wrap=True)
    with ray_session(address) as cluster:
        say_unused_gpus(cluster, config.sweep_runtime.gpus_per_trial, "sweep_runtime.gpus_per_trial")
        outcome = run_study(
            config,
            tracking=tracking,
            home=home,
            cluster=cluster,
            on_event=lambda said: console.print(said, soft_wrap=True, markup=False),
            watch=Watch(_steps, shown),
        )
    rows = _league_rows(outcome.league)
    values = {
        "name": outcome.name,
        "verdict": outcome.league.verdict if outcome.league else None,
        "league": rows,
        "markdown": str(outcome.markdown),
        "failures": dict(outcome.failures),
    }
    people: list[Any] = [f"table: {outcome.markdown}"]
    if outcome.league:
        shown_rows = [{key: "–" if value is None else value for key, value in row.items()} for row in rows]
        people = [outcome.league.verdict, table("League", shown_rows), *people]
    emit(values, as_json=json, people=people)
    for name, message in outcome.failures.items():
        console.print(f"missing: {name}: {message}", style="red", soft_wrap=True, markup=False)
    if outcome.failures:
        raise typer.Exit(_FAILED)


@contextlib.contextmanager
def _steps(title: str) -> Iterator[Callable[[int, int | None, dict[str, float]], None]]:
    with Steps(title) as steps:
        yield lambda *at: steps.update(*progress_of(*at))


def _league_rows(league: Any) -> list[dict[str, Any]]:
    """Mean scores by task and model, with what beats what."""
    if league is None:
        return []
    return [
        {
            "task": row.task,
            "metric": row.metric,
            **{
                model: round(row.entries[model].score.value, 4) if model in row.entries else None
                for model in league.models
            },
            "trivial": row.trivial,
            "linear": row.linear,
            "best beyond noise": row.best if row.is_clear else "",
        }
        for row in league.rows
    ]


def _outline_tables(found: Any, protocol: str) -> list[Any]:
    people: list[Any] = [table("Bases", list(found.bases)), table("Tasks", list(found.grid))]
    if found.forecasts:
        rows = [
            {
                "search": one.name,
                "trials": one.trials,
                "at once": one.trials_at_once,
                "time": format_seconds(one.hours * 3600),
                "device time": format_seconds(one.device_hours * 3600),
            }
            for one in found.forecasts
        ]
        people.append(table("Expected, from a few steps of each", rows))
    if any(base["state"] == "to be made" for base in found.bases):
        people.append(
            f"with bases that are still to be made: clinscale plan study {protocol} says the hours of all of it"
        )
    people += [f"missing: {name}: {why}" for name, why in found.failures.items()]
    return people
