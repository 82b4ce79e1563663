"""`clinscale bench pretrain`: the loop under Ray Train beside the same loop under torchrun; recovery from a kill."""

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
from typing import Any, Self

from clinscale import corpus, runtime
from clinscale.bench.measure import ratio, surroundings
from clinscale.bench.record import BenchRecord
from clinscale.errors import ClinscaleError, ClusterError
from clinscale.pretrain import PretrainConfig, WorkerTask, train, train_worker, worker_task

_ASKED_STEP, _ASKED_RECOVERY = 1.02, 1.2
_TURN_STEPS = 6
_POLL_S = 0.005
_PATIENCE_S = 300.0

Losses = dict[int, float]


class Turns:
    """Two groups of workers on one machine train in turns; the side that waits sleeps."""

    def __init__(self, passed: Path, side: int) -> None:
        self._passed, self._side = passed, side

    def after(self, step: int, last: int, rank: int) -> None:
        """Each rank of a side calls this after each of its steps; the first step belongs to no turn."""
        turn, rest = divmod(step - 1, _TURN_STEPS)
        if rest and step < last:
            return
        if turn and rank == 0:
            with self._passed.open("ab") as stream:
                stream.write(b".")
        end = time.monotonic() + _PATIENCE_S
        while step < last and self._turns_done() < 2 * turn + self._side:
            if time.monotonic() > end:
                raise ClusterError(
                    f"bench pretrain: the other side must end its turn within {_PATIENCE_S:g} s, and has not; end "
                    "other work on this machine and run the bench again"
                )
            time.sleep(_POLL_S)

    def _turns_done(self) -> int:
        return self._passed.stat().st_size if self._passed.exists() else 0


class Watched:
    """A context that notes when each step ended; on rank 0, in a file that outlives the process."""

    def __init__(
        self,
        context: Any,
        task: WorkerTask,
        times: Path,
        *,
        turns: Turns | None = None,
        dies_after: int | None = None,
    ) -> None:
        self.rank, self.world_size, self.log = context.rank, context.world_size, context.log
        self._last, self._times, self._turns, self._dies_after = task.total_steps, times, turns, dies_after
        self._steps = 0

    def preempted(self) -> bool:
        """Called once after each step."""
        self._steps += 1
        if self.rank == 0:
            with self._times.open("a", encoding="utf-8") as stream:
                stream.write(f"{os.getpid()} {time.time()}\n")
        killed = self._times.with_name("killed")
        if self._steps == self._dies_after and self.rank == self.world_size - 1 and not killed.exists():
            killed.write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        if self._turns:
            self._turns.after(self._steps, self._last, self.rank)
        return False


