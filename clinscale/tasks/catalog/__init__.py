"""The tasks that clinscale knows by name, one YAML file each beside this one, and tasks of the user's own."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinscale.config import Config, merge, nearest
from clinscale.errors import ConfigError
from clinscale.strict_yaml import read_yaml
from clinscale.tasks.distributions import DISTRIBUTIONS
from clinscale.tasks.task import KINDS, TaskConfig, open_formats


@functools.cache
def catalog() -> dict[str, TaskConfig]:
    """Task name -> its contract: the paper's ten, open ones for those without licences, the demo's four."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {file.stem: TaskConfig.load(file, base={"name": file.stem}) for file in files}


def load_task(name_or_yaml: str, changes: Mapping[str, Any] | Sequence[str] = ()) -> TaskConfig:
    """The named task of the catalog, or the task in a YAML file, with `changes` laid over it.

    A YAML file that says `extends: NAME` changes a task of the catalog.

    Args:
        name_or_yaml: a name of the catalog, or the path of a `.yaml` file.
        changes: plain nested values, or `key.path=value` overrides.

    Raises:
        ConfigError: no such name (the nearest is named) or file, or the result is no valid task.
    """
    from_file = Path(name_or_yaml).suffix in (".yaml", ".yml")
    values = read_yaml(name_or_yaml) if from_file else {"extends": name_or_yaml}
    extended = values.pop("extends", None)
    base = merge(_known(str(extended)).plain() if extended is not None else {}, values)
    if isinstance(changes, Mapping):
        base, changes = merge(base, changes), ()
    # a mistake in the file is reported by the file's name, one on the command line as one of the options
    task = TaskConfig.load(None, changes, base=base) if changes else TaskConfig.parse(base, source=name_or_yaml)
    if task.format in DISTRIBUTIONS:
        DISTRIBUTIONS[task.format].options.parse(task.options, source=f"task {task.name}: options")
    elif task.format not in open_formats():
        formats = [*KINDS[task.kind].formats, *DISTRIBUTIONS]
        raise ConfigError(f"task {task.name}: format {task.format!r} is unknown; {nearest(task.format, formats)}")
    return task


def options_of(task: TaskConfig) -> list[dict[str, Any]]:
    """Options of the task's distribution and kind: `option`, `value`, `default`, `why` (the field's own words)."""
    of_kind = _rows_of(KINDS[task.kind].options, task.kind_options, task, "kind_options")
    if task.format not in DISTRIBUTIONS:
        return of_kind
    return [*_rows_of(DISTRIBUTIONS[task.format].options, task.options, task, "options"), *of_kind]


def _rows_of(options: type[Config], given: Mapping[str, Any], task: TaskConfig, key: str) -> list[dict[str, Any]]:
    chosen = options.parse(given, source=f"task {task.name}: {key}").plain()
    defaults = options().plain()
    return [
        {
            "option": name if key == "options" else f"{key}.{name}",
            "value": chosen[name],
            "default": defaults[name],
            "why": " ".join((field.description or "").split()),
        }
        for name, field in options.model_fields.items()
    ]


def _known(name: str) -> TaskConfig:
    known = catalog()
    if name not in known:
        raise ConfigError(
            f"task {name!r} is not in the catalog; {nearest(name, list(known))} "
            "For a task of your own give the path of a .yaml file"
        )
    return known[name]
