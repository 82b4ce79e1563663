"""`clinscale bench faults`: each fault again and again, and the table of what became of the work."""

import contextlib
import random
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinscale import runtime
from clinscale.bench.faults.away import faults as of_homes
from clinscale.bench.faults.checkpoints import faults as of_checkpoints
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.ground import WORKERS, Ground
from clinscale.bench.faults.interrupts import faults as of_verbs
from clinscale.bench.faults.loss import LossError
from clinscale.bench.faults.names import faults as of_names
from clinscale.bench.faults.partition import faults as of_networks
from clinscale.bench.faults.pretraining import faults as of_pretraining
from clinscale.bench.faults.slow import faults as of_slow_disks
from clinscale.bench.faults.sweeps import faults as of_sweeps
from clinscale.bench.faults.tracking import faults as of_tracking
from clinscale.bench.faults.written import faults as of_disks
from clinscale.bench.measure import surroundings
from clinscale.bench.record import Surroundings
from clinscale.config import nearest
from clinscale.errors import ClinscaleError, ConfigError, was_interrupted

_IMPORTED = ("clinscale.engine.preload", "clinscale.pretrain", "clinscale.finetune", "clinscale.sweep")

_MOMENTS = 3
"""Most moments that are chosen for one try, as the work may be over before one."""

_INTERRUPTED = "no result: cut off by an interruption"
TRY_LIMIT_S = 1800.0
"""Most that one try may take, unless said: several starts of a Ray with all its patience."""


def all_faults() -> list[Fault]:
    """Every fault that the bench knows, the cheap ones first."""
    return [
        *of_checkpoints(),
        *of_disks(),
        *of_slow_disks(),
        *of_homes(),
        *of_names(),
        *of_tracking(),
        *of_sweeps(),
        *of_verbs(),
        *of_pretraining(),
        *of_networks(),
    ]


@dataclass(frozen=True)
class FaultResult:
    """All tries of one fault."""

    fault: str
    demanded: str
    outcomes: tuple[Outcome, ...]
    broken: tuple[str, ...]
    """Sentence on what did not hold, of each try that was not survived."""
    not_struck: tuple[str, ...] = ()
    """Reason of each try that proves nothing, because the work was over before every moment that was chosen."""
    skipped: str | None = None
    """Reason why it was not tried here."""
    cut_off: str | None = None
    """Reason why its last try has no result, and no further one was made."""

    def row(self) -> dict[str, Any]:
        """The row of the table for people."""
        tried = len(self.outcomes) + len(self.broken) + len(self.not_struck) + (self.cut_off is not None)
        lost = [one.lost_steps for one in self.outcomes if one.lost_steps is not None]
        recovery = [one.recovery for one in self.outcomes if one.recovery is not None]
        reasons = ", ".join(sorted(set(self.not_struck)))
        missed = f"not struck {len(self.not_struck)} times: {reasons}" if reasons else None
        return {
            "fault": self.fault,
            "tried": tried,
            "survived": len(self.outcomes),
            "work lost at most": f"{max(lost)} steps" if lost else "",
            "recovery over a cold start": f"{statistics.median(recovery):.2f}" if recovery else "",
            "said": "; ".join(filter(None, [self.skipped, *sorted(set(self.broken)), missed, self.cut_off])),
        }


@dataclass(frozen=True)
class FaultsRecord:
    """The answer of the bench."""

    surroundings: Surroundings
    seed: int
    results: tuple[FaultResult, ...]
    interrupted: bool = False
    """Whether a Ctrl-C or SIGTERM ended it before every fault was tried."""

    @property
    def all_survived(self) -> bool:
        """Whether every try that was begun struck something, came to its end and broke nothing."""
        return not any(result.broken or result.not_struck or result.cut_off for result in self.results)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        faults = [asdict(result) for result in self.results]
        told = {"seed": self.seed, "survived": self.all_survived, "interrupted": self.interrupted}
        return {**asdict(self.surroundings), **told, "faults": faults}

    def rows(self) -> list[dict[str, Any]]:
        """The table for people: one fault a row."""
        return [result.row() for result in self.results]


