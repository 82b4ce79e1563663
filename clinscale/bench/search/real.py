"""Learning curves of real weights on real notes, recorded in the form of `public`.

The first layers of an encoder are fine-tuned with each setting on a part of each of three open tasks, so that hundreds
of trainings fit two hours of a CPU. Each curve is kept as soon as it ends; the same call goes on where it was stopped.
"""

import dataclasses
import functools
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from clinscale import models
from clinscale.bench.search.public import write_public
from clinscale.bench.search.table import curve_of, one_thread
from clinscale.config import fingerprint
from clinscale.errors import ConfigError
from clinscale.storage import read_json, write_json
from clinscale.sweep import SearchSpace
from clinscale.tasks import TaskData, load_task, read_task

LOOKS = 8
"""Epochs of a training, after each of which it is judged."""

TASKS = {"ncbi_disease": "ncbi_disease_bio", "openi_findings": "openi_indiana", "tcga_organ": "tcga_pathology"}
"""Packaged tasks, with the folders of their data sets."""

SPACE = {
    "fixed": {"patience_epochs": LOOKS, "max_tokens": 64, "precision": "bf16"},
    "parameters": {
        "optimizer.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": {"type": "categorical", "choices": [4, 8, 16, 32]},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
        "optimizer.warmup_ratio": {"type": "float", "low": 0.0, "high": 0.5},
        "optimizer.weight_decay": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    },
}

_LAYERS = 2
_EXAMPLES = {"train": 128, "dev": 192}


def record_curves(
    path: str | Path,
    *,
    model: str,
    data: str | Path,
    tasks: Sequence[str] = tuple(TASKS),
    num_configurations: int = 96,
    processes: int = 1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fine-tune the first layers of `model` with each setting on each task and write the curves to `path`.

    Seconds are those of the processor, one thread. Curves that have ended are in `PATH.part` until all have.

    Args:
        path: of the Parquet file.
        model: Hugging Face folder of an encoder.
        data: folder that holds the data sets in `TASKS` by these names.
        tasks: which of `TASKS`.
        num_configurations: settings of each task, the first of a quasi-random sequence.
        processes: trainings at a time.
        seed: of the sequence.
        on_progress: receives the number of curves that have ended, and that of all.

    Raises:
        ConfigError: fewer than two settings, a path without `.parquet`, a data set that is not there, or `PATH.part` is
            of other trainings. DataError: `model` is no such folder, or as `finetune`.
    """
    if num_configurations < 2:
        raise ConfigError(f"a table must have at least 2 configurations, got {num_configurations}; 96 are usual")
    if missing := [TASKS[task] for task in tasks if not (Path(data) / TASKS[task]).is_dir()]:
        raise ConfigError(f"{data} must hold the data set {missing[0]}, and does not; name the folder that does")
    if Path(path).suffix != ".parquet":
        raise ConfigError(f"{path} must end with .parquet, as what replays it knows the form by that; rename it")
    params = SearchSpace.parse(SPACE, source="bench search").quasi_random(num_configurations, seed)
    kept = _begin(Path(f"{path}.part"), _trainings(model, data, seed))
    jobs = [(task, number) for number in range(num_configurations) for task in tasks]
    left = [job for job in jobs if not _kept_at(kept, *job).exists()]
    with tempfile.TemporaryDirectory(prefix="clinscale-curves-") as scratch:
        _write_first_layers(model, Path(scratch) / "model")
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=one_thread) as pool:
            running = [pool.submit(_record, kept, scratch, str(data), *job, params[job[1]]) for job in left]
            for done, ended in enumerate(as_completed(running), len(jobs) - len(left) + 1):
                ended.result()
                if on_progress:
                    on_progress(done, len(jobs))
    import pandas

    write_public(pandas.DataFrame(_rows(kept, jobs, params)), path, goal="maximise")
    shutil.rmtree(kept)


def _trainings(model: str, data: str | Path, seed: int) -> dict[str, Any]:
    """All that decides the curves but the task: they are mixed with no others."""
    models.check_hf_folder(model)
    recipe = {"weights": models.model_fingerprint(model), "space": SPACE, "layers": _LAYERS, "examples": _EXAMPLES}
    return {"model": model, "data": str(data), "seed": seed, "recipe": fingerprint(recipe)}


def _begin(kept: Path, trainings: dict[str, Any]) -> Path:
    """The folder of curves that have ended; ConfigError where it is of other trainings."""
    of = kept / "of.json"
    if of.exists() and (before := read_json(of)) != trainings:
        raise ConfigError(
            f"{kept} holds curves of {before}, not of {trainings}; remove it, or record to another file"
        )
    kept.mkdir(parents=True, exist_ok=True)
    write_json(of, trainings)
    return kept


def _kept_at(kept: Path, task: str, number: int) -> Path:
    return kept / f"{task}-{number}.json"


def _write_first_layers(model: str, folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(model, num_hidden_layers=_LAYERS).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def _record(kept: Path, scratch: str, data: str, task: str, number: int, point: Mapping[str, Any]) -> None:
    space = SearchSpace.parse(SPACE, source="bench search")
    curve = curve_of(space, point, str(Path(scratch) / "model"), _part_of(data, task), LOOKS, Path(scratch))
    values = [None if math.isnan(value) else value for value in curve.value]
    write_json(_kept_at(kept, task, number), {"value": values, "seconds": curve.seconds})


@functools.cache
def _part_of(data: str, task: str) -> TaskData:
    """A task with some examples of `train` and `dev`, the same for every setting."""
    read = read_task(load_task(task), str(Path(data) / TASKS[task]))
    some = {
        split: tuple(random.Random(0).sample(read.splits[split], min(most, len(read.splits[split]))))
        for split, most in _EXAMPLES.items()
    }
    return dataclasses.replace(read, splits={**read.splits, **some})


def _rows(kept: Path, jobs: list[tuple[str, int]], params: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task, number in jobs:
        curve = read_json(_kept_at(kept, task, number))
        for step, (value, seconds) in enumerate(zip(curve["value"], curve["seconds"], strict=True), 1):
            look = {"task": task, "config": number, "step": step, "value": value, "seconds": seconds}
            yield look | params[number]
