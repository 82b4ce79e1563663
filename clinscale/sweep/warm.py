"""Settings that earlier studies in MLflow found good, as first trials of a new one."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinscale import registry
from clinscale.config import nearest
from clinscale.errors import ConfigError, DataError
from clinscale.registry import RunRecord, Tag
from clinscale.storage import read_json, write_json
from clinscale.sweep.dimensions import CategoricalDimension
from clinscale.sweep.space import SearchSpace
from clinscale.tasks import TaskConfig

AUTO = "auto"


def warm_file(folder: Path, study: str) -> Path:
    """The file in a sweep's folder of the points that a study took from earlier ones when the sweep began."""
    return folder / study / "warm.json"


def write_warm_points(file: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """Record the points, once: later starts of the sweep go on with them, whatever MLflow holds by then."""
    if not file.exists():
        write_json(file, [dict(point) for point in points])


def read_warm_points(file: Path) -> tuple[dict[str, Any], ...]:
    """The points that were recorded; DataError for a file of anything else."""
    points = read_json(file)
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise DataError(f"{file} must hold the points of a warm start; restore it from a backup of the sweep")
    return tuple(points)


def warm_points(
    tracking: registry.Tracking,
    names: Sequence[str],
    *,
    task: TaskConfig,
    space: SearchSpace,
    count: int,
    own: str,
) -> tuple[dict[str, Any], ...]:
    """The best points of the studies called `names` that this space holds, at most `count`, the best of each first.

    `auto` means the finished studies of the same task, or where there are none, of the same kind.

    Args:
        tracking: where they are.
        names: of studies, or `auto`.
        task: of the new study.
        space: of the new study.
        count: of points.
        own: name of the new study, which is no earlier one.

    Raises:
        ConfigError: no study has that name, or its space has other parameters.
        RegistryError: the server fails.
    """
    if not names:
        return ()
    earlier = [run for run in registry.read_runs(tracking, kind="sweep") if run.name != own]
    ranked: list[list[dict[str, Any]]] = []
    for name in names:
        if name == AUTO:
            chosen = [run for run in _related(earlier, task) if not _difference(run, space)]
        else:
            chosen = [_named(name, earlier)]
            if odd := _difference(chosen[0], space):
                raise ConfigError(
                    f"study {name} cannot warm-start this one: {odd}; use the same space, or another study"
                )
        ranked += [_best_points(tracking, run, space) for run in chosen]
    # the best of each study, then the second of each, ...
    merged = [points[place] for place in range(count) for points in ranked if place < len(points)]
    return tuple(_distinct(merged)[:count])


def _named(name: str, earlier: Sequence[RunRecord]) -> RunRecord:
    found = [run for run in earlier if run.name == name]
    if not found:
        raise ConfigError(
            f"recipe.warm_start: no earlier study is called {name!r}; {nearest(name, [run.name for run in earlier])}"
        )
    return found[-1]


def _related(earlier: Sequence[RunRecord], task: TaskConfig) -> list[RunRecord]:
    finished = [run for run in earlier if run.status == "FINISHED"]
    same = [run for run in finished if run.tags.get(Tag.TASK) == task.name]
    return same or [run for run in finished if run.tags.get(Tag.TASK_KIND) == task.kind]


def _difference(run: RunRecord, space: SearchSpace) -> str | None:
    """Difference between the searched parts of the spaces; None if there is none."""
    try:
        theirs = set(json.loads(run.tags.get(Tag.SPACE, "")))
    except ValueError:
        return "it recorded no search space"
    if odd := sorted(theirs ^ set(space.parameters)):
        return f"{odd[0]} is searched in only one of the two"
    return None


def _best_points(tracking: registry.Tracking, run: RunRecord, space: SearchSpace) -> list[dict[str, Any]]:
    trials = [
        trial
        for trial in registry.read_runs(tracking, kind="trial", parent=run.id)
        if "objective" in trial.metrics and Tag.CONFIRMS not in trial.tags
    ]
    trials.sort(key=lambda trial: -trial.metrics["objective"])
    points = (_point(trial.params, space) for trial in trials)
    return _distinct([point for point in points if point is not None])


def _distinct(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(point, sort_keys=True): point for point in points}.values())


def _point(params: Mapping[str, str], space: SearchSpace) -> dict[str, Any] | None:
    """A trial's parameters as this space spells them; None where one is outside."""
    point: dict[str, Any] = {}
    for key, dimension in space.parameters.items():
        if not dimension.active(point):
            continue
        if key not in params:
            return None
        value: Any = None
        if isinstance(dimension, CategoricalDimension):
            value = next((choice for choice in dimension.choices if str(choice) == params[key]), None)
        else:
            with contextlib.suppress(ValueError, OverflowError):
                value = (int if dimension.type == "int" else float)(params[key])
        if not dimension.holds(value):
            return None
        point[key] = value
    return point
