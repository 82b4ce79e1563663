"""One training of the bench: the loop of pretraining in one fork, stopped where the loss is reached."""

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from clinscale import corpus
from clinscale.config import merge
from clinscale.errors import ClinscaleError, ClusterError, DataError
from clinscale.pretrain import PretrainConfig, WorkerTask, train, train_worker, worker_task
from clinscale.runtime import WorkerContext

START_TOLERANCE = 1e-5
"""Relative difference of two losses on the same rows before the first step; batches of another size add up to it."""

_NEVER = 1_000_000_000


@dataclass(frozen=True)
class Evaluation:
    """The held-out loss after so many steps, and their cost."""

    step: int
    tokens: float
    device_s: float
    """Seconds of training on the device; evaluations and the start of the process are left out."""
    loss: float


@dataclass(frozen=True)
class Run:
    """One training: its held-out losses, and the load of the machine beside it."""

    evaluations: tuple[Evaluation, ...]
    load: tuple[float, float]
    """Mean load over one minute as the run began and as it ended."""

    @property
    def last(self) -> Evaluation:
        """The evaluation that the run ended with."""
        return self.evaluations[-1]

    def reached(self, loss: float) -> Evaluation | None:
        """The point at which `loss` was first reached; None where it never was.

        Tokens and seconds are linear between the last evaluation above the loss and the first that is not, which has
        the step.
        """
        for before, after in pairwise(self.evaluations):
            if after.loss <= loss:
                share = (before.loss - loss) / (before.loss - after.loss)
                tokens = before.tokens + share * (after.tokens - before.tokens)
                device_s = before.device_s + share * (after.device_s - before.device_s)
                return Evaluation(after.step, tokens, device_s, loss)
        return None

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back."""
        return asdict(self)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The run that `plain` wrote."""
        load = values["load"]
        return cls(tuple(Evaluation(**one) for one in values["evaluations"]), (load[0], load[1]))


@dataclass(frozen=True)
class Goal:
    """The paper's run under one seed, for one that begins as it did and ends where it ended."""

    start_loss: float
    end_loss: float

    def check_start(self, name: str, loss: float) -> None:
        """ClinscaleError unless `loss`, before the first step, is the paper's."""
        if not math.isclose(loss, self.start_loss, rel_tol=START_TOLERANCE):
            raise ClinscaleError(
                f"bench recipe: lever {name} must start at the held-out loss of the paper's recipe, "
                f"{self.start_loss:.6g}, got {loss:.6g}; leave out what changes the model or the held-out rows"
            )


def run_settings(config: PretrainConfig, *, seed: int, device: str) -> PretrainConfig:
    """The config as the bench runs it: one process, this seed, the rate of every step logged, no checkpoint."""
    runtime = {
        "num_workers": 1,
        "cpus_per_worker": 1,
        "gpus_per_worker": int(device == "cuda"),
        "zero": {"stage": 0, "offload_optimizer": "none", "offload_param": "none"},
        "log_every_steps": 1,
        "checkpoint_every_steps": _NEVER,
        "max_failures": 0,
    }
    values = merge(config.plain(), {"recipe": {"seed": seed}, "runtime": runtime})
    return PretrainConfig.parse(values, source="bench recipe")


def train_to_loss(
    config: PretrainConfig, *, name: str, goal: Goal | None, threads: int, on_progress: Callable[[str], None]
) -> Run:
    """Train until the goal's loss is reached, or to the end; without a goal to the end.

    Needs a `fork_session`.

    Raises:
        ClinscaleError: it does not start at the goal's loss.
        DataError: the training loss is no number. CapacityError: one row does not fit into memory.
        ClusterError: the process failed.
    """
    shards = corpus.open_shards(config.recipe.shards)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        task = worker_task(config, shards, Path(folder))
        curve = _Curve(task, lambda told: on_progress(f"{name}, seed {config.recipe.seed}: {told}"))
        train(task, Path(folder), on_log=curve.add, function=_ToLoss(name, goal, threads))
    if not curve.evaluations:
        raise ClusterError(f"bench recipe: the training of {name} ended without an evaluation; see its logs")
    return Run(tuple(curve.evaluations), (load_before, os.getloadavg()[0]))


class _Curve:
    """The evaluations of one training with their costs, from what it logs."""

    def __init__(self, task: WorkerTask, on_progress: Callable[[str], None]) -> None:
        self._batches, self._row_tokens = task.config.recipe.batches(task.row_tokens), task.row_tokens
        self._total_steps, self._on_progress = task.total_steps, on_progress
        self.evaluations: list[Evaluation] = []
        self._timed_tokens, self._device_s = 0.0, 0.0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take what one step logged."""
        step = int(metrics["step"])
        tokens = float(self._batches.rows_before(step, self._total_steps) * self._row_tokens)
        if step == 0:  # also where smaller micro batches begin again
            self.evaluations.clear()
            self._timed_tokens, self._device_s = 0.0, 0.0
        # a step that the guard left out has no rate, and is in the next one's
        if rate := metrics.get("perf/tokens_per_second"):
            self._device_s += (tokens - self._timed_tokens) / rate
            self._timed_tokens = tokens
        if (loss := metrics.get("eval/loss")) is not None:
            if not math.isfinite(loss):
                raise DataError(
                    f"bench recipe: the held-out loss after step {step} is {loss}; lower the learning rate"
                )
            self.evaluations.append(Evaluation(step, tokens, self._device_s, loss))
            self._on_progress(f"step {step} of {self._total_steps}, held-out loss {loss:.4f}")


class _Ended(Exception):
    """Raised inside the loop of pretraining to end it."""


class _Watched:
    """A context that ends the loop where the goal is reached, or after the last step, before a checkpoint is saved."""

    def __init__(self, context: WorkerContext, task: WorkerTask, name: str, goal: Goal | None) -> None:
        self.rank, self.world_size, self.preempted = context.rank, context.world_size, context.preempted
        self._log, self._total_steps, self._name, self._goal = context.log, task.total_steps, name, goal

    def log(self, metrics: Mapping[str, float]) -> None:
        """See Context."""
        self._log(metrics)
        step, loss, goal = metrics["step"], metrics.get("eval/loss"), self._goal
        if loss is not None and goal:
            if step == 0:
                goal.check_start(self._name, loss)
            if loss <= goal.end_loss:
                raise _Ended
        if step == self._total_steps:
            raise _Ended


@dataclass(frozen=True)
class _ToLoss:
    """`train_worker` up to the goal."""

    name: str
    goal: Goal | None
    threads: int

    def __call__(self, context: WorkerContext, task: WorkerTask) -> None:
        import torch

        torch.set_num_threads(self.threads)
        try:
            train_worker(_Watched(context, task, self.name, self.goal), task)
        except _Ended:
            return
