"""`clinscale tune`: one sweep over tasks and models, under one budget."""

import itertools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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
from clinscale.cli.output import console, emit, table
from clinscale.errors import ClinscaleError, ConfigError, was_interrupted
from clinscale.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from clinscale.sweep import Forecast, StudyResult, SweepConfig, SweepProgress, SweepResult

_FAILED = 1
_LINE_EVERY_S = 10.0


Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="Task name or YAML file; repeat for several under one budget."),
]
DataFolders = Annotated[
    list[str] | None, typer.Option("--data", help="Folder of the task's files; one, or one per --task.")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Folder, registry or hub name; repeat for several.")
]
MaxTokens = Annotated[
    list[int] | None,
    typer.Option("--max-tokens", help="Window; repeat (512, 4096) to see whether length pays on your task."),
]
SpaceFile = Annotated[str | None, typer.Option("--space", help="YAML file of the search space.")]
SweepName = Annotated[str | None, typer.Option("--name", help="Sweep name; the default is TASK-MODEL.")]


def tune(
    overrides: Overrides = None,
    task: Tasks = None,
    data: DataFolders = None,
    model: Models = None,
    max_tokens: MaxTokens = None,
    space: SpaceFile = None,
    name: SweepName = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with the sweep of this name, as it was started.")
    ] = None,
    register_as: Annotated[
        str | None,
        typer.Option(
            "--register-as",
            help="Registered model of the winner, of a sweep of one task; the default is its name.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print space, suggestions, trials at once and expected hours; start none."),
    ] = False,
    home: Home = DEFAULT_HOME,
    shared_with: SharedWith = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Search fine-tuning hyperparameters with Ray Tune and Optuna; register the winner of each task and model.

    What a winner must keep to become champion is set as in `models promote`, below `gate.`: gate.max_latency_ratio=2.

    Example: `clinscale tune --task task.yaml --data . --model lf --model bb recipe.budget.trials=24`
    """
    open_home(home, shared_with)
    from clinscale.runtime import ray_session
    from clinscale.sweep import check_start, load_sweep, read_inputs, sweep

    if resume:
        if task or data or model or space or name or max_tokens:
            raise ConfigError("--resume takes all it needs from the sweep it goes on with; drop the other options")
        config = load_sweep(resume, overrides or [], home=home)
    else:
        config = sweep_of(task, data, model, max_tokens, space, name, overrides)
    if register_as is not None:
        config = _registered_as(config, register_as)
    tracking = open_tracking(tracking_uri, home)
    inputs = read_inputs(config, tracking=tracking, home=home)  # all mistakes come out before anything starts
    check_start(config, inputs, home=home)
    found_odd = [
        (study.data.task.name, remark) for study in inputs.studies for remark in study.data.findings.remarks
    ]
    for name, remark in dict.fromkeys(found_odd):
        console.print(f"data of task {name}: {remark}", soft_wrap=True)
    if dry_run:
        from clinscale.plan import planned_costs, site_here
        from clinscale.sweep import forecast

        planned = planned_costs(config, site_here(on_gpu=config.runtime.gpus_per_trial > 0))
        with ray_session(address) as cluster:
            say_unused_gpus(cluster, config.runtime.gpus_per_trial, "runtime.gpus_per_trial")
            found = forecast(config, inputs, cluster=cluster, planned=planned)
        emit(found.plain(), as_json=json, people=_forecast_tables(found))
        return
    console.print(f"Sweep {config.name} ...", soft_wrap=True)
    try:
        with ray_session(address) as cluster, shown(config) as show:
            say_unused_gpus(cluster, config.runtime.gpus_per_trial, "runtime.gpus_per_trial")
            result = sweep(config, tracking=tracking, home=home, cluster=cluster, inputs=inputs, on_progress=show)
    except (KeyboardInterrupt, ClinscaleError) as error:
        if was_interrupted(error):
            places = {"--tracking-uri": tracking_uri and tracking.place, "--address": address}
            console.print(f"go on with: {_resuming(config.name, home, places)}", soft_wrap=True)
        raise
    _emit_result(result, as_json=json)
    if result.failures:
        raise typer.Exit(_FAILED)


def _resuming(name: str, home: Path, places: Mapping[str, str | None]) -> str:
    """The command that goes on with a sweep, for the shell of the one who began it."""
    given = [word for option, value in places.items() if value for word in (option, value)]
    return shlex.join(["clinscale", "tune", "--resume", name, "--home", str(home), *given])


def _emit_result(result: "SweepResult", *, as_json: bool) -> None:
    """Winners, what confirmed them, where the plots are, and the studies that have none."""
    winners = [winner_row(study) for study in result.studies]
    confirmed = [row for study in result.studies for row in finalist_rows(study)]
    people: list[Any] = [
        table("Winners", winners),
        *thresholds(result.studies),
        *remarks(result.studies),
        *result.notes,
        *offers(result.studies),
    ]
    if any(row["seeds"] > 1 for row in confirmed):
        people.append(table("Confirmed", confirmed))
    people += [f"{study.name}: {verdict(study)}" for study in result.studies]
    people += [f"plots: {study.plots[0].parent}" for study in result.studies if study.plots]
    if result.freed.trials:
        people.append(
            f"freed {format_bytes(result.freed.bytes)} of {result.freed.trials} trials that were no finalists; "
            "runtime.keep_trials=all keeps such"
        )
    failures = {study: str(error) for study, error in result.failures.items()}
    emit(
        {
            "name": result.name,
            "winners": winners,
            "thresholds": thresholds(result.studies),
            "remarks": remarks(result.studies),
            "notes": list(result.notes),
            "offers": {study.name: [offer.plain() for offer in study.offers] for study in result.studies},
            "confirmed": confirmed,
            "decisions": {study.name: study.decision.plain() for study in result.studies},
            "plots": {study.name: [str(path) for path in study.plots] for study in result.studies},
            "freed_trials": result.freed.trials,
            "freed_bytes": result.freed.bytes,
            "failures": failures,
        },
        as_json=as_json,
        people=people,
    )
    for study, message in failures.items():
        console.print(f"error: study {study}: {message}", style="red", soft_wrap=True)


def verdict(study: "StudyResult") -> str:
    """Whether the winner is champion now, and why."""
    decision, label = study.decision, study.version.label
    is_champion = decision.promoted or decision.champion == label
    return f"{label} is {'champion' if is_champion else 'not champion'} ({decision.because})"


def sweep_of(
    task: Sequence[str] | None,
    data: Sequence[str] | None,
    model: Sequence[str] | None,
    max_tokens: Sequence[int] | None,
    space: str | None,
    name: str | None,
    overrides: Sequence[str] | None,
) -> "SweepConfig":
    """The sweep of a verb's options: one study for each task, model and window."""
    from clinscale.cli.names import default_name
    from clinscale.config import fingerprint
    from clinscale.sweep import SweepConfig

    for option, given in (("--task", task), ("--data", data), ("--model", model)):
        if not given:
            raise ConfigError(f"{option} is needed, unless --resume names a sweep to go on with; see --help")
    task, data, model = task or [], data or [], model or []
    windows: Sequence[int | None] = max_tokens or [None]
    if len(data) not in (1, len(task)):
        raise ConfigError(f"--data is given once, or once per --task; got {len(data)} for {len(task)} tasks")
    folders = data if len(data) == len(task) else [*data] * len(task)
    studies = [
        {
            "name": default_name(one_task, one_model, window),
            "task": one_task,
            "data": folder,
            "models": [one_model],
            "max_tokens": window,
            "space": space,
        }
        for (one_task, folder), one_model, window in itertools.product(
            zip(task, folders, strict=True), model, windows
        )
    ]
    if len(studies) == 1:
        studies[0]["name"] = name or studies[0]["name"]
    named = name or (studies[0]["name"] if len(studies) == 1 else f"sweep-{fingerprint(studies)}")
    return SweepConfig.load(None, overrides or [], base={"name": named, "recipe": {"studies": studies}})


