"""The steps of a study in their order; each is a verb's own function and resumes by its name."""

import contextlib
import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale import corpus, models, registry
from clinscale.config import fingerprint
from clinscale.errors import ClusterError, ConfigError, DataError, RegistryError
from clinscale.hub import is_hub_name
from clinscale.plan import planned_costs, site_here
from clinscale.pretrain import has_trained, pretrain
from clinscale.registry import Tag
from clinscale.report import League, league_markdown, leagues
from clinscale.runfolder import check_plain_name, check_run_folder, check_unchanged, claim_run_folder, sole_writer
from clinscale.runtime import Cluster
from clinscale.storage import atomic_path, write_json
from clinscale.study.protocol import Protocol
from clinscale.sweep import (
    Forecast,
    Study,
    StudyConfig,
    SweepConfig,
    SweepInputs,
    SweepProgress,
    begun_studies,
    check_start,
    forecast,
    is_judged,
    read_inputs,
    sweep,
)
from clinscale.tasks import TaskConfig, TaskData, load_task, read_task

log = logging.getLogger(__name__)

PROTOCOL_FILE = "protocol.json"
LEAGUE_FILE = "league.md"

Event = Callable[[str], None]
"""Called with a sentence on the step that begins."""


@dataclass(frozen=True)
class Watch:
    """Displays of a study's long steps: opened for each step, they give the function that is called as it goes on."""

    steps: Callable[[str], AbstractContextManager[Callable[[int, int | None, dict[str, float]], None]]]
    """Display of a corpus or a base in the making, by its title: called with what is done, of how much, and metrics."""
    search: Callable[[SweepConfig], AbstractContextManager[Callable[[SweepProgress], None]]]
    """Display of one search."""


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


@dataclass(frozen=True)
class StudyTask:
    """A task of the protocol with its data."""

    name: str
    """Name in the protocol."""
    config: TaskConfig
    data: TaskData | None
    """None where it cannot be read."""
    place: str
    """Folder of its files."""


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
    say, watch = on_event or log.info, watch or Watch(_unwatched, _unwatched)
    tasks, failures = read_tasks(protocol)
    folder = check_run_folder(home, "study", protocol.name, _recipe(protocol))
    tasks, seen = _with_seen_tests(protocol, tasks, failures, folder, home)
    _check_corpus(protocol, tracking)
    claim_run_folder(home, "study", protocol.name, _recipe(protocol))  # a typo has claimed no name
    with sole_writer(folder):
        write_json(folder / PROTOCOL_FILE, protocol.plain())
        bases: dict[str, str] = {}
        for name in _asked_bases(protocol, tasks):
            try:
                bases[name] = _make(
                    protocol, name, tasks, folder, tracking=tracking, home=home, say=say, watch=watch
                )
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
    asked, waiting = sum(_is_asked(task, arm.kinds) for arm in protocol.models.values()), dict(read)
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
    tasks, seen = _with_seen_tests(protocol, tasks, failures, folder, home)
    failures |= _missing(protocol, folder, tracking)
    made = {
        name: place
        for name in protocol.bases
        if f"base {name}" not in failures and (place := _place_of(protocol, name, folder, tracking))
    }
    forecasts, grid = [], []
    for task in tasks:
        asked = [name for name, arm in protocol.models.items() if _is_asked(task, arm.kinds)]
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
    asked_bases = _asked_bases(protocol, tasks)
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


def read_tasks(protocol: Protocol) -> tuple[list[StudyTask], dict[str, str]]:
    """The tasks of a protocol, and the reason by task whose data cannot be read.

    Raises:
        ConfigError: the sweep of a task would have a name that no sweep can have, or that of another, or a budget that
            is too small for its models.
    """
    tasks, failures, swept = [], {}, dict[str, str]()
    for name, entry in protocol.tasks.items():
        config = load_task(name, entry.changes)
        check_plain_name(f"task {name}: the name of its sweep", f"{protocol.name}-{config.name}")
        if (other := swept.setdefault(config.name, name)) != name:
            raise ConfigError(
                f"study {protocol.name}: tasks {other} and {name} are both called {config.name}, and would share a "
                "sweep; give one another name, by its changes.name"
            )
        place, data = str(Path(protocol.data_folder, entry.data)), None
        try:
            data = read_task(config, place)
        except DataError as error:
            failures[f"task {name}"] = str(error)
        tasks.append(task := StudyTask(name, config, data, place))
        published = {base: one.pretrained for base, one in protocol.bases.items()}
        if cells := cells_of(protocol, task, published, seen=False):
            protocol.sweep(cells, config.name)  # the budget is enough for all of them
    return tasks, failures


