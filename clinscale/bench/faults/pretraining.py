"""Faults of a pretraining on Ray: its processes are killed, stopped or asked to end, whatever they are doing."""

import contextlib
import functools
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from clinscale import registry
from clinscale.bench.faults.command import (
    EVERY_STEPS,
    Command,
    Place,
    commands,
    controllers,
    drivers,
    heads,
    own_ray,
    raylets,
    raylets_of_workers,
    several_nodes,
    workers,
)
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.ground import Ground, Trained
from clinscale.bench.faults.loss import check
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.interrupts import EXIT_CODE, GO_ON

STEPS = 40
"""Length of the training."""

_START_S, _POLL_S = 8.0, 0.02

_BY_ITSELF = (
    "goes on by itself; curve and weights as undisturbed, at most one interval lost, no process or run left"
)
_BY_COMMAND = "the same command goes on; curve and weights as undisturbed, at most one interval lost, nothing left"

Victims = Callable[[Command], list[Any]]
"""Processes that the fault is done to."""


def faults() -> list[Fault]:
    """One for each process and signal."""
    kill = functools.partial(_attempt, signals=(signal.SIGKILL,))
    any_time = functools.partial(_any_time, since=controllers)
    return [
        Fault(
            "train worker killed",
            _BY_ITSELF,
            functools.partial(kill, victims=workers, when=functools.partial(_any_time, since=workers)),
        ),
        Fault(
            "train worker killed while a checkpoint is saved",
            _BY_ITSELF,
            functools.partial(kill, victims=workers, when=_saving),
        ),
        Fault(
            "train worker stopped, and woken when it was replaced",
            _BY_ITSELF,
            functools.partial(_attempt, victims=workers, when=training, signals=(signal.SIGSTOP, signal.SIGCONT)),
        ),
        Fault(
            "raylet of a train worker's node killed",
            _BY_ITSELF,
            functools.partial(
                kill, victims=raylets_of_workers, when=training, ray=functools.partial(several_nodes, 3)
            ),
        ),
        Fault("train controller killed", _BY_COMMAND, functools.partial(kill, victims=controllers, when=any_time)),
        Fault(
            "driver of a pretraining killed", _BY_COMMAND, functools.partial(kill, victims=drivers, when=any_time)
        ),
        Fault(
            "raylet of a local Ray killed", _BY_COMMAND, functools.partial(kill, victims=raylets, when=any_time)
        ),
        Fault("head of a local Ray killed", _BY_COMMAND, functools.partial(kill, victims=heads, when=any_time)),
        Fault(
            "driver of a pretraining asked to end",
            _BY_COMMAND,
            functools.partial(_attempt, victims=drivers, when=any_time, signals=(signal.SIGTERM,)),
        ),
    ]


def training(command: Command, rng: random.Random) -> None:
    """Wait until a moment between the first step and the last interval."""
    due = rng.randrange(1, STEPS - EVERY_STEPS)
    command.wait_until(f"step {due}", lambda: command.step >= due)
    time.sleep(rng.uniform(0, 0.2))


def _starting(command: Command, rng: random.Random, *, since: Victims) -> None:
    command.wait_until("the group to start", lambda: bool(since(command)))
    time.sleep(rng.uniform(0, _START_S))


def _any_time(command: Command, rng: random.Random, *, since: Victims) -> None:
    """Wait until a moment while the group starts, or later."""
    if rng.random() < 0.5:
        _starting(command, rng, since=since)
    else:
        training(command, rng)


