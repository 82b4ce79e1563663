"""`clinscale bench faults`: each fault again and again, and the table of what became of the work."""

import contextlib
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinscale import runtime
from clinscale.bench.faults.checkpoints import faults as of_checkpoints
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import WORKERS, Ground
from clinscale.bench.faults.loss import LossError
from clinscale.bench.faults.names import faults as of_names
from clinscale.bench.faults.pretraining import faults as of_pretraining
from clinscale.bench.faults.sweeps import faults as of_sweeps
from clinscale.bench.faults.tracking import faults as of_tracking
from clinscale.bench.faults.written import faults as of_disks
from clinscale.bench.measure import surroundings
from clinscale.bench.record import Surroundings
from clinscale.config import nearest
from clinscale.errors import ClinscaleError, ConfigError

_IMPORTED = ("clinscale.engine.preload", "clinscale.pretrain", "clinscale.finetune", "clinscale.sweep")


def all_faults() -> list[Fault]:
    """Every fault that the bench knows, the cheap ones first."""
    return [*of_checkpoints(), *of_disks(), *of_names(), *of_tracking(), *of_sweeps(), *of_pretraining()]


@dataclass(frozen=True)
class FaultResult:
    """All tries of one fault."""

    fault: str
    demanded: str
    outcomes: tuple[Outcome, ...]
    broken: tuple[str, ...]
    """Sentence on what did not hold, of each try that was not survived."""
    skipped: str | None = None
    """Reason why it was not tried here."""

    def row(self) -> dict[str, Any]:
        """The row of the table for people."""
        tried = len(self.outcomes) + len(self.broken)
        lost = [one.lost_steps for one in self.outcomes if one.lost_steps is not None]
        recovery = [one.recovery for one in self.outcomes if one.recovery is not None]
        return {
            "fault": self.fault,
            "tried": tried,
            "survived": len(self.outcomes),
            "work lost at most": f"{max(lost)} steps" if lost else "",
            "recovery over a cold start": f"{statistics.median(recovery):.2f}" if recovery else "",
            "said": self.skipped or "; ".join(sorted(set(self.broken))),
        }


@dataclass(frozen=True)
class FaultsRecord:
    """The answer of the bench."""

    surroundings: Surroundings
    seed: int
    results: tuple[FaultResult, ...]

    @property
    def all_survived(self) -> bool:
        """Whether nothing that was tried broke anything."""
        return not any(result.broken for result in self.results)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        faults = [asdict(result) for result in self.results]
        return {**asdict(self.surroundings), "seed": self.seed, "survived": self.all_survived, "faults": faults}

    def rows(self) -> list[dict[str, Any]]:
        """The table for people: one fault a row."""
        return [result.row() for result in self.results]


def bench_faults(
    *,
    times: int = 20,
    seed: int = 0,
    only: Sequence[str] = (),
    on_progress: Callable[[str], None] = lambda _: None,
) -> FaultsRecord:
    """Try every fault `times` times, each at a moment that the seed chooses.

    Args:
        times: tries of each fault.
        seed: of the moments and victims; the same seed does the same again, as far as processes' timing allows.
        only: faults whose names hold one of these; all by default.
        on_progress: called with what is done next.

    Raises:
        ConfigError: no fault is called so.
    """
    chosen = _chosen(only)
    before = surroundings("faults", "cpu")
    results = []
    with tempfile.TemporaryDirectory(prefix="clinscale-faults-") as folder, _session(Path(folder)):
        ground = Ground(Path(folder) / "ground")
        ground.folder.mkdir()
        for fault in chosen:
            results.append(_tried(fault, ground, Path(folder), times, seed, on_progress))
    return FaultsRecord(before, seed, tuple(results))


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
    fault: Fault, ground: Ground, folder: Path, times: int, seed: int, on_progress: Callable[[str], None]
) -> FaultResult:
    if reason := fault.why_not():
        return FaultResult(fault.name, fault.demanded, (), (), reason)
    outcomes, broken = [], []
    for number in range(times):
        on_progress(f"{fault.name}, try {number + 1} of {times}")
        with tempfile.TemporaryDirectory(dir=folder) as place:
            scene = Scene(Path(place), random.Random(f"{seed} {fault.name} {number}"), ground)
            try:
                outcomes.append(fault.attempt(scene))
            except LossError as error:
                broken.append(str(error))
            except ClinscaleError as error:
                broken.append(f"{type(error).__name__}: {error}".replace(place, ""))
            except Exception as error:  # noqa: BLE001  its text may quote data
                frame = error.__traceback__
                while frame and frame.tb_next:
                    frame = frame.tb_next
                where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
                broken.append(f"{type(error).__name__} at {where}")
    return FaultResult(fault.name, fault.demanded, tuple(outcomes), tuple(broken))
