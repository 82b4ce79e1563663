"""Proof on the user's own cluster that a killed run ends as the undisturbed one would have."""

import itertools
import os
import random
import signal
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale import corpus
from clinscale.config import merge
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.errors import ClusterError, ConfigError
from clinscale.permissions import make_folder
from clinscale.pretrain import worker
from clinscale.pretrain.config import PretrainConfig
from clinscale.pretrain.run import CHECKPOINTS, Event, train, worker_task
from clinscale.runtime import WorkerContext

if TYPE_CHECKING:
    import torch


_EXECUTED = "executed.txt"


@dataclass(frozen=True)
class Verification:
    """Comparison of a run that was killed again and again with an undisturbed one."""

    stage: int
    num_workers: int
    steps: int
    killed_at: tuple[int, ...]
    """Steps in whose middle a worker was killed with SIGKILL."""
    replayed_steps: int
    """Steps done more than once, because they came after the last checkpoint."""
    most_lost_steps: int
    """Most steps that one kill lost.

    `checkpoint_every_steps`, and those done while the last checkpoint was being written.
    """
    losses_identical: bool
    """Every loss, replayed ones included, to the last bit."""
    weights_identical: bool
    """Every weight of the last checkpoint, to the last bit."""
    loss_difference: float
    weight_difference: float
    """Largest absolute differences; 0 where identical."""

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return self.losses_identical and self.weights_identical


def verify_resume(
    config: PretrainConfig,
    folder: str | Path,
    *,
    steps: int = 12,
    checkpoint_every_steps: int = 3,
    kills: int = 5,
    seed: int = 0,
    on_event: Event | None = None,
) -> Verification:
    """Train `steps` steps of `config` twice: undisturbed, and with `kills` workers killed at random steps.

    Model, shards, workers, ZeRO stage and precision are those of `config`; nothing is tracked or registered. Needs a
    `ray_session` and leaves its two runs below `folder`. Bit-identity holds where kernels are deterministic: on CPU
    always; a GPU may differ in the last digits, which the differences show.

    Raises:
        ConfigError: more kills than steps, or an elastic number of workers, which no kill leaves as it was.
        ClusterError: a run failed for another reason than the kills.
    """
    if not 0 < kills < steps:
        raise ConfigError(
            f"verify-resume needs more steps than kills and at least one kill, got {steps} and {kills}; raise --steps "
            "or change --kills"
        )
    if not isinstance(config.runtime.num_workers, int):
        raise ConfigError(
            f"verify-resume needs a fixed number of workers, got {config.runtime.num_workers}; "
            f"set runtime.num_workers={config.runtime.least_workers}"
        )
    chosen = random.Random(seed)
    killed_at = tuple(sorted(chosen.sample(range(1, steps), kills)))
    short = {
        "recipe": {"duration": f"{steps}steps", "canaries": None},  # so few steps need not read rows for them
        "runtime": {
            "log_every_steps": 1,
            "checkpoint_every_steps": checkpoint_every_steps,
            "evaluate_every_steps": steps,
            "evaluation_rows": config.runtime.num_workers,
            "max_failures": kills,
        },
    }
    config = PretrainConfig.parse(merge(config.plain(), short), source="verify-resume")
    report_event = on_event or (lambda _: None)
    report_event(f"training {steps} steps undisturbed")
    undisturbed = _run(config, Path(folder) / "undisturbed", ())
    report_event(f"training them again, a worker killed in each of steps {', '.join(map(str, killed_at))}")
    disturbed = _run(config, Path(folder) / "killed", killed_at)
    return _compare(config, undisturbed, disturbed, killed_at)


@dataclass(frozen=True)
class _Outcome:
    losses: dict[int, list[float]]
    """Losses by step, in the order of their executions."""
    weights: "dict[str, torch.Tensor]"
    executed: list[int]
    """Steps in the order in which they were done, those done again included."""


def _run(config: PretrainConfig, folder: Path, killed_at: tuple[int, ...]) -> _Outcome:
    make_folder(folder)
    task = worker_task(config, corpus.open_shards(config.recipe.shards), folder)
    losses: dict[int, list[float]] = defaultdict(list)

    def on_log(metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            losses[int(metrics["step"])].append(metrics["train/loss"])

    train(task, folder, on_log=on_log, function=_KilledAt(killed_at, folder))
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise ClusterError(f"verify-resume: the run in {folder} left no checkpoint; see its logs")
    executed = [int(line) for line in (folder / _EXECUTED).read_text(encoding="utf-8").split()]
    return _Outcome(dict(losses), consolidated_state(checkpoint), executed)


@dataclass(frozen=True)
class _KilledAt:
    """`train_worker`, one of whose ranks dies without a word in the middle of each of `steps`, once."""

    steps: tuple[int, ...]
    folder: Path

    def __call__(self, context: WorkerContext, task: worker.WorkerTask) -> None:
        worker.train_worker(_KillableContext(context, self), task)

    def kill_if_due(self, rank: int, world_size: int, step: int) -> None:
        """Kill this process if it is its turn; files remember what was done for the group that comes after."""
        if rank == 0:
            with (self.folder / _EXECUTED).open("a", encoding="utf-8") as stream:
                stream.write(f"{step}\n")
        mark = self.folder / f"killed-{step}"
        if step in self.steps and rank == step % world_size and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class _KillableContext:
    """A context whose process is killed after a step's metrics and before its checkpoint."""

    def __init__(self, context: WorkerContext, kills: _KilledAt) -> None:
        self._context, self._kills = context, kills
        self.rank, self.world_size = context.rank, context.world_size

    def log(self, metrics: Any) -> None:
        self._context.log(metrics)
        self._step = int(metrics["step"])

    def preempted(self) -> bool:
        self._kills.kill_if_due(self.rank, self.world_size, self._step)
        return False


def _compare(
    config: PretrainConfig, undisturbed: _Outcome, disturbed: _Outcome, killed_at: tuple[int, ...]
) -> Verification:
    turns = itertools.pairwise(disturbed.executed)
    differences = [
        abs(again - undisturbed.losses[step][0]) for step, runs in disturbed.losses.items() for again in runs
    ]
    same_steps = undisturbed.losses.keys() == disturbed.losses.keys()
    weights = {
        name: float((weight - disturbed.weights[name]).abs().max()) if name in disturbed.weights else float("inf")
        for name, weight in undisturbed.weights.items()
    }
    return Verification(
        stage=config.runtime.zero.stage,
        num_workers=config.runtime.least_workers,
        steps=len(undisturbed.losses),
        killed_at=killed_at,
        replayed_steps=len(disturbed.executed) - len(set(disturbed.executed)),
        most_lost_steps=max(before - after + 1 for before, after in turns),
        losses_identical=same_steps and not any(differences),
        weights_identical=not any(weights.values()),
        loss_difference=max(differences),
        weight_difference=max(weights.values()),
    )