def _missing(protocol: Protocol, folder: Path, tracking: registry.Tracking) -> dict[str, str]:
    """The reason by base whose weights cannot be there, and that of a corpus that cannot be read."""
    failures = {}
    for name, base in protocol.bases.items():
        is_as_published = base.convert_to is None and base.pretrain is None
        if not is_as_published and _place_of(protocol, name, folder, tracking):
            continue
        try:
            _check_weights(base.pretrained, tracking, may_be_registered=is_as_published)
        except (DataError, RegistryError) as error:
            failures[f"base {name}"] = str(error)
    try:
        _check_corpus(protocol, tracking)
    except DataError as error:
        failures["corpus"] = str(error)
    return failures


def _check_weights(name: str, tracking: registry.Tracking, *, may_be_registered: bool) -> None:
    """DataError or RegistryError where no model has that name; what the hub holds is not asked."""
    if Path(name).is_dir():
        models.check_hf_folder(name)
    elif may_be_registered and registry.is_reference(name):
        registry.resolve(tracking, name)
    elif not is_hub_name(name):
        pull = f"; clinscale pull {name} --out FOLDER makes a folder of a version" if "@" in name else ""
        raise DataError(f"{name} is no folder here, and no hub name (ORG/NAME); correct it{pull}")


def _check_corpus(protocol: Protocol, tracking: registry.Tracking) -> None:
    """DataError where a base is still to be pretrained on a corpus that cannot be read: before a night's searches."""
    wanted = [name for name, base in protocol.bases.items() if base.pretrain is not None]
    if protocol.corpus is None or all(_registered(protocol, name, tracking) for name in wanted):
        return
    config = protocol.corpus_of(None)
    corpus.check_sources(config.sources, config.cleaning)


def _with_seen_tests(
    protocol: Protocol, tasks: list[StudyTask], failures: dict[str, str], folder: Path, home: str | Path
) -> tuple[list[StudyTask], set[str]]:
    """The tasks, of those whose test documents were others when they were kept out of the corpus without their data.

    Beside them the names of those whose test documents a ShardSet that bases were, or are to be, pretrained on may
    hold; ConfigError unless that is allowed.
    """
    pretrained = [name for name, base in protocol.bases.items() if base.pretrain is not None]
    if not pretrained:
        return tasks, set()
    built = {
        _shards_of(protocol, name, folder) for name in pretrained if _is_settled(protocol, name, folder, home)
    }
    kept, seen, places = [], set[str](), [protocol.shards] if protocol.shards else sorted(map(str, built))
    for place in places:
        kept_out = set(corpus.open_shards(place).manifest.leakage)
        judged = [task for task in tasks if task.data or protocol.shards]
        if now := {task.name for task in judged if not {task.name, task.config.name} & kept_out} - seen:
            seen |= now
            if not protocol.allow_seen_tests:
                advice = (
                    "build it with --leakage TASK=PATH, give corpus in place of shards,"
                    if protocol.shards
                    else "drop these tasks, begin anew under another name,"
                )
                raise ConfigError(
                    f"ShardSet {place} was built without keeping out the test documents of {', '.join(sorted(now))}; "
                    f"{advice} or set allow_seen_tests=true, which the league table then says"
                )
    for task in tasks:
        try:
            if task.data and built and task.name not in seen:
                check_unchanged(folder, _tests_of(task), fingerprint(task.data.texts("test")), records=False)
        except DataError as error:
            failures[f"task {task.name}"] = str(error)
            task = dataclasses.replace(task, data=None)
        kept.append(task)
    return kept, seen


def _tests_of(task: StudyTask) -> str:
    """Name under which the fingerprint of a task's test documents is recorded that are not in the corpus."""
    return f"the test documents of {task.name}, which were kept out of the corpus,"


def _sharing_shards(protocol: Protocol, name: str) -> list[str]:
    """The bases that are pretrained on the same ShardSet of the corpus, as they begin from one source."""
    source = protocol.bases[name].pretrained
    return [
        other for other, base in protocol.bases.items() if base.pretrain is not None and base.pretrained == source
    ]


def _shards_of(protocol: Protocol, name: str, folder: Path) -> Path:
    """The ShardSet of the corpus that a base is pretrained on."""
    return folder / "shards" / _sharing_shards(protocol, name)[0]


def _is_settled(protocol: Protocol, name: str, folder: Path, home: str | Path) -> bool:
    """Whether a base has been pretrained on that ShardSet, which then stays as it is."""
    return (
        protocol.shards is None
        and any(has_trained(f"{protocol.name}-{other}", home=home) for other in _sharing_shards(protocol, name))
        and corpus.is_shard_set(_shards_of(protocol, name, folder))
    )


