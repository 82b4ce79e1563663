"""The steps of a study in their order; each is a verb's own function and resumes by its name."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale import registry
from clinscale.errors import ClusterError, ConfigError, DataError
from clinscale.plan import planned_costs, site_here
from clinscale.registry import Tag
from clinscale.report import League, league_markdown, leagues
from clinscale.runfolder import check_run_folder, claim_run_folder, sole_writer
from clinscale.runtime import Cluster
from clinscale.storage import atomic_path, write_json
from clinscale.study.bases import UNWATCHED, Bases, Event, Watch
from clinscale.study.grid import StudyTask, cells_of, is_asked, read_tasks
from clinscale.study.protocol import Protocol
from clinscale.sweep import (
    Forecast,
    Study,
    StudyConfig,
    SweepConfig,
    SweepInputs,
    begun_studies,
    check_start,
    forecast,
    is_judged,
    read_inputs,
    sweep,
)

log = logging.getLogger(__name__)

PROTOCOL_FILE = "protocol.json"
LEAGUE_FILE = "league.md"


@dataclass(frozen=True)
class StudyOutcome:
    """Result of a study."""

    name: str
    league: League | None
    """None where fewer than two models were judged on one task."""
    failures: Mapping[str, str]
    """Reason by base, task or cell that has no score; the others have theirs."""
    markdown: Path
    """The league table as Markdown."""


@dataclass(frozen=True)
class StudyOutline:
    """Outline of what a study would do, before anything is started."""

    bases: tuple[dict[str, str], ...]
    """Bases: how each is made, and whether it is there, to be made, or its weights are missing."""
    grid: tuple[dict[str, str], ...]
    """Tasks: what is there of the data of each, and which models are asked."""
    forecasts: tuple[Forecast, ...]
    """Expected trials and hours of each task's search, by probes; of tasks whose bases are all there."""
    failures: Mapping[str, str]
    """Reason by what is missing: the data of a task, the weights of a base, or the corpus."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "forecasts": [one.plain() for one in self.forecasts]}


def run_study(
    protocol: Protocol,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    cluster: Cluster,
    on_event: Event | None = None,
    watch: Watch | None = None,
) -> StudyOutcome:
    """Make the bases, search every task with every model, write the league table; what is done is not done again.

    Needs a `ray_session`; a `fork_session` does where no base is pretrained. A task whose data, or a base whose weights
    are missing is left out and named among the failures.

    Raises:
        ConfigError: the name represents another protocol (names what differs), or a test set may have been seen in
            pretraining. DataError: the corpus that bases are still to be pretrained on cannot be read.
        ClinscaleError: nothing could be judged; the first reason.
    """
    say, watch = on_event or log.info, watch or UNWATCHED
    tasks, failures = read_tasks(protocol)
    folder = check_run_folder(home, "study", protocol.name, _recipe(protocol))
    making = Bases(protocol, folder, tracking, home)
    tasks, seen = making.with_seen_tests(tasks, failures)
    making.check_corpus()
    claim_run_folder(home, "study", protocol.name, _recipe(protocol))  # a typo has claimed no name
    with sole_writer(folder):
        write_json(folder / PROTOCOL_FILE, protocol.plain())
        bases: dict[str, str] = {}
        for name in making.asked(tasks):
            try:
                bases[name] = making.make(name, tasks, say=say, watch=watch)
            except (ConfigError, DataError, ClusterError) as error:
                failures[f"base {name}"] = str(error)
                say(f"base {name} cannot be made, its models wait for the next start of the same command: {error}")
        for task in tasks:
            if task.data is None:
                continue
            cells = cells_of(protocol, task, bases, seen=task.name in seen)
            for search, inputs in _searches(protocol, task, cells, failures, tracking=tracking, home=home):
                say(
                    f"searching {task.config.name} with {', '.join(str(one.arm) for one in search.recipe.studies)}"
                )
                try:
                    with watch.search(search) as on_progress:
                        found = sweep(
                            search,
                            tracking=tracking,
                            home=home,
                            cluster=cluster,
                            inputs=inputs,
                            on_progress=on_progress,
                        )
                except (ConfigError, DataError, ClusterError) as error:  # a night of the others is not lost by it
                    failures[f"task {task.name}"] = str(error)
                    continue
                failures |= {f"cell {name}": str(error) for name, error in found.failures.items()}
        return _judged(protocol, folder, failures, tracking)


def _judged(
    protocol: Protocol, folder: Path, failures: dict[str, str], tracking: registry.Tracking
) -> StudyOutcome:
    """The league table of all that has been judged, written."""
    runs = [run for run in registry.read_runs(tracking, kind="sweep") if run.tags.get(Tag.LEAGUE) == protocol.name]
    league = next(iter(leagues(tracking, runs)), None)
    if league is None and failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise DataError(f"study {protocol.name}: no two models were judged on one task; {reasons}")
    markdown = folder / LEAGUE_FILE
    with atomic_path(markdown) as temporary:
        temporary.write_text(_page(protocol, league, failures), encoding="utf-8")
    return StudyOutcome(protocol.name, league, failures, markdown)


def _searches(
    protocol: Protocol,
    task: StudyTask,
    cells: Sequence[StudyConfig],
    failures: dict[str, str],
    *,
    tracking: registry.Tracking,
    home: str | Path,
) -> list[tuple[SweepConfig, SweepInputs]]:
    """The searches of a task: one of its models, and one more of those whose bases were made after it had begun.

    What is searched apart has its share of the budget, so that no model is tried more often than it would have been.
    What cannot be searched is added to the failures.
    """
    read, faults = dict[str, Study](), dict[str, str]()
    for cell in cells:
        try:
            alone = protocol.sweep([cell], task.config.name)
            read[cell.name] = read_inputs(alone, tracking=tracking, home=home).studies[0]
        except (ConfigError, DataError) as error:
            faults[f"cell {cell.name}"] = str(error)
    if faults and not read:
        failures[f"task {task.name}"] = next(iter(faults.values()))
        return []
    failures |= faults
    asked, waiting = sum(is_asked(task, arm.kinds) for arm in protocol.models.values()), dict(read)
    found: list[tuple[SweepConfig, SweepInputs]] = []
    for number in itertools.count():
        name = f"{task.config.name}-later{number}" if number else task.config.name
        begun = begun_studies(f"{protocol.name}-{name}", home=home)
        mine = {cell: study for cell, study in waiting.items() if not begun or cell in begun}
        if lost := [cell for cell in begun if cell not in mine]:
            failures[f"task {task.name}"] = (
                f"its search was begun with {', '.join(lost)}, which cannot be gone on with; fix what is wrong with "
                "that model or its base, then run the same command again"
            )
        elif mine:
            search = protocol.sweep([study.config for study in mine.values()], name, of=asked)
            found.append((search, SweepInputs(tuple(mine.values()), {})))
        waiting = {cell: study for cell, study in waiting.items() if cell not in mine}
        if not waiting:
            break
    return found


def outline(
    protocol: Protocol, *, tracking: registry.Tracking, home: str | Path, cluster: Cluster | None = None
) -> StudyOutline:
    """Outline the study: nothing is made, trained or registered.

    With a `cluster`, a few steps of each search are trained to say how long it takes, where its bases are there.
    """
    tasks, failures = read_tasks(protocol)
    folder = check_run_folder(home, "study", protocol.name, _recipe(protocol))
    making = Bases(protocol, folder, tracking, home)
    tasks, seen = making.with_seen_tests(tasks, failures)
    failures |= making.missing()
    made = {
        name: place
        for name in protocol.bases
        if f"base {name}" not in failures and (place := making.place_of(name))
    }
    forecasts, grid = [], []
    for task in tasks:
        asked = [name for name, arm in protocol.models.items() if is_asked(task, arm.kinds)]
        cells = cells_of(protocol, task, made, seen=task.name in seen)
        grid.append(
            {
                "task": task.name,
                "kind": task.config.kind,
                "data": f"{sum(map(len, task.data.splits.values())):,} examples" if task.data else "missing",
                "models": ", ".join(asked),
                "deviation": protocol.tasks[task.name].note or "",
            }
        )
        if cluster and task.data and len(cells) == len(asked):
            for search, inputs in _searches(protocol, task, cells, failures, tracking=tracking, home=home):
                try:
                    check_start(search, inputs, home=home)
                except (ConfigError, DataError) as error:
                    failures[f"task {task.name}"] = str(error)
                    continue
                if not is_judged(search, home=home):
                    planned = planned_costs(search, site_here(on_gpu=search.runtime.gpus_per_trial > 0))
                    forecasts.append(forecast(search, inputs, cluster=cluster, planned=planned))
    asked_bases = making.asked(tasks)
    rows = [
        {
            "base": name,
            "from": base.pretrained,
            "becomes": base.convert_to or "as it is",
            "pretrained further": "no" if base.pretrain is None else str(base.pretrain.get("duration", "yes")),
            "state": "missing"
            if f"base {name}" in failures
            else "no model's"
            if name not in asked_bases
            else "ready"
            if name in made
            else "to be made",
        }
        for name, base in protocol.bases.items()
    ]
    return StudyOutline(tuple(rows), tuple(grid), tuple(forecasts), failures)


def _recipe(protocol: Protocol) -> dict[str, Any]:
    """All that changes the numbers; data may move, as each sweep knows theirs by a fingerprint."""
    left_out = {"name", "about", "data_folder", "sweep_runtime", "pretrain_runtime", "allow_seen_tests"}
    tasks = {name: {"changes": task.changes, "space": task.space} for name, task in protocol.tasks.items()}
    return {key: value for key, value in protocol.plain().items() if key not in left_out} | {"tasks": tasks}


def _page(protocol: Protocol, league: League | None, failures: Mapping[str, str]) -> str:
    """The league table with what the protocol says of itself, and what is missing."""
    lines = [
        league_markdown(league) if league else f"# {protocol.name}\n\nOne model was judged: there is no table.\n"
    ]
    if protocol.about:
        lines += [protocol.about, ""]
    notes = {name: entry.note for name, entry in protocol.tasks.items() if entry.note}
    lines += [*(f"- {name}: {note}" for name, note in notes.items()), *([""] if notes else [])]
    if failures:
        lines += ["## Missing", "", *(f"- {name}: {why}" for name, why in failures.items()), ""]
    return "\n".join(lines)