def bench_faults(
    *,
    times: int = 20,
    seed: int = 0,
    only: Sequence[str] = (),
    limit_s: float = TRY_LIMIT_S,
    on_progress: Callable[[str], None] = lambda _: None,
    on_result: Callable[[FaultResult], None] = lambda _: None,
) -> FaultsRecord:
    """Try every fault `times` times, each at a moment that the seed chooses.

    A Ctrl-C ends it as an answer: with the results until then, and that of the fault that was being tried.

    Args:
        times: tries of each fault.
        seed: of the moments and victims; the same seed does the same again, as far as processes' timing allows.
        only: faults whose names hold one of these; all by default.
        limit_s: most that one try may take; one that takes longer is cut off, and its fault is not tried again.
        on_progress: called with what is done next.
        on_result: called with the tries of a fault as soon as they are done or cut off.

    Raises:
        ConfigError: no fault is called so.
    """
    chosen = _chosen(only)
    before = surroundings("faults", "cpu")
    results: list[FaultResult] = []
    interrupted = False
    try:
        with tempfile.TemporaryDirectory(prefix="clinscale-faults-") as folder, _session(Path(folder)):
            ground = Ground(Path(folder) / "ground")
            ground.folder.mkdir()
            for fault in chosen:
                results.append(_tried(fault, ground, Path(folder), times, seed, limit_s, on_progress))
                on_result(results[-1])
                if results[-1].cut_off == _INTERRUPTED:
                    raise KeyboardInterrupt  # what is open is closed as after any other
    except KeyboardInterrupt:
        interrupted = True
    return FaultsRecord(before, seed, tuple(results), interrupted)


def _chosen(only: Sequence[str]) -> list[Fault]:
    known = all_faults()
    for word in only:
        if not any(word in fault.name for fault in known):
            raise ConfigError(
                f"--only must name a fault, or words of one, got {word!r}; {nearest(word, [one.name for one in known])}"
            )
    return [fault for fault in known if not only or any(word in fault.name for word in only)]


@contextlib.contextmanager
def _session(folder: Path) -> Iterator[None]:
    """Workers without Ray; the keys of their runs are below `folder`."""
    with (
        runtime.variables(CLINSCALE_RUN_KEYS=str(folder / "keys")),
        runtime.fork_session(*_IMPORTED, num_cpus=WORKERS),
    ):
        yield


def _tried(
    fault: Fault,
    ground: Ground,
    folder: Path,
    times: int,
    seed: int,
    limit_s: float,
    on_progress: Callable[[str], None],
) -> FaultResult:
    if reason := fault.why_not():
        return FaultResult(fault.name, fault.demanded, (), (), skipped=reason)
    outcomes: list[Outcome] = []
    broken: list[str] = []
    not_struck: list[str] = []
    cut_off = None
    try:
        for number in range(times):
            on_progress(f"{fault.name}, try {number + 1} of {times}")
            found = _one_try(fault, ground, folder, f"{seed} {fault.name} {number}", limit_s)
            if isinstance(found, Outcome):
                outcomes.append(found)
            elif isinstance(found, NotStruckError):
                not_struck.append(str(found))
            else:
                broken.append(found)
    except _PastLimitError:
        cut_off = f"no result: cut off after {limit_s:g} s"
    except KeyboardInterrupt:
        cut_off = _INTERRUPTED
    return FaultResult(
        fault.name, fault.demanded, tuple(outcomes), tuple(broken), tuple(not_struck), cut_off=cut_off
    )


def _one_try(
    fault: Fault, ground: Ground, folder: Path, seed: str, limit_s: float
) -> Outcome | str | NotStruckError:
    """Outcome of a try, at the first of its moments that did not come too late."""
    for moment in range(_MOMENTS):
        rng = random.Random(f"{seed} {moment}" if moment else seed)
        with tempfile.TemporaryDirectory(dir=folder) as place, _limit(limit_s):
            found = _attempted(fault, Scene(Path(place), rng, ground))
        if not isinstance(found, NotStruckError):
            break
    return found


def _attempted(fault: Fault, scene: Scene) -> Outcome | str | NotStruckError:
    """Cost of a try, or a sentence on what did not hold; KeyboardInterrupt where it was cut off."""
    try:
        return fault.attempt(scene)
    except NotStruckError as missed:
        return missed
    except LossError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  its text may quote data
        if was_interrupted(error):
            raise KeyboardInterrupt from None
        if isinstance(error, ClinscaleError):
            return f"{type(error).__name__}: {error}".replace(str(scene.folder), "")
        frame = error.__traceback__
        while frame and frame.tb_next:
            frame = frame.tb_next
        where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
        return f"{type(error).__name__} at {where}"


class _PastLimitError(Exception):
    """A try took longer than it may."""


@contextlib.contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    """_PastLimitError after that time, when the block has ended as after a Ctrl-C; only in the main thread."""
    passed: list[int] = []

    def interrupt(number: int, _: object) -> None:
        passed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except KeyboardInterrupt:
        if passed:
            raise _PastLimitError from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
