"""The table that `bench search` replays: real fine-tunings of a tiny model, every epoch's score and seconds.

Recorded by `clinscale bench search --record FILE --model BASE` on the invented data of the demo, so that anybody can
make it again. Seconds are those of the processor, one thread, so that what else the machine does is not in them.
"""

import gzip
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from clinscale.errors import ConfigError, DivergenceError
from clinscale.finetune import FinetuneRecipe, finetune
from clinscale.storage import read_json
from clinscale.sweep import SearchSpace
from clinscale.synthetic import write_demo_data
from clinscale.tasks import TaskData, load_task, metric_of, read_task

SPACE = {
    "fixed": {"patience_epochs": 6, "max_tokens": 256, "optimizer.weight_decay": 0.01},
    "parameters": {
        "optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"type": "categorical", "choices": [4, 8, 16]},
        "dropout": {"type": "float", "low": 0.0, "high": 0.3},
        "optimizer.warmup_ratio": {"type": "float", "low": 0.0, "high": 0.3},
    },
    "first_trials": [
        {"optimizer.learning_rate": 1e-3, "batch_size": 8, "dropout": 0.1, "optimizer.warmup_ratio": 0.1}
    ],
}
"""The space that the recorded configurations were drawn from."""

TASKS: dict[str, dict[str, Any]] = {
    "entities_84_notes": {"task": "demo_entities", "scale": 0.7, "seed": 0},
    "entities_54_notes": {"task": "demo_entities", "scale": 0.45, "seed": 1},
    "entities_36_notes": {"task": "demo_entities", "scale": 0.3, "seed": 2},
}
"""Siblings: entities of other and of fewer notes. A tiny model learns them in six epochs; other kinds it does not."""

EPOCHS = 6


@dataclass(frozen=True)
class Curve:
    """One configuration on one task."""

    value: tuple[float, ...]
    """The task's metric on examples that were not trained on, after each epoch; NaN where the training diverged."""
    seconds: tuple[float, ...]
    """Processor seconds of each epoch."""


@dataclass(frozen=True)
class Table:
    """Every configuration on every task."""

    space: SearchSpace
    params: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, tuple[Curve, ...]]
    """Curves by task, in the order of `params`."""
    ends: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Worth of each configuration by task, where it is known better than by the best value of its curve."""

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """The table that `record_table` wrote; DataError for a file that is missing or no JSON."""
        values = read_json(path)
        return cls(
            SearchSpace.parse(values["space"], source=str(path)),
            tuple(values["params"]),
            {
                task: tuple(Curve(tuple(value), tuple(seconds)) for value, seconds in curves)
                for task, curves in values["curves"].items()
            },
        )

    def write(self, path: str | Path) -> None:
        """Write the table as compressed JSON."""
        values = {
            "space": self.space.plain(),
            "params": list(self.params),
            "curves": {
                task: [
                    [[round(value, 5) for value in curve.value], [round(second, 3) for second in curve.seconds]]
                    for curve in curves
                ]
                for task, curves in self.curves.items()
            },
        }
        # mtime=0: the same table is the same bytes
        Path(path).write_bytes(gzip.compress(json.dumps(values, separators=(",", ":")).encode(), mtime=0))


def record_table(
    path: str | Path,
    *,
    model: str,
    num_configurations: int = 128,
    processes: int = 1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Fine-tune `model` with each configuration on each task and write the table to `path`."""
    if num_configurations < 2:
        raise ConfigError(f"a table must have at least 2 configurations, got {num_configurations}; 128 is usual")
    space = SearchSpace.parse(SPACE, source="bench search")
    params = space.quasi_random(num_configurations, seed)
    found: dict[tuple[str, int], Curve] = {}
    with tempfile.TemporaryDirectory(prefix="clinscale-table-") as scratch:
        for task in TASKS.values():
            write_demo_data(_data_folder(scratch, task), scale=task["scale"], seed=task["seed"])
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=one_thread) as pool:
            jobs = {
                pool.submit(_curve, scratch, model, task, point): (task, number)
                for number, point in enumerate(params)
                for task in TASKS
            }
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
                if on_progress:
                    on_progress(len(found), len(jobs))
    curves = {task: tuple(found[task, number] for number in range(len(params))) for task in TASKS}
    table = Table(space, tuple(params), curves)
    table.write(path)
    return table


def _data_folder(scratch: str, task: Mapping[str, Any]) -> Path:
    return Path(scratch) / f"data-{task['scale']}-{task['seed']}"


def _curve(scratch: str, model: str, task: str, point: Mapping[str, Any]) -> Curve:
    asked = TASKS[task]
    data = _judged_on_more(read_task(load_task(str(asked["task"])), str(_data_folder(scratch, asked))))
    return curve_of(SearchSpace.parse(SPACE, source="bench search"), point, model, data, EPOCHS, Path(scratch))


def one_thread() -> None:
    """Start a process of trainings, each of one thread, so that processor seconds are comparable."""
    import torch

    torch.set_num_threads(1)


def curve_of(
    space: SearchSpace, point: Mapping[str, Any], model: str, data: TaskData, epochs: int, scratch: Path
) -> Curve:
    """A fine-tuning of `model` with the setting `point`: its score on the development split after each epoch."""
    metric = f"eval/{data.task.name}/{metric_of(data.task)}"
    values, seconds = [], []
    last_s = time.process_time()

    def on_epoch(metrics: dict[str, float]) -> None:
        nonlocal last_s
        now_s = time.process_time()
        values.append(metrics[metric])
        seconds.append(now_s - last_s)
        last_s = now_s

    recipe = FinetuneRecipe.parse({**space.recipe(model, point).plain(), "epochs": epochs}, source="bench search")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        try:
            finetune(recipe, data, Path(folder) / "hf", on_epoch=on_epoch)
        except DivergenceError:
            values.append(math.nan)
            seconds.append(time.process_time() - last_s)
    while len(values) < epochs:  # a perfect score ends a fine-tuning, as divergence does
        values.append(values[-1])
        seconds.append(seconds[-1])
    return Curve(tuple(values), tuple(seconds))


def _judged_on_more(data: TaskData) -> TaskData:
    """Test examples judge too: nothing here is chosen by them, and scores have finer steps."""
    return replace(data, splits={**data.splits, "dev": (*data.splits["dev"], *data.splits["test"])})
