"""The grid of a study: its tasks with their data, and the models that are asked each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clinscale.errors import ConfigError, DataError
from clinscale.runfolder import check_plain_name
from clinscale.study.protocol import Protocol
from clinscale.sweep import StudyConfig
from clinscale.tasks import TaskConfig, TaskData, load_task, read_task


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
        if arm.base in bases and is_asked(task, arm.kinds)
    ]


def is_asked(task: StudyTask, kinds: tuple[str, ...] | None) -> bool:
    """Whether a model of these kinds is asked the task; None is all kinds."""
    return kinds is None or task.config.kind in kinds
