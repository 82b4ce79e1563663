"""One segment of one trial: a fine-tuning in a process of its own, until its end or until it must pause."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinscale.errors import (
    ChangedDataError,
    ClinscaleError,
    DivergenceError,
    OutOfMemoryError,
    exhausted_disk,
    exhausted_memory,
)
from clinscale.finetune import FinetuneRecipe, Looks, finetune, finetune_on_workers
from clinscale.held import hold
from clinscale.runtime import halved, waiting, watched
from clinscale.sweep.config import SweepRuntime
from clinscale.sweep.events import Reason
from clinscale.sweep.space import MODEL, SearchSpace
from clinscale.tasks import TaskConfig, TaskData, metric_of, read_task

OBJECTIVE = "objective"
"""Key of the maximised value: the trial's best development score so far."""

LOOK = "look"
"""Key of the place of a look among those of its study, in reports from inside the first epoch."""

FAILED, MESSAGE = "failed", "message"
"""Keys of the last report of a trial that cannot go on; a look without a score has the second alone."""

SHORT_OF_MEMORY = "short_of_memory"
"""Value of `FAILED` where memory gave out between steps, whose own lack is answered with smaller ones."""

NO_ROOM, CHANGED = "no_room", "changed"
"""Values of `FAILED` where the disk cannot be written, or the data are others: no fault of the settings, and every
other trial's end as well.
"""


@dataclass(frozen=True)
class TrialSpec:
    """The message from the driver to every trial of a study; paths and configs only, no notes."""

    task: TaskConfig
    data: str
    fingerprint: str
    """Fingerprint of the data as the driver read it; every trial must read the same."""
    models: tuple[str, ...]
    """Local folders or hub names."""
    space: SearchSpace
    folder: Path
    """Each trial keeps its best weights in `folder/TRIAL_ID/hf` and its state beside them."""
    runtime: SweepRuntime
    pauses: tuple[int, ...] = ()
    """Epochs after which a trial of several workers gives them back until it is known whether it goes on."""
    looks: Looks | None = None
    """Looks inside the first epoch; after each of them, too, a trial of several workers gives them back."""

    average: bool = False
    """Whether trials of one worker keep the average of their last epochs."""

    def recipe(self, sampled: Mapping[str, Any], seed: int) -> FinetuneRecipe:
        """The fine-tuning that one sampled point means."""
        point = dict(sampled)
        return self.space.recipe(self.models[int(point.pop(MODEL, 0))], point, seed=seed)


@dataclass(frozen=True)
class Segment:
    """A request of the searcher to one trial."""

    study: int
    trial: str
    """Id of the trial, by which its folder is found."""
    params: Mapping[str, Any]
    seed: int
    known_epochs: float = 0
    """Epochs that the ledger has already, with the share of the first one."""
    known_looks: int = 0
    """Looks at the beginning of those of its study that are behind it."""
    halvings: int = 0
    """Number of halvings of the micro batch, because the host's memory was too small for it."""


Report = Callable[[Mapping[str, Any]], None]
"""Takes a trial's report of a look or an epoch to the driver, and does not return where it is not to train on."""


def run_segment(report: Report, segment: Segment, *, specs: tuple[TrialSpec, ...]) -> None:
    """Fine-tune, reporting every look and epoch; any report may be the last, and a later segment goes on from there."""
    import torch

    spec = specs[segment.study]
    torch.set_num_threads(spec.runtime.threads_per_trial)
    metric = f"eval/{spec.task.name}/{metric_of(spec.task)}"
    limit_gb = spec.space.constraints.memory_gb
    best, last_s = float("-inf"), time.perf_counter()

    def on_epoch(metrics: dict[str, float]) -> None:
        nonlocal best, last_s
        _check_memory(limit_gb)
        found = _of_look(spec, metrics) if LOOK in metrics else None
        if found is None:
            best = max(best, metrics[metric])
            found = {OBJECTIVE: best}
        if metrics["epoch"] <= segment.known_epochs:
            last_s = time.perf_counter()
            return
        now_s = time.perf_counter()
        spent_s, last_s = (now_s - last_s) * spec.runtime.devices_per_trial, now_s
        with waiting():
            report({**metrics, **found, "device_seconds": spent_s})
        last_s = time.perf_counter()  # waiting for the driver's word costs nobody's budget

    alone = spec.runtime.workers_per_trial == 1
    watch = watched(spec.runtime.stall_timeout_s) if alone else contextlib.nullcontext()
    try:
        # of the sweep, which its driver has made
        with watch, hold(spec.folder.parent, f"trial {segment.trial}"):
            _limit_memory(limit_gb)
            _train(spec, segment, on_epoch)
        return
    except ChangedDataError as error:
        failed = {FAILED: CHANGED, MESSAGE: str(error)}
    except ClinscaleError as error:
        # returned, not raised: Ray Tune would end the process, which the next trial can use
        failed = {FAILED: reason_of(error), MESSAGE: str(error)}
    except Exception as error:
        if disk := exhausted_disk(error):
            failed = {FAILED: NO_ROOM, MESSAGE: f"trial {segment.trial} cannot write to {spec.folder} ({disk})"}
        elif memory := exhausted_memory(error):
            failed = {FAILED: SHORT_OF_MEMORY, MESSAGE: f"the trial ran out of {memory} memory"}
        else:
            raise
    report(failed)


