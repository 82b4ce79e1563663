"""`clinscale bench pretrain`: the loop under Ray Train beside the same loop under torchrun; recovery from a kill."""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clinscale import corpus, runtime
from clinscale.bench.measure import ratio, surroundings
from clinscale.errors import ClinscaleError, ClusterError
from clinscale.pretrain import PretrainConfig, WorkerTask, train, train_worker, worker_task

_ASKED_STEP, _ASKED_RECOVERY = 1.02, 1.2
_WARM_UP_STEPS = 3


class Watched:
    """A context that notes when each step ended; on rank 0, in a file that outlives the process."""

    def __init__(self, context: Any, times: Path, dies_after: int | None = None) -> None:
        self.rank, self.world_size = context.rank, context.world_size
        self._log, self._times, self._dies_after = context.log, times, dies_after
        self._step = 0

    def log(self, metrics: Mapping[str, float]) -> None:
        """See pretrain.worker.Context."""
        self._log(metrics)
        self._step = int(metrics["step"])

    def preempted(self) -> bool:
        """Called once after each step."""
        killed = self._times.with_suffix(".killed")
        if self.rank == 0:
            with self._times.open("a", encoding="utf-8") as stream:
                stream.write(f"{self._step} {time.time()}\n")
        if self._step == self._dies_after and self.rank == self.world_size - 1 and not killed.exists():
            killed.write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return False


class _Watch:
    """`train_worker` for Ray Train, watched."""

    def __init__(self, times: Path, dies_after: int | None = None) -> None:
        self._times, self._dies_after = times, dies_after

    def __call__(self, context: runtime.WorkerContext, task: WorkerTask) -> None:
        train_worker(Watched(context, self._times, self._dies_after), task)


