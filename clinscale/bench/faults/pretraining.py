"""Faults of a pretraining on Ray: its processes are killed, stopped or asked to end, whatever they are doing."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from clinscale import registry, runtime
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import Ground, Trained
from clinscale.bench.faults.loss import LossError, check
from clinscale.config import merge
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.pretrain import CHECKPOINTS, PretrainConfig

STEPS, EVERY_STEPS = 40, 5
"""Length of the training, and steps between its checkpoints."""

_NAME = "base"
_STALL_S = 20.0
"""`runtime.collective_timeout_s`."""
_START_S, _PATIENCE_S, _GONE_S = 8.0, 480.0, 60.0
_POLL_S = 0.02
_MARK = "CLINSCALE_BENCH_FAULT"
"""Environment variable that all processes of a command inherit."""

_BY_ITSELF = (
    "goes on by itself; curve and weights as undisturbed, at most one interval lost, no process or run left"
)
_BY_COMMAND = "the same command goes on; curve and weights as undisturbed, at most one interval lost, nothing left"
_INTERRUPTED = 130

Victims = Callable[["_Command"], list[Any]]
"""Processes that the fault is done to."""


def faults() -> list[Fault]:
    """One for each process and signal."""
    kill = functools.partial(_attempt, signals=(signal.SIGKILL,))
    any_time = functools.partial(_any_time, since=_controller)
    return [
        Fault(
            "train worker killed",
            _BY_ITSELF,
            functools.partial(kill, victims=_worker, when=functools.partial(_any_time, since=_worker)),
        ),
        Fault(
            "train worker killed while a checkpoint is saved",
            _BY_ITSELF,
            functools.partial(kill, victims=_worker, when=_saving),
        ),
        Fault(
            "train worker stopped, and woken when it was replaced",
            _BY_ITSELF,
            functools.partial(_attempt, victims=_worker, when=_training, signals=(signal.SIGSTOP, signal.SIGCONT)),
        ),
        Fault(
            "raylet of a train worker's node killed",
            _BY_ITSELF,
            functools.partial(kill, victims=_raylet_of_worker, when=_training, ray=_three_nodes),
        ),
        Fault("train controller killed", _BY_COMMAND, functools.partial(kill, victims=_controller, when=any_time)),
        Fault(
            "driver of a pretraining killed", _BY_COMMAND, functools.partial(kill, victims=_driver, when=any_time)
        ),
        Fault(
            "raylet of a local Ray killed", _BY_COMMAND, functools.partial(kill, victims=_raylet, when=any_time)
        ),
        Fault("head of a local Ray killed", _BY_COMMAND, functools.partial(kill, victims=_gcs, when=any_time)),
        Fault(
            "driver of a pretraining asked to end",
            _BY_COMMAND,
            functools.partial(_attempt, victims=_driver, when=any_time, signals=(signal.SIGTERM,)),
        ),
    ]


@dataclass(frozen=True)
class _Place:
    """The Ray that a command runs on."""

    mark: str
    """Value of `_MARK` of all its processes."""
    address: str | None = None
    """None: the command starts one of its own."""


@contextlib.contextmanager
def _own_ray() -> Iterator[_Place]:
    yield _Place(uuid.uuid4().hex)


@contextlib.contextmanager
def _three_nodes() -> Iterator[_Place]:
    """A Ray of three nodes of one CPU each on this machine: two workers leave one free."""
    mark = uuid.uuid4().hex
    with runtime.several_nodes(3, num_cpus=1, **{_MARK: mark}) as address:
        yield _Place(mark, address)


class _Command:
    """A `clinscale pretrain` in processes of its own."""

    def __init__(self, folder: Path, config: Path, place: _Place) -> None:
        self.home = folder / "home"
        self._said = folder / f"said-{uuid.uuid4().hex}"
        self._place = place
        self.checkpoints = self.home / "pretrain" / _NAME / CHECKPOINTS
        self._spool = self.checkpoints.with_name("metrics.jsonl")
        command = [sys.executable, "-m", "clinscale", "pretrain", str(config), "--home", str(self.home)]
        command += ["--address", place.address] if place.address else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {_MARK: place.mark, "MLFLOW_TRACKING_URI": self.tracking_uri}
        self.began_s = time.monotonic()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=said, env=environment, start_new_session=True
            )

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def said(self) -> str:
        """Text that it printed for people until now."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def losses(self) -> dict[int, float]:
        """Losses by step, as the driver has them."""
        if not self._spool.exists():
            return {}
        whole = self._spool.read_bytes().rpartition(b"\n")[0].splitlines()
        logged = [json.loads(line) for line in whole]
        return {one["step"]: one["metrics"]["train/loss"] for one in logged if "train/loss" in one["metrics"]}

    @property
    def step(self) -> int:
        """Last step that the driver knows of."""
        return max(self.losses, default=0)

    @property
    def unsaved_steps(self) -> int:
        """Steps since the last save, which may be seen before the line of its step."""
        return max(0, self.step - self.saved_step)

    @property
    def saved_step(self) -> int:
        """Step of the newest whole checkpoint."""
        newest = newest_checkpoint(self.checkpoints)
        return int(newest.name.removeprefix("step-")) if newest else 0

    def processes(self) -> list[Any]:
        """All that it started, directly or not, and that is still there."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._place.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until(self, what: str, holds: Callable[[], bool], *, patience_s: float = _PATIENCE_S) -> bool:
        """Whether that held before the command ended; LossError after too long a time."""
        end = time.monotonic() + patience_s
        while not holds():
            if self.process.poll() is not None:
                return holds()
            if time.monotonic() > end:
                raise LossError(f"waited {patience_s:g} s in vain for {what}")
            time.sleep(_POLL_S)
        return True

    def wait(self) -> int:
        """Exit code; LossError when it does not end or leaves processes behind."""
        self.wait_until("the command to end", lambda: False)
        self.wait_gone()
        return int(self.process.returncode)

    def wait_gone(self) -> None:
        """LossError unless all its processes end soon."""
        end = time.monotonic() + _GONE_S
        while left := _titled(self, "Train") if self._place.address else self.processes():
            if time.monotonic() > end:
                raise LossError(f"left behind: {', '.join(sorted({_title(one) for one in left}))}")
            time.sleep(0.2)

    def end(self) -> None:
        """Kill whatever is left."""
        self.process.kill()
        for process in [] if self._place.address else self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def _title(process: Any) -> str:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return Path(words[0]).name if words else str(process.name())
    return "a process that ends"


def _titled(command: _Command, *words: str) -> list[Any]:
    return [process for process in command.processes() if any(word in _title(process) for word in words)]


def _worker(command: _Command) -> list[Any]:
    return _titled(command, "TrainWorker")


def _controller(command: _Command) -> list[Any]:
    return _titled(command, "TrainController")


def _raylet(command: _Command) -> list[Any]:
    return _titled(command, "raylet")


def _raylet_of_worker(command: _Command) -> list[Any]:
    """Raylets of nodes with a worker, but not with the driver's own actors."""
    heads = {process.ppid() for process in _controller(command)}
    return [psutil.Process(one) for one in {process.ppid() for process in _worker(command)} if one not in heads]


