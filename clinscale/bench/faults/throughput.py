"""Share of fault-free throughput that is left under faults: the same work undisturbed and disturbed, in turns."""

import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinscale import runtime
from clinscale.bench.faults.command import commands, drivers, several_nodes, workers
from clinscale.bench.faults.ground import Ground
from clinscale.bench.faults.loss import LossError, check
from clinscale.bench.faults.sweeps import kill_trial, timed_sweep
from clinscale.bench.measure import surroundings
from clinscale.bench.record import Surroundings
from clinscale.errors import ConfigError
from clinscale.interrupts import EXIT_CODE

_ASKED = {"pretraining": 0.95, "sweep": 0.9}
"""Shares that the project set itself."""

_NODES = 2
_ENDLESS = 10**6
_STOPPED_S = 5.0
_POLL_S = 0.2

_KILLED, _STOPPED, _RESTARTED = (
    "train worker killed",
    f"train worker stopped for {_STOPPED_S:g} s",
    "driver killed, and its command started again",
)
KINDS = (_KILLED, _STOPPED, _RESTARTED)
"""Faults of a pretraining among which each is drawn."""

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """Work done twice: with nothing in its way, and under faults."""

    work: str
    faults: Mapping[str, int]
    """Number of faults by kind."""
    undisturbed_per_s: float
    """Steps or trials a second."""
    disturbed_per_s: float
    asked: float

    @property
    def kept(self) -> float:
        """Share of the fault-free throughput."""
        return self.disturbed_per_s / self.undisturbed_per_s

    def row(self) -> dict[str, Any]:
        """The row of the table for people."""
        return {
            "work": self.work,
            "faults": ", ".join(f"{count} x {kind}" for kind, count in self.faults.items()) or "none",
            "a second, undisturbed": f"{self.undisturbed_per_s:.3g}",
            "disturbed": f"{self.disturbed_per_s:.3g}",
            "kept": f"{self.kept:.1%}",
            "asked": f"{self.asked:.0%}",
        }


@dataclass(frozen=True)
class KeptRecord:
    """The answer of the bench."""

    surroundings: Surroundings
    seed: int
    per_minute: float
    results: tuple[Kept, ...]
    broken: str | None = None
    """Sentence on what did not hold, which ended the bench."""
    interrupted: bool = False

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        # `asdict` would make a Counter of its pairs
        results = [{**vars(one), "kept": one.kept} for one in self.results]
        told = {"seed": self.seed, "per_minute": self.per_minute, "broken": self.broken}
        return {**asdict(self.surroundings), **told, "interrupted": self.interrupted, "results": results}

    def rows(self) -> list[dict[str, Any]]:
        """The table for people."""
        return [result.row() for result in self.results]


def bench_kept(
    *,
    minutes: float | None = None,
    trials: int | None = None,
    per_minute: float = 2,
    seed: int = 0,
    only: Sequence[str] = (),
    on_progress: OnProgress = lambda _: None,
    on_result: Callable[[Kept], None] = lambda _: None,
) -> KeptRecord:
    """Measure what faults leave of the throughput of a pretraining on two nodes of this machine, and of a sweep.

    Losses and scores under faults must be those without, to the bit; work done again counts once.

    Args:
        minutes: for which the pretraining is counted, without faults and then with them; None for no pretraining.
        trials: of the sweep, which is timed to its end; None for no sweep.
        per_minute: faults a minute, each at a moment of its own share of the time.
        seed: of moments, kinds and victims.
        only: words of the names of `KINDS`, to draw from those alone.
        on_progress: called with what is done next.
        on_result: called with what is kept of each work as soon as it is measured.

    Raises:
        ConfigError: no kind is called so.
    """
    kinds = [kind for kind in KINDS if not only or any(word in kind for word in only)]
    if not kinds:
        raise ConfigError(f"--only must name one of {', '.join(KINDS)}, got {', '.join(only)}")
    before = surroundings("faults", "cpu")
    results: list[Kept] = []
    broken, interrupted = None, False
    try:
        with tempfile.TemporaryDirectory(prefix="clinscale-faults-") as folder:
            for result in _measured(Path(folder), minutes, trials, per_minute, seed, kinds, on_progress):
                results.append(result)
                on_result(result)
    except LossError as error:
        broken = str(error)
    except KeyboardInterrupt:
        interrupted = True
    return KeptRecord(before, seed, per_minute, tuple(results), broken, interrupted)


def _measured(
    folder: Path,
    minutes: float | None,
    trials: int | None,
    per_minute: float,
    seed: int,
    kinds: Sequence[str],
    on_progress: OnProgress,
) -> Iterator[Kept]:
    ground = Ground(folder / "ground")
    ground.folder.mkdir()
    with (
        runtime.variables(CLINSCALE_RUN_KEYS=str(folder / "keys")),
        runtime.fork_session("clinscale.pretrain", "clinscale.finetune", "clinscale.sweep", num_cpus=_NODES),
    ):
        if trials:
            yield _sweep(ground, folder, trials, moments(None, per_minute, random.Random(seed)), on_progress)
        if minutes:
            assert ground.shards  # made before anything is timed
    if minutes:
        yield _pretraining(ground, folder, 60 * minutes, per_minute, random.Random(seed), kinds, on_progress)


