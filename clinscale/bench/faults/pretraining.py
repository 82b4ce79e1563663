"""Faults of a real pretraining on Ray: its workers, Ray Train's controller and its driver are killed or stopped."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml

from clinscale import registry
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import STEPS
from clinscale.bench.faults.loss import LossError, check
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.pretrain import CHECKPOINTS

_DEMANDED = (
    "resumed by itself or by the same command; curve and weights as undisturbed, each metric once, nothing RUNNING and "
    "no process left; at most one interval lost"
)
_MARK = "CLINSCALE_FAULT"
"""Variable of all processes of one try, by whose value they are found."""

_COLLECTIVE_TIMEOUT_S = 30.0
_PATIENCE_S = 900.0
_POLL_S = 0.01

_VICTIMS = {"worker": "RayTrainWorker", "controller": "TrainController"}
"""Word in the command line by which Ray's processes are known."""


def faults() -> list[Fault]:
    """One for each victim and signal."""
    killed = [("worker", signal.SIGKILL), ("controller", signal.SIGKILL), ("driver", signal.SIGKILL)]
    kinds: list[tuple[str, str, signal.Signals]] = [
        *((f"kill -9 of a pretraining's {victim}", victim, number) for victim, number in killed),
        ("a pretraining's worker stopped for a while", "worker", signal.SIGTSTP),
        ("a pretraining's worker stopped for ever", "worker", signal.SIGSTOP),
        ("Ctrl-C at a pretraining", "driver", signal.SIGINT),
        ("a pretraining's terminal closed", "driver", signal.SIGHUP),
        ("SIGTERM at a pretraining", "driver", signal.SIGTERM),
    ]
    return [
        Fault(name, _DEMANDED, functools.partial(_attempt, victim=victim, number=number))
        for name, victim, number in kinds
    ]


class _Verb:
    """`clinscale pretrain` in a process of its own, and all that it starts."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._log = scene, scene.folder / "verb.log"
        self.home = scene.folder / "home"
        self._config = scene.folder / "config.yaml"
        settings = scene.ground.pretraining(collective_timeout_s=_COLLECTIVE_TIMEOUT_S).plain()
        self._config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, for the first time or again."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))
        }
        environment[_MARK] = str(self._scene.folder)
        command = [sys.executable, "-m", "clinscale", "pretrain", str(self._config), "--home", str(self.home)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Id of the driver's process."""
        assert self._process
        return self._process.pid

    def wait(self) -> int:
        """Exit code; LossError when it does not end."""
        assert self._process
        try:
            return self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise LossError(f"it has not ended {_PATIENCE_S:g} s after the fault") from None

    def steps(self) -> int:
        """Steps whose metrics have been logged."""
        path = self.home / "pretrain" / "base" / "metrics.jsonl"
        return path.read_bytes().count(b'"train/loss"') if path.exists() else 0

    def wait_for_steps(self, count: int) -> float | None:
        """Time at which so many steps were logged; None where it ended before."""
        assert self._process
        end_s = time.monotonic() + _PATIENCE_S
        while self.steps() < count:
            if self._process.poll() is not None:
                return None
            check(time.monotonic() < end_s, f"it stayed at {self.steps()} steps")
            time.sleep(_POLL_S)
        return time.monotonic()

    def processes(self, word: str = "") -> list[Any]:
        """Processes of the try, or those among them with `word` in their command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == str(self._scene.folder) and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def end(self) -> int:
        """Kill what is left of it; how many processes that were."""
        end_s = time.monotonic() + 90
        while (left := self.processes()) and time.monotonic() < end_s:
            time.sleep(0.5)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return len(left)


def _attempt(scene: Scene, *, victim: str, number: signal.Signals) -> Outcome:
    undisturbed = scene.ground.undisturbed
    verb = _Verb(scene)
    try:
        began_s = time.monotonic()
        verb.start()
        first_s = verb.wait_for_steps(1)
        check(first_s is not None, "it ended before its first step")
        verb.wait_for_steps(scene.rng.randrange(1, STEPS - 1))
        _hit(verb, victim, number, scene)
        hit_s, done = time.monotonic(), verb.steps()
        if victim == "driver":
            verb.wait()
            hit_s, done = time.monotonic(), verb.steps()
            verb.start()
        again_s = verb.wait_for_steps(done + 1) if done < STEPS else None
        code = verb.wait()
        if code:  # it says that the same command goes on
            verb.start()
            code = verb.wait()
        check(code == 0, f"the same command ended with {code}")
        _compare(verb.home, undisturbed)
        check(not (left := verb.end()), f"{left} processes are left")
    finally:
        verb.end()
    return Outcome(
        recovery_s=again_s - hit_s if again_s else None, cold_start_s=first_s - began_s if first_s else None
    )


def _hit(verb: _Verb, victim: str, number: signal.Signals, scene: Scene) -> None:
    if victim == "driver":
        os.kill(verb.pid, number)
        return
    found = verb.processes(_VICTIMS[victim])
    check(bool(found), f"no process of a {victim} was found")
    chosen = scene.rng.choice(sorted(found, key=lambda process: process.pid))
    if number != signal.SIGTSTP:
        os.kill(chosen.pid, number)
        return
    os.kill(chosen.pid, signal.SIGSTOP)

    def wake() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen.pid, signal.SIGCONT)

    threading.Timer(scene.rng.uniform(1, 2 * _COLLECTIVE_TIMEOUT_S), wake).start()


def _compare(home: Path, undisturbed: Any) -> None:
    """LossError unless curve, weights and runs are those of the undisturbed training."""
    import torch

    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}")
    records = registry.read_runs(tracking, kind="pretrain")
    check([one.status for one in records] == ["FINISHED"], f"runs are {[one.status for one in records]}")
    points = tracking.client.get_metric_history(records[0].id, "train/loss")
    stored = sorted((point.step, point.value) for point in points)
    check(
        stored == [(step, losses[0]) for step, losses in sorted(undisturbed.losses.items())],
        "the curve is another",
    )
    versions = [one.version for one in registry.list_versions(tracking)]
    check(versions == [1], f"versions {versions} are registered instead of one")
    newest = newest_checkpoint(home / "pretrain" / "base" / CHECKPOINTS)
    check(newest is not None, "no checkpoint is left")
    assert newest
    weights = consolidated_state(newest)
    same = all(torch.equal(weights[name], weight) for name, weight in undisturbed.weights.items())
    check(same, "weights are not the undisturbed ones")