def _gcs(command: _Command) -> list[Any]:
    return _titled(command, "gcs_server")


def _driver(command: _Command) -> list[Any]:
    return [psutil.Process(command.process.pid)]


def _training(command: _Command, rng: random.Random) -> None:
    due = rng.randrange(1, STEPS - EVERY_STEPS)
    command.wait_until(f"step {due}", lambda: command.step >= due)
    time.sleep(rng.uniform(0, 0.2))


def _starting(command: _Command, rng: random.Random, *, since: Victims) -> None:
    command.wait_until("the group to start", lambda: bool(since(command)))
    time.sleep(rng.uniform(0, _START_S))


def _any_time(command: _Command, rng: random.Random, *, since: Victims) -> None:
    """Wait until a moment while the group starts, or later."""
    if rng.random() < 0.5:
        _starting(command, rng, since=since)
    else:
        _training(command, rng)


def _saving(command: _Command, rng: random.Random) -> None:
    due = EVERY_STEPS * rng.randrange(1, STEPS // EVERY_STEPS)
    partial = command.checkpoints / f".step-{due:08d}.partial"
    command.wait_until("a save", lambda: partial.exists() or command.saved_step >= due)
    time.sleep(rng.uniform(0, 0.05))


@dataclass(frozen=True)
class _Undisturbed:
    trained: Trained
    cold_s: float
    """Time from the start of its command to its first step."""


_known: dict[Path, _Undisturbed] = {}


def _undisturbed(ground: Ground) -> _Undisturbed:
    """The training that nothing happens to, done once."""
    folder = ground.folder / "pretraining"
    if folder not in _known:
        folder.mkdir()
        with _own_ray() as place, _command(ground, folder, place) as start:
            command = start()
            command.wait_until("a step", lambda: command.step > 0)
            cold_s = time.monotonic() - command.began_s
            check(command.wait() == 0, "the undisturbed command failed")
            _known[folder] = _Undisturbed(_trained(command), cold_s)
    return _known[folder]


def _trained(command: _Command) -> Trained:
    newest = newest_checkpoint(command.checkpoints)
    check(newest is not None, "the training ended without a checkpoint")
    assert newest is not None
    losses = {step: [loss] for step, loss in command.losses.items()}
    return Trained(losses, consolidated_state(newest), 0)


@contextlib.contextmanager
def _command(ground: Ground, folder: Path, place: _Place) -> Iterator[Callable[[], _Command]]:
    """A function that starts the command, again and again; all its processes are gone afterwards."""
    changes = {
        "recipe": {"duration": f"{STEPS}steps", "rows_per_step": 32},
        "runtime": {
            "checkpoint_every_steps": EVERY_STEPS,
            "collective_timeout_s": _STALL_S,
            "start_timeout_s": 120.0,
            "zero": {"stage": 2},
        },
    }
    config = PretrainConfig.parse(merge(ground.pretraining(_NAME).plain(), changes), source="faults")
    path = folder / "config.json"
    path.write_text(json.dumps(config.plain()), encoding="utf-8")
    (folder / "home").mkdir()
    ground.tracking(folder / "home")
    started: list[_Command] = []

    def start() -> _Command:
        started.append(_Command(folder, path, place))
        return started[-1]

    try:
        yield start
    finally:
        for command in started:
            command.end()


def _attempt(
    scene: Scene,
    *,
    victims: Victims,
    when: Callable[[_Command, random.Random], None],
    signals: tuple[signal.Signals, ...],
    ray: Callable[[], contextlib.AbstractContextManager[_Place]] = _own_ray,
) -> Outcome:
    undisturbed = _undisturbed(scene.ground)
    with ray() as place, _command(scene.ground, scene.folder, place) as start:
        command = start()
        when(command, scene.rng)
        found = victims(command)
        check(bool(found), "the process was not there at the chosen moment")
        victim = scene.rng.choice(found)
        done_step, struck_s = command.step, time.monotonic()
        victim.send_signal(signals[0])
        if victims is _raylet_of_worker:
            victim.wait()  # it is a child of ours, and its workers ask whether it is still there
        if victims in (_worker, _raylet_of_worker):
            command.wait_until("another group", lambda: "starting again" in command.said)
            lost = command.unsaved_steps
            for number in signals[1:]:
                with contextlib.suppress(psutil.Error):
                    victim.send_signal(number)
        else:
            code = command.wait()
            if signals[0] == signal.SIGTERM:
                check(code == _INTERRUPTED, f"the command ended with {code}")
                check("the same command continues" in command.said, "it was not said how to go on")
            elif victims is not _driver:
                check(code == 1, f"the command ended with {code}")
                check("failed where it should not" not in command.said, "the error was no sentence of ours")
            lost, done_step = command.unsaved_steps, command.step
            command = start()
            struck_s = command.began_s
        command.wait_until("a new step", lambda: command.step > done_step)
        recovery_s = time.monotonic() - struck_s
        check(command.wait() == 0, f"the command that went on failed: {command.said.strip()[-300:]}")
        _trained(command).compare(undisturbed.trained)
        # one interval, and what was done while its checkpoint was written
        check(lost <= 2 * EVERY_STEPS, f"{lost} steps were lost")
        _check_tracked(command)
    return Outcome(lost_steps=lost, recovery=recovery_s / undisturbed.cold_s)


def _check_tracked(command: _Command) -> None:
    """LossError unless MLflow has one run, which is finished and has each loss once."""
    tracking = registry.connect(command.tracking_uri)
    runs = registry.read_runs(tracking, kind="pretrain")
    check([run.status for run in runs] == ["FINISHED"], f"runs in MLflow are {[run.status for run in runs]}")
    points = tracking.client.get_metric_history(runs[0].id, "train/loss")
    found = sorted((point.step, point.value) for point in points)
    check(found == sorted(command.losses.items()), "losses are missing in MLflow, or there twice")
