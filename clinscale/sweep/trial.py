"""One trial: one fine-tuning in a Ray Tune process."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.finetune import FinetuneRecipe, FinetuneRuntime, finetune
from clinscale.sweep.space import SearchSpace
from clinscale.tasks import TaskConfig, TaskData, metric_of, read_task

OBJECTIVE = "objective"
"""What Tune and Optuna maximise: the trial's best development score so far."""

MODEL = "model"
"""The dimension that exists when a sweep has several base models."""


@dataclass(frozen=True)
class TrialTask:
    """What the driver sends to every trial; paths and configs only, no notes."""

    task: TaskConfig
    data: str
    models: tuple[str, ...]
    """Local folders or hub names."""
    space: SearchSpace
    seed: int
    folder: Path
    """Each trial keeps its best weights in `folder/TRIAL_ID/hf`."""
    num_threads: int
    runtime: FinetuneRuntime
    """Of every trial."""

    def recipe(self, sampled: Mapping[str, Any]) -> FinetuneRecipe:
        """The fine-tuning that one sampled point means."""
        point = dict(sampled)
        return self.space.recipe(self.models[int(point.pop(MODEL, 0))], point, seed=self.seed)


def run_trial(sampled: dict[str, Any], *, spec: TrialTask) -> None:
    """Fine-tune at one point of the space, reporting every epoch; Tune may stop it at any report."""
    import torch
    from ray import tune

    torch.set_num_threads(spec.num_threads)
    data = _read_once(spec.task.model_dump_json(), spec.data)
    metric = f"eval/{spec.task.name}/{metric_of(spec.task)}"
    best = float("-inf")

    def on_epoch(metrics: dict[str, float]) -> None:
        nonlocal best
        best = max(best, metrics[metric])
        tune.report({**metrics, OBJECTIVE: best})

    folder = trial_folder(spec.folder, tune.get_context().get_trial_id())
    finetune(spec.recipe(sampled), data, folder, runtime=spec.runtime, on_epoch=on_epoch)


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Where a trial's best weights lie."""
    return folder / trial_id / "hf"


@functools.lru_cache(maxsize=1)
def _read_once(task_json: str, data: str) -> TaskData:
    """Trial processes are reused, so the task's files are read once per process."""
    return read_task(TaskConfig.model_validate_json(task_json), data)