def _registered_as(config: "SweepConfig", name: str) -> "SweepConfig":
    """The sweep with another name for its winners' model, which changes no number and so may come with a resume."""
    tasks = {study.task for study in config.recipe.studies}
    if len(tasks) > 1:
        raise ConfigError(
            f"--register-as is for a sweep of one task, got {len(tasks)}; set register_as of each study instead"
        )
    values = config.plain()
    for study in values["recipe"]["studies"]:
        study["register_as"] = name
    return type(config).parse(values, source="options")


@contextmanager
def shown(config: "SweepConfig") -> Iterator[Any]:
    """A live table on a terminal, a line every few seconds elsewhere."""
    if not console.is_terminal:
        yield _Lines(config)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=2) as live:
        yield lambda at: live.update(progress_table(config.name, at))


class _Lines:
    """One line a change of trials, at most every few seconds."""

    def __init__(self, config: "SweepConfig") -> None:
        self._name, self._last_s = config.name, 0.0
        self._shown: set[str] = set()

    def __call__(self, at: "SweepProgress") -> None:
        for one in at.studies:
            line = f"{one.name}: {one.remark}"
            if one.remark and line not in self._shown:
                console.print(line, style="yellow", soft_wrap=True)
                self._shown.add(line)
        if time.monotonic() - self._last_s < _LINE_EVERY_S:
            return
        self._last_s = time.monotonic()
        best = ", ".join(f"{one.name} {one.best:.3f}" for one in at.studies if one.best is not None)
        console.print(f"Sweep {self._name}: {spent(at)}; best so far: {best or 'none yet'}", soft_wrap=True)