def moments(seconds: float | None, per_minute: float, rng: random.Random) -> Iterator[float]:
    """Seconds from the start at which a fault is due: one at random in each share of the time; without end for None."""
    share_s = 60 / per_minute
    number = 0
    while seconds is None or (number + 1) * share_s <= seconds + 1e-6:
        yield (number + rng.random()) * share_s
        number += 1


def _pretraining(
    ground: Ground,
    folder: Path,
    seconds: float,
    per_minute: float,
    rng: random.Random,
    kinds: Sequence[str],
    on_progress: OnProgress,
) -> Kept:
    on_progress(f"pretraining undisturbed, {seconds / 60:g} minutes")
    calm = _Counted(ground, folder / "calm", seconds, iter(()), rng, kinds)
    on_progress(f"pretraining under faults, {seconds / 60:g} minutes")
    hit = _Counted(ground, folder / "hit", seconds, moments(seconds, per_minute, rng), rng, kinds)
    both = calm.losses.keys() & hit.losses.keys()
    check(bool(both), "no step was done both undisturbed and under faults")
    wrong = [step for step in sorted(both) if calm.losses[step] != hit.losses[step]]
    check(not wrong, f"the loss of step {wrong[:1]} is not the undisturbed one")
    check([*hit.losses] == [*range(1, len(hit.losses) + 1)], "a step is missing, or there twice")
    return Kept("pretraining, steps", hit.faults, calm.per_s, hit.per_s, _ASKED["pretraining"])


class _Counted:
    """A pretraining on two nodes whose steps are counted for a time from its first one on."""

    def __init__(
        self,
        ground: Ground,
        folder: Path,
        seconds: float,
        due: Iterator[float],
        rng: random.Random,
        kinds: Sequence[str],
    ) -> None:
        folder.mkdir()
        self.faults: Counter[str] = Counter()
        self._rng, self._kinds = rng, kinds
        with (
            several_nodes(_NODES) as place,
            commands(
                ground, folder, place, steps=_ENDLESS, max_failures=_ENDLESS, checkpoint_every_steps=20
            ) as start,
        ):
            self._start = start
            self._command = start()
            self._command.wait_until("a step", lambda: self._command.step > 0)
            self._run(seconds, due)
            self._end()

    def _run(self, seconds: float, due: Iterator[float]) -> None:
        began_s, first = time.monotonic(), self._command.step
        next_s = next(due, None)
        while (passed_s := time.monotonic() - began_s) < seconds:
            if next_s is not None and passed_s >= next_s and self._strike():
                next_s = next(due, None)
            check(self._command.process.poll() is None, f"the command ended: {self._command.said.strip()[-300:]}")
            time.sleep(_POLL_S)
        self.per_s = (self._command.step - first) / (time.monotonic() - began_s)

    def _strike(self) -> bool:
        """Do a fault to what is there; False where a group that starts has no worker yet."""
        if not (found := workers(self._command)):
            return False
        kind = self._rng.choice(self._kinds)
        victim = self._rng.choice(found)
        if kind == _RESTARTED:
            [driver] = drivers(self._command)
            driver.kill()
            self._command.process.wait()
            self._command = self._start()
        else:
            _signal(victim, signal.SIGKILL if kind == _KILLED else signal.SIGSTOP)
            if kind == _STOPPED:
                threading.Timer(_STOPPED_S, _signal, (victim, signal.SIGCONT)).start()
        self.faults[kind] += 1
        return True

    def _end(self) -> None:
        self.losses = self._command.losses
        self._command.process.send_signal(signal.SIGTERM)
        code = self._command.wait()
        check(code == EXIT_CODE, f"the command that was asked to end did so with {code}")


def _signal(process: Any, number: signal.Signals) -> None:
    import psutil  # type: ignore[import-untyped]

    try:
        process.send_signal(number)
    except psutil.Error:  # it has ended
        return


def _sweep(ground: Ground, folder: Path, trials: int, due: Iterator[float], on_progress: OnProgress) -> Kept:
    on_progress(f"sweep of {trials} trials undisturbed")
    calm_s, calm = timed_sweep(ground, folder / "calm-sweep", trials)
    on_progress(f"sweep of {trials} trials under faults")
    over, struck = threading.Event(), Counter[str]()

    def strike() -> None:
        began_s = time.monotonic()
        for next_s in due:
            if over.wait(max(0.0, next_s - (time.monotonic() - began_s))):
                return
            while not kill_trial():  # none runs at this moment
                if over.wait(_POLL_S):
                    return
            struck["trial killed"] += 1

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        hit_s, hit = timed_sweep(ground, folder / "hit-sweep", trials)
    finally:
        over.set()
        thread.join()
    check(hit == calm, "trials are not those of the undisturbed sweep")
    return Kept("sweep, trials", struck, trials / calm_s, trials / hit_s, _ASKED["sweep"])