def _of_look(spec: TrialSpec, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The score of a look, or the reason why it has none."""
    name = metric_of(spec.task)
    score = metrics.get(f"look/{spec.task.name}/{name}")
    if score is not None:
        return {OBJECTIVE: score}
    return {MESSAGE: f"{name} is not defined on the {metrics['look/examples']:.0f} examples of a look"}


def _train(spec: TrialSpec, segment: Segment, on_epoch: Any) -> None:
    recipe = spec.recipe(segment.params, segment.seed)
    if segment.halvings:
        micro = halved(recipe.micro_batch_size or recipe.batch_size, segment.halvings)
        recipe = recipe.model_copy(update={"micro_batch_size": micro})
    folder, checkpoint = trial_folder(spec.folder, segment.trial), state_file(spec.folder, segment.trial)
    runtime, looks = spec.runtime.finetune, spec.looks and replace(spec.looks, known=segment.known_looks)
    if runtime.num_workers == 1:
        data = _read_once(spec.task.model_dump_json(), spec.data, spec.fingerprint)
        finetune(
            recipe,
            data,
            folder,
            runtime=runtime,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            looks=looks,
            average=average_folder(spec.folder, segment.trial) if spec.average else None,
        )
        return
    ends: list[tuple[int | None, Looks | None]] = [
        (end, None) for end in (*spec.pauses, None) if end is None or end > segment.known_epochs
    ]
    if looks and segment.known_epochs < 1:
        left = range(looks.known, len(looks.at))
        ends = [(0, replace(looks, at=looks.at[: place + 1], known=place)) for place in left] + ends
    for end, until_look in ends:
        finetune_on_workers(
            recipe,
            spec.task,
            spec.data,
            folder,
            fingerprint=spec.fingerprint,
            runtime=runtime,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            until_epoch=end,
            looks=until_look,
        )


def _limit_memory(limit_gb: float | None) -> None:
    """Let a GPU refuse more than the limit, so that micro batches are halved until they keep to it."""
    import torch

    if limit_gb and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gb * 1e9 / total))


def _check_memory(limit_gb: float | None) -> None:
    """OutOfMemoryError when this process has taken more of the host than a trial without a GPU may."""
    import psutil  # type: ignore[import-untyped]
    import torch

    used_gb = psutil.Process().memory_info().rss / 1e9
    if limit_gb and not torch.cuda.is_available() and used_gb > limit_gb:
        raise OutOfMemoryError(
            f"the trial's process must take at most constraints.memory_gb={limit_gb:g} GB, got {used_gb:.2f} GB; lower "
            "batch_size or max_tokens"
        )


def reason_of(error: ClinscaleError) -> Reason:
    """Reason why a trial failed, in the ledger's words."""
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    return "not_a_number" if isinstance(error, DivergenceError) else "error"


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Folder of a trial's best weights."""
    return folder / trial_id / "hf"


def average_folder(folder: Path, trial_id: str) -> Path:
    """Folder of the average of a trial's last epochs."""
    return folder / trial_id / "average"


def state_file(folder: Path, trial_id: str) -> Path:
    """File in which a trial keeps the state that its next epoch needs."""
    return folder / trial_id / "state.pt"


@functools.lru_cache(maxsize=4)
def _read_once(task_json: str, data: str, fingerprint: str) -> TaskData:
    """Trial processes are reused, so a task's files are read once per process."""
    return read_task(TaskConfig.model_validate_json(task_json), data, fingerprint=fingerprint)