class _Watch:
    """`train_worker` for Ray Train, watched."""

    def __init__(self, times: Path, **options: Any) -> None:
        self._times, self._options = times, options

    def __call__(self, context: runtime.WorkerContext, task: WorkerTask) -> None:
        train_worker(Watched(context, task, self._times, **self._options), task)


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
) -> BenchRecord:
    """Seconds of a step under Ray Train over those under torchrun, and of a recovery over those of a cold start.

    Both sides run `pretrain.worker.train_worker` on the same invented notes; their losses must be equal to the bit.
    They train in turns on the same machine, so that neither its mood nor Ray's daemons, which every node of a cluster
    runs, count for one side only. `details.alone_step_s` has each side with the machine to itself.

    Raises:
        ClinscaleError: the losses differ, or one side failed.
    """
    before = surroundings("pretrain", "cpu")
    recipe = {
        "model": {"size": size},
        "row_tokens": row_tokens,
        "rows_per_step": rows_per_step,
        "spike_guard": None,
    }
    settings = {"num_workers": num_workers, "zero": {"stage": stage}, "evaluation_rows": num_workers}
    # one step before the first turn; the first and the last turn hold what begins and ends a run
    turns = 2 + -(-steps // _TURN_STEPS)
    checkpoint_every_steps = max(2, steps // 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = _shards(folder)

        def task(run: str, steps: int, **more: Any) -> WorkerTask:
            chosen = {"shards": shards.uri, "duration": f"{steps}steps", **recipe}
            config = {"name": run, "recipe": chosen, "runtime": settings | more}
            (folder / run).mkdir()
            return worker_task(PretrainConfig.parse(config, source="bench"), shards, folder / run)

        long = 1 + turns * _TURN_STEPS
        on_progress("torchrun and Ray Train in turns")
        passed = folder / "passed"
        sides = task("torchrun", long), task("ray", long)
        with _Torchrun(sides[0], folder / "torchrun", turns=passed) as torchrun:
            losses = [_ray(sides[1], folder / "ray", turns=Turns(passed, 1))]
            losses.append(torchrun.losses())
        on_progress("torchrun alone")
        with _Torchrun(task("torchrun-alone", long), folder / "torchrun-alone") as torchrun:
            losses.append(torchrun.losses())
        on_progress("Ray Train alone")
        losses.append(_ray(task("ray-alone", long), folder / "ray-alone"))
        if any(other != losses[0] for other in losses):
            raise ClinscaleError(
                "bench pretrain: the losses under Ray Train must be those under torchrun, got others; report this "
                "machine"
            )
        recoveries = []
        for turn in range(repeats):
            on_progress(f"kill and recovery {turn + 1} of {repeats}")
            run = f"killed-{turn}"
            killed = task(run, 3 * checkpoint_every_steps, checkpoint_every_steps=checkpoint_every_steps)
            recoveries.append(_recovery(killed, folder / run, dies_after=checkpoint_every_steps + 2))
        step_s = {side: _step_s(folder / side) for side in ("torchrun", "ray")}
        alone_step_s = {side: statistics.median(_step_s(folder / f"{side}-alone")) for side in ("torchrun", "ray")}
    slower = [ours / peer for peer, ours in zip(step_s["torchrun"], step_s["ray"], strict=True)]
    ratios = {
        "step_ray_train_over_torchrun": ratio(slower, _ASKED_STEP),
        "recovery_over_cold_start": ratio(
            [r["recovery_s"] / r["cold_start_s"] for r in recoveries], _ASKED_RECOVERY
        ),
    }
    return BenchRecord(
        surroundings=before,
        ratios=ratios,
        at_most=tuple(ratios),
        details={
            "step_s": {side: statistics.median(values) for side, values in step_s.items()},
            "alone_step_s": alone_step_s,
            "recoveries": recoveries,
            "checkpoint_every_steps": checkpoint_every_steps,
        },
    )


def _shards(folder: Path) -> corpus.ShardSet:
    from clinscale.synthetic import write_demo_data

    write_demo_data(folder / "data", scale=0.1)
    notes = corpus.SourceConfig(uri=str(folder / "data" / "notes" / "notes.jsonl.gz"), id_column="id")
    config = corpus.CorpusConfig(sources=(notes,), vocab_size=1024, validation_fraction=0.15)
    return corpus.build_shards(config, str(folder / "shards"))


def _ray(task: WorkerTask, folder: Path, **watch: Any) -> Losses:
    """One run on Ray Train."""
    losses: Losses = {}

    def on_log(metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            losses[int(metrics["step"])] = metrics["train/loss"]

    with runtime.ray_session(num_cpus=task.config.runtime.least_workers):
        (folder / "started").write_text(str(time.time()), encoding="utf-8")
        train(task, folder, on_log=on_log, function=_Watch(folder / "times", **watch))
    return losses


class _Torchrun:
    """The same run under torchrun, beside whatever the `with` block does."""

    def __init__(self, task: WorkerTask, folder: Path, *, turns: Path | None = None) -> None:
        self._losses = folder / "losses.json"
        task_file = folder / "task.json"
        told = {"config": task.config.plain(), "turns": turns and str(turns)}
        task_file.write_text(json.dumps(vars(task) | told), encoding="utf-8")
        self._command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        self._command += [f"--nproc-per-node={task.config.runtime.least_workers}", "-m", __name__, str(task_file)]

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Ray sets it for a worker of one CPU
        self._process = subprocess.Popen(
            self._command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def losses(self) -> Losses:
        """Wait for the end."""
        _, told = self._process.communicate()
        if self._process.returncode:
            raise ClusterError(
                f"bench pretrain: torchrun must end with 0, got {self._process.returncode}: {told[-300:]}; correct "
                "what it says and run the bench again"
            )
        return {int(step): loss for step, loss in json.loads(self._losses.read_text(encoding="utf-8")).items()}


def _recovery(task: WorkerTask, folder: Path, *, dies_after: int) -> dict[str, float]:
    """Seconds from the kill of one worker to the next step, beside those of the start."""
    _ray(task, folder, dies_after=dies_after)
    started, killed = (float((folder / name).read_text(encoding="utf-8")) for name in ("started", "killed"))
    ends = _ends(folder)
    (first, first_end), *_ = ends
    return {
        "cold_start_s": first_end - started,
        "recovery_s": next(end for process, end in ends if process != first) - killed,
        "steps_done_again": len(ends) - task.total_steps,
    }


def _ends(folder: Path) -> list[tuple[int, float]]:
    """Time at which each step ended, and the process of rank 0 that it ended in."""
    lines = (line.split() for line in (folder / "times").read_text(encoding="utf-8").splitlines())
    return [(int(process), float(end)) for process, end in lines]


def _step_s(folder: Path) -> list[float]:
    """Mean seconds of a step, of each turn that counts; the first step of a turn has waited for it."""
    ends = [end for _, end in _ends(folder)]
    turns = (ends[first : first + _TURN_STEPS] for first in range(1, len(ends), _TURN_STEPS))
    return [(turn[-1] - turn[0]) / (_TURN_STEPS - 1) for turn in turns][1:-1]


class _Process:
    """The context of a process that torchrun started."""

    def __init__(self) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.losses: Losses = {}

    def log(self, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            self.losses[int(metrics["step"])] = metrics["train/loss"]


def _main(task_file: Path) -> None:
    """The work of each process of torchrun."""
    import torch

    values = json.loads(task_file.read_text(encoding="utf-8"))
    passed = values.pop("turns")
    turns = Turns(Path(passed), 0) if passed else None
    task = WorkerTask(config=PretrainConfig.parse(values.pop("config"), source=str(task_file)), **values)
    torch.distributed.init_process_group("gloo")
    context = _Process()
    train_worker(Watched(context, task, task_file.with_name("times"), turns=turns), task)
    if context.rank == 0:
        task_file.with_name("losses.json").write_text(json.dumps(context.losses), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
