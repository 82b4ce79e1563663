"""Ctrl-C and a closed terminal, at the verbs that run for long."""

import functools
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from clinscale import registry
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.loss import LossError, check
from clinscale.bench.faults.terminal import Terminal
from clinscale.bench.faults.verbs import ENDLESS, INTERRUPTED_VERBS
from clinscale.interrupts import EXIT_CODE, GO_ON

_DEMANDED = (
    "a clean end: no process, RUNNING run or temporary file left, said how to go on; the same command goes on"
)
_PATIENCE_S = 900.0
_ENDS_WITHIN_S = 120.0
_LOGS = ("clinscale-", "pymp-", "torchinductor_")
"""Beginnings of what stays in the folder for temporary files: Ray's logs, its dashboard's and torch's own."""
_BETWEEN_S = 1.0
"""Longest time between the first Ctrl-C and a second one."""


def faults() -> list[Fault]:
    """One for each verb; each try presses Ctrl-C once or twice, or closes the terminal."""
    return [
        Fault(f"interrupted: clinscale {verb}", _DEMANDED, functools.partial(_attempt, verb=verb))
        for verb in INTERRUPTED_VERBS
    ]


def _undisturbed_s(scene: Scene, verb: str) -> float:
    """Time that the undisturbed command takes."""
    home = _new_home(scene, "undisturbed")
    words = INTERRUPTED_VERBS[verb](scene.ground, home)
    began_s = time.monotonic()
    _run(verb, words, home)
    return time.monotonic() - began_s


def _new_home(scene: Scene, name: str) -> Path:
    home = scene.folder / name
    home.mkdir(parents=True)
    scene.ground.tracking(home)
    return home


def _run(verb: str, words: Sequence[str], home: Path) -> None:
    """The command to its end; LossError unless it succeeds."""
    with Terminal([*verb.split(), *words], home) as terminal:
        if verb in ENDLESS:
            terminal.wait(_PATIENCE_S, lambda: "Ctrl-C ends it" in terminal.said)
            terminal.press_ctrl_c()
        check(terminal.wait(_PATIENCE_S), f"clinscale {verb} did not end")
        check(terminal.process.returncode == 0, f"clinscale {verb} failed: {terminal.said.strip()[-300:]}")


def _attempt(scene: Scene, *, verb: str) -> Outcome:
    took_s = scene.ground.once(f"time of clinscale {verb}", lambda: _undisturbed_s(scene, verb))
    home = _new_home(scene, "home")
    words = INTERRUPTED_VERBS[verb](scene.ground, home)
    how = scene.rng.choice(("Ctrl-C", "Ctrl-C twice", "a closed terminal"))
    at_s = scene.rng.uniform(0, took_s)
    told = f"{how} after {at_s:.1f} of {took_s:.1f} s"
    with Terminal([*verb.split(), *words], home) as terminal:
        if terminal.wait(at_s):
            raise NotStruckError("the command was over before the chosen moment")
        if how == "a closed terminal":
            terminal.close()
        else:
            terminal.press_ctrl_c()
            if how == "Ctrl-C twice" and not terminal.wait(scene.rng.uniform(0, _BETWEEN_S)):
                terminal.press_ctrl_c()
        check(terminal.wait(_ENDS_WITHIN_S), f"{told}: it did not end within {_ENDS_WITHIN_S:g} s")
        code, said = terminal.process.returncode, terminal.said
        try:
            terminal.wait_gone()
        except LossError as left:
            raise LossError(f"{told}: {left}") from None
        files = sorted(path.name for path in terminal.scratch.iterdir() if not path.name.startswith(_LOGS))
        check(not files, f"{told}: temporary files are left: {', '.join(files)}")
    _check_end(verb, code, said, told)
    _check_left(home, told)
    if verb not in ENDLESS:
        try:
            _run(verb, words, home)
        except LossError as error:
            raise LossError(f"{told}, and again: {error}") from None
        _check_left(home, told)
    return Outcome()


def _check_end(verb: str, code: int, said: str, told: str) -> None:
    """LossError unless it ended as an interrupted command does, or was over."""
    check("Traceback" not in said and "failed where it should not" not in said, f"{told}: {said.strip()[-300:]!r}")
    while_loading = code < 0 and not said.strip("^C\r\n")
    if code == -signal.SIGINT and GO_ON in said:  # how `python -m` ends where the interruption met generated code
        code = EXIT_CODE
    check(code in (0, EXIT_CODE) or while_loading, f"{told}: it ended with {code}: {said.strip()[-300:]!r}")
    if code == EXIT_CODE and "closed" not in told:
        check(GO_ON in said, f"{told}: it was not said how to go on: {said[-300:]!r}")


def _check_left(home: Path, told: str) -> None:
    """LossError unless no run is RUNNING in any database of the home."""
    for database in home.rglob("mlflow.db"):
        runs = registry.read_runs(registry.connect(f"sqlite:///{database}"))
        left = sorted({run.status for run in runs} - {"FINISHED", "FAILED", "KILLED"})
        check(not left, f"{told}: runs are left {', '.join(left)}")