def spent(at: "SweepProgress") -> str:
    """The spent and the remaining budget; before and after the trials, the present activity."""
    trials = f"{at.trials} of {at.trials_budget} trials" if at.trials_budget else f"{at.trials} trials"
    if at.confirmations:
        trials += f" and {at.confirmations} under other seeds"
    used = format_seconds(at.device_seconds)
    hours = f" of {format_seconds(at.device_seconds_budget)}" if at.device_seconds_budget else ""
    return f"{trials}, {used}{hours} of device time" + (f"; {at.doing}" if at.doing else "")


def progress_table(name: str, at: "SweepProgress") -> Any:
    """The live table: one row a study."""
    rows = [
        {
            "study": one.name,
            "trials": one.trials,
            "running": one.running,
            "paused": one.paused,
            "failed": one.failed,
            "looks": one.looks,
            "epochs": one.epochs,
            "best so far": "" if one.best is None else f"{one.best:.4f}",
            "device time": format_seconds(one.device_seconds),
        }
        for one in at.studies
    ]
    from rich.console import Group

    lines = [f"{one.name}: {one.remark}" for one in at.studies if one.remark]
    return Group(table(f"Sweep {name}: {spent(at)}", rows), *lines)


def trial_progress(steps: Any) -> Any:
    """A callback that shows a sweep's progress as a bar, in the demo."""

    def show(at: "SweepProgress") -> None:
        best = ", ".join(f"{one.best:.3f}" for one in at.studies if one.best is not None)
        steps.update(at.trials, at.trials_budget, at.doing or (f"best {best}" if best else ""))

    return show


def winner_row(result: Any) -> dict[str, Any]:
    """The row that shows a study's winner, here and in the demo."""
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
        "linear": result.linear,
        "trials": result.trials,
        "device_seconds": round(result.device_seconds, 1),
        "name": result.version.name,
        "version": result.version.version,
        "alias": ", ".join(result.version.aliases),
    }


def remarks(results: "Sequence[StudyResult]") -> list[str]:
    """Lines below a table of winners on what they have not learned; usually none."""
    return [f"{one.version.label}: {remark}" for one in results for remark in one.remarks]


def offers(results: "Sequence[StudyResult]") -> list[str]:
    """Lines on averages of weights that may be taken in place of a winner; usually none."""
    return [
        f"{one.name}: {offer.sentence(one.metric)}; {one.folder.parent.parent / offer.id / one.folder.name}"
        for one in results
        for offer in one.offers
    ]


def thresholds(results: "Sequence[StudyResult]") -> list[str]:
    """Lines below a table of winners on what their thresholds did on the test split; of rare labels alone."""
    from clinscale.tasks import threshold_sentence

    return [f"{one.version.label}: {text}" for one in results if (text := threshold_sentence(one.test))]


def finalist_rows(result: Any) -> list[dict[str, Any]]:
    """Winner, runner-up and first trial of a study by their development scores over seeds."""
    return [
        {
            "study": result.name,
            "setting": f"{one.role} (trial {int(one.trial)})",
            "seeds": len(one.dev),
            f"dev {result.metric}": f"{one.mean:.4f}"
            + ("" if one.deviation is None else f" ± {one.deviation:.4f}"),
        }
        for one in result.finalists
    ]


def _forecast_tables(found: "Forecast") -> list[Any]:
    people: list[Any] = []
    # studies of one kind often share all of this, and are shown together
    for _, group in itertools.groupby(found.studies, key=lambda one: (one.space, one.fixed, one.suggestions)):
        studies = list(group)
        people.append(table(f"{', '.join(study.name for study in studies)}: space", studies[0].space))
        people.append(", ".join(f"{key}={value}" for key, value in studies[0].fixed.items()))
        people.append(table("First suggestions, before any score is known", studies[0].suggestions))
    people.append(table("Expected", [study.expected() for study in found.studies]))
    gate = found.gate.plain()
    limits = [{"gate": key, "limit": "none" if value is None else value} for key, value in gate.items()]
    people.append(table("Limits that a winner must keep to become champion", limits))
    people.append(
        f"{found.trials_at_once} trials at once; {found.trials} trials and {found.hours:.2f} h in all, "
        f"{found.device_hours:.2f} device-hours" + ("" if found.usd is None else f", {found.usd:.2f} USD")
    )
    return people