def bench_pretrain(
    *,
    num_workers: int,
    steps: int,
    rows_per_step: int,
    row_tokens: int,
    size: str,
    stage: int,
    repeats: int,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Seconds of a step under Ray Train over those under torchrun, and of a recovery over those of a cold start.

    Both sides run `pretrain.worker.train_worker` on the same invented notes; their losses must be equal to the bit.

    Raises:
        ClinscaleError: the losses differ, or one side failed.
    """
    document = surroundings("pretrain", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        shards = _shards(Path(folder))
        config = PretrainConfig.parse(
            {
                "name": "bench",
                "recipe": {
                    "shards": shards.uri,
                    "model": {"size": size},
                    "row_tokens": row_tokens,
                    "rows_per_step": rows_per_step,
                    "duration": f"{steps}steps",
                    "spike_guard": None,
                },
                "runtime": {
                    "num_workers": num_workers,
                    "zero": {"stage": stage},
                    "log_every_steps": 1,
                    "checkpoint_every_steps": max(2, steps // 3),
                    "evaluation_rows": num_workers,
                },
            },
            source="bench",
        )
        # each side alone on the machine, in turns
        pairs = []
        for turn in range(repeats):
            on_progress(f"torchrun {turn + 1} of {repeats}")
            peer = _torchrun(config, shards, Path(folder) / f"torchrun-{turn}")
            on_progress(f"Ray Train {turn + 1} of {repeats}")
            ours = _ray(config, shards, Path(folder) / f"ray-{turn}")
            if peer["losses"] != ours["losses"]:
                raise ClinscaleError("bench pretrain: the losses under Ray Train differ from those under torchrun")
            pairs.append((peer, ours))
        on_progress("kill and recovery")
        # between two checkpoints, so that the first step after the kill is one that was done before
        dies_after = config.runtime.checkpoint_every_steps + 2
        recovered = _ray(config, shards, Path(folder) / "killed", dies_after=dies_after)
    slower = [ours["step_s"] / peer["step_s"] for peer, ours in pairs]
    recoveries = [recovered["recovery_s"] / recovered["cold_start_s"]]
    return document | {
        "ratios": {
            "step_ray_train_over_torchrun": ratio(slower, _ASKED_STEP),
            "recovery_over_cold_start": ratio(recoveries, _ASKED_RECOVERY),
        },
        "at_most": ["step_ray_train_over_torchrun", "recovery_over_cold_start"],
        "equal": True,
        "details": {
            "step_s": {"torchrun": [a["step_s"] for a, _ in pairs], "ray_train": [b["step_s"] for _, b in pairs]},
            "cold_start_s": recovered["cold_start_s"],
            "recovery_s": recovered["recovery_s"],
            "steps_done_again": recovered["steps_done_again"],
            "checkpoint_every_steps": config.runtime.checkpoint_every_steps,
        },
    }


def _shards(folder: Path) -> corpus.ShardSet:
    from clinscale.synthetic import write_demo_data

    write_demo_data(folder / "data", scale=0.1)
    notes = corpus.SourceConfig(uri=str(folder / "data" / "notes" / "notes.jsonl.gz"), id_column="id")
    config = corpus.CorpusConfig(sources=(notes,), vocab_size=1024, validation_fraction=0.15)
    return corpus.build_shards(config, str(folder / "shards"))


def _ray(config: PretrainConfig, shards: corpus.ShardSet, folder: Path, dies_after: int | None = None) -> Any:
    """One run on Ray Train; with `dies_after` one worker is killed after that many steps."""
    folder.mkdir()
    times, losses = folder / "times.txt", {}

    def on_log(metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            losses[int(metrics["step"])] = metrics["train/loss"]

    task = worker_task(config, shards, folder)
    with runtime.ray_session(num_cpus=config.runtime.least_workers):
        start = time.time()
        train(task, folder, on_log=on_log, function=_Watch(times, dies_after))
    ends = _ends(times)
    found = {"losses": losses, "step_s": _median_step_s(ends), "cold_start_s": ends[0][1] - start}
    if dies_after:
        killed = float(times.with_suffix(".killed").read_text(encoding="utf-8"))
        again = next(end for (before, _), (step, end) in itertools.pairwise(ends) if step <= before)
        found["recovery_s"] = again - killed
        found["steps_done_again"] = len(ends) - task.total_steps
    return found


def _torchrun(config: PretrainConfig, shards: corpus.ShardSet, folder: Path) -> Any:
    """The same run under torchrun."""
    folder.mkdir()
    task = worker_task(config, shards, folder)
    (folder / "task.json").write_text(
        json.dumps({**vars(task), "config": config.plain(), "times": str(folder / "times.txt")}), encoding="utf-8"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={config.runtime.least_workers}", "-m", __name__, str(folder / "task.json")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"bench pretrain: torchrun ended with {done.returncode}: {done.stderr[-300:]}")
    losses = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
    return {
        "losses": {int(step): loss for step, loss in losses.items()},
        "step_s": _median_step_s(_ends(folder / "times.txt")),
    }


class _Torchrun:
    """The context of a process that torchrun started."""

    def __init__(self) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.losses: dict[int, float] = {}

    def log(self, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            self.losses[int(metrics["step"])] = metrics["train/loss"]


def _ends(times: Path) -> list[tuple[int, float]]:
    """Number and end of each step, in the order in which they were done."""
    lines = (line.split() for line in times.read_text(encoding="utf-8").splitlines())
    return [(int(step), float(end)) for step, end in lines]


def _median_step_s(ends: list[tuple[int, float]]) -> float:
    durations = [after - before for (_, before), (_, after) in itertools.pairwise(ends)]
    return statistics.median(durations[_WARM_UP_STEPS:])


def _main(task_file: str) -> None:
    """What each process of torchrun does."""
    import torch

    values = json.loads(Path(task_file).read_text(encoding="utf-8"))
    times = Path(values.pop("times"))
    config = PretrainConfig.parse(values.pop("config"), source=task_file)
    torch.distributed.init_process_group("gloo")
    context = _Torchrun()
    train_worker(Watched(context, times), WorkerTask(config=config, **values))
    if context.rank == 0:
        times.with_name("losses.json").write_text(json.dumps(context.losses), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


if __name__ == "__main__":
    _main(sys.argv[1])