def _asked_bases(protocol: Protocol, tasks: Sequence[StudyTask]) -> list[str]:
    """The bases of models that some task is asked of, in the order of the protocol; no other is made."""
    asked = {arm.base for arm in protocol.models.values() if any(_is_asked(task, arm.kinds) for task in tasks)}
    return [name for name in protocol.bases if name in asked]


def _place_of(protocol: Protocol, name: str, folder: Path, tracking: registry.Tracking) -> str | None:
    """Reference by which a finished base is fetched; None where it is still to be made."""
    base = protocol.bases[name]
    if base.pretrain is not None:
        return _registered(protocol, name, tracking)
    if base.convert_to is None:
        return base.pretrained
    converted = _converted(folder, name)
    return str(converted) if (converted / "config.json").is_file() else None


def _registered(protocol: Protocol, name: str, tracking: registry.Tracking) -> str | None:
    """The version of a base that has been pretrained; None where it is still to be."""
    version = registry.find_version(tracking, f"{protocol.name}-{name}@champion")
    return version.label if version else None


def _converted(folder: Path, name: str) -> Path:
    """HF folder of a base that is converted; it appears whole."""
    return folder / "bases" / name


def _make(
    protocol: Protocol,
    name: str,
    tasks: list[StudyTask],
    folder: Path,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    say: Event,
    watch: Watch,
) -> str:
    """The base as fine-tuning fetches it: a folder, or a version of the registry."""
    base = protocol.bases[name]
    if base.pretrain is not None:
        shards = protocol.shards or (
            str(_shards_of(protocol, name, folder))
            if _is_settled(protocol, name, folder, home)
            else _build_corpus(protocol, name, tasks, folder, watch)
        )
        config = protocol.pretraining(name, shards)
        with watch.steps(f"Pretraining {name}") as on_progress:
            done = pretrain(config, tracking=tracking, home=home, on_progress=on_progress, on_event=say)
        return done.version.label
    made = _place_of(protocol, name, folder, tracking)
    if base.convert_to is None:
        try:
            _check_weights(base.pretrained, tracking, may_be_registered=True)
        except RegistryError as error:  # of this base alone
            raise DataError(str(error)) from None
    if base.convert_to is not None and (source := models.model_fingerprint(base.pretrained)):
        check_unchanged(folder, f"model {base.pretrained}", source)
    if made is not None:
        return made
    say(f"converting {name} to {base.convert_to}")
    converted = _converted(folder, name)
    for left in converted.parent.glob(f".{name}.*"):  # by a start that was killed
        shutil.rmtree(left, ignore_errors=True)
    models.convert_to_folder(base.model, corpus.load_tokenizer(base.pretrained), converted)
    return str(converted)


def _build_corpus(protocol: Protocol, name: str, tasks: list[StudyTask], folder: Path, watch: Watch) -> str:
    """A ShardSet in the tokens of the base, without the test documents of the tasks."""
    source = protocol.bases[name].pretrained
    missing = [task.name for task in tasks if task.data is None]
    if missing and not protocol.allow_seen_tests:
        raise DataError(
            f"the test documents of {', '.join(missing)} cannot be kept out of the corpus, as their data cannot be "
            "read; give their data, drop the tasks, or set allow_seen_tests=true"
        )
    texts = {task.name: task.data.texts("test") for task in tasks if task.data}
    with watch.steps(f"Notes of the corpus in the tokens of {source}") as on_progress:
        place = corpus.build_shards(
            protocol.corpus_of(source),
            str(_shards_of(protocol, name, folder)),
            test_texts=texts,
            on_progress=lambda notes: on_progress(notes, None, {}),
        ).uri
    for task in tasks:
        if task.data:
            check_unchanged(folder, _tests_of(task), fingerprint(texts[task.name]), is_new=True)
    return place


def cells_of(protocol: Protocol, task: StudyTask, bases: Mapping[str, str], *, seen: bool) -> list[StudyConfig]:
    """One search for each model that the task is asked of and whose base is there."""
    entry = protocol.tasks[task.name]
    return [
        StudyConfig(
            name=f"{task.config.name}-{name}",
            task=task.name,
            task_changes=entry.changes,
            data=task.place,
            models=(bases[arm.base],),
            max_tokens=arm.max_tokens,
            space=entry.space,
            fixed=arm.fixed,
            arm=name,
            league=protocol.name,
            seen_tests=seen,
        )
        for name, arm in protocol.models.items()
        if arm.base in bases and _is_asked(task, arm.kinds)
    ]


def _is_asked(task: StudyTask, kinds: tuple[str, ...] | None) -> bool:
    return kinds is None or task.config.kind in kinds


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


@contextlib.contextmanager
def _unwatched(_: object) -> Iterator[Callable[..., None]]:
    yield lambda *progress: None