def _saving(command: Command, rng: random.Random) -> None:
    due = EVERY_STEPS * rng.randrange(1, STEPS // EVERY_STEPS)
    partial = f".step-{due:08d}.*partial"
    command.wait_until("a save", lambda: any(command.checkpoints.glob(partial)) or command.saved_step >= due)
    time.sleep(rng.uniform(0, 0.05))


@dataclass(frozen=True)
class Undisturbed:
    """The training that nothing happens to."""

    trained: Trained
    cold_s: float
    """Time from the start of its command to its first step."""


def undisturbed_of(ground: Ground) -> Undisturbed:
    """The undisturbed training, done once."""
    return ground.once("pretraining by command", lambda: _undisturbed(ground))


def _undisturbed(ground: Ground) -> Undisturbed:
    folder = Path(tempfile.mkdtemp(dir=ground.folder))  # one that was cut off may be there
    with own_ray() as place, commands(ground, folder, place, steps=STEPS) as start:
        command = start()
        command.wait_until("a step", lambda: command.step > 0)
        cold_s = time.monotonic() - command.began_s
        check(command.wait() == 0, "the undisturbed command failed")
        return Undisturbed(_trained(command), cold_s)


def _trained(command: Command) -> Trained:
    newest = newest_checkpoint(command.checkpoints)
    check(newest is not None, "the training ended without a checkpoint")
    assert newest is not None
    losses = {step: [loss] for step, loss in command.losses.items()}
    return Trained(losses, consolidated_state(newest), 0)


def _attempt(
    scene: Scene,
    *,
    victims: Victims,
    when: Callable[[Command, random.Random], None],
    signals: tuple[signal.Signals, ...],
    ray: Callable[[], contextlib.AbstractContextManager[Place]] = own_ray,
) -> Outcome:
    undisturbed = undisturbed_of(scene.ground)
    with ray() as place, commands(scene.ground, scene.folder, place, steps=STEPS) as start:
        command = start()
        victim = _victim(command, victims, when, scene.rng)
        struck_s = time.monotonic()
        victim.send_signal(signals[0])
        if victims is raylets_of_workers:
            victim.wait()  # it is a child of ours, and its workers ask whether it is still there
        if victims in (workers, raylets_of_workers):
            command.wait_until("another group", lambda: "starting again" in command.said)
            lost, done_step = command.unsaved_steps, command.step  # what was on its way here has come
            for number in signals[1:]:
                with contextlib.suppress(psutil.Error):
                    victim.send_signal(number)
        else:
            code = command.wait()
            if signals[0] == signal.SIGTERM:
                check(code == EXIT_CODE, f"the command ended with {code}")
                check(GO_ON in command.said, "it was not said how to go on")
            elif victims is not drivers and code != 0:  # 0: struck when the work was done
                check(code == 1, f"the command ended with {code}")
                check("failed where it should not" not in command.said, "the error was no sentence of ours")
            lost, done_step = command.unsaved_steps, command.step
            command = start()
            struck_s = command.began_s
        went_on = command.wait_until("a new step", lambda: command.step > done_step)
        recovery_s = time.monotonic() - struck_s
        check(command.wait() == 0, f"the command that went on failed: {command.said.strip()[-300:]}")
        check_end(command, undisturbed, lost)
    return Outcome(lost_steps=lost, recovery=recovery_s / undisturbed.cold_s if went_on else None)


def _victim(
    command: Command,
    victims: Victims,
    when: Callable[[Command, random.Random], None],
    rng: random.Random,
) -> Any:
    """A process of the command, at a chosen moment."""
    when(command, rng)
    while command.process.poll() is None:
        if found := victims(command):
            return rng.choice(found)
        time.sleep(_POLL_S)
    check(command.wait() == 0, f"the command failed undisturbed: {command.said.strip()[-300:]}")
    raise NotStruckError("the training was over before the chosen moment")


def check_end(command: Command, undisturbed: Undisturbed, lost: int) -> None:
    """LossError unless the ended command has the undisturbed training's result, and did few steps again."""
    _trained(command).compare(undisturbed.trained)
    # one interval, and what was done while its checkpoint was written
    check(lost <= 2 * EVERY_STEPS, f"{lost} steps were lost")
    _check_tracked(command)


def _check_tracked(command: Command) -> None:
    """LossError unless MLflow has one run, which is finished and has each loss once."""
    tracking = registry.connect(command.tracking_uri)
    runs = registry.read_runs(tracking, kind="pretrain")
    check([run.status for run in runs] == ["FINISHED"], f"runs in MLflow are {[run.status for run in runs]}")
    points = tracking.client.get_metric_history(runs[0].id, "train/loss")
    found = sorted((point.step, point.value) for point in points)
    check(found == sorted(command.losses.items()), "losses are missing in MLflow, or there twice")
