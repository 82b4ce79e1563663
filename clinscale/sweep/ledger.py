"""The ledger of a sweep: every start, look, epoch and end of every trial, appended to a file and never changed.

Optuna's studies, MLflow's runs and Ray Tune's trials are made from it, so that none of them has to be restored: a sweep
that lost its driver reads the ledger and goes on. One process writes it; a last line that was cut off by a crash is
dropped, because nothing was done on its strength.
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clinscale.errors import CapacityError, ClusterError, ConfigError, DataError
from clinscale.held import hold
from clinscale.permissions import make_folder, open_private
from clinscale.runfolder import check_in_place
from clinscale.sweep.events import (
    EVENTS,
    CloseLine,
    EndLine,
    EpochLine,
    Event,
    LookLine,
    Reason,
    ResumeLine,
    StartLine,
    State,
    TrialEvent,
)
from clinscale.units import Duration

LEDGER_FILE = "ledger.jsonl"

FINAL: tuple[State, ...] = ("complete", "pruned", "failed")
"""States that no trial leaves."""


Rung = Duration | int
"""Place at which trials are compared: a look inside the first epoch, or a number of whole epochs."""


@dataclass(frozen=True)
class Look:
    """Report of a trial inside its first epoch, judged on a part of the development split.

    Its score is comparable with those of other trials at the same look alone: that of an epoch is of the whole split.
    """

    at: Duration
    """Place that was asked for, by which trials are compared."""
    epoch: float
    """Share of the first epoch that was trained, in whole steps."""
    objective: float | None
    """Score on the part of the development split; None where it is not defined there."""
    seconds: float
    """Seconds since the start or the look before, on all devices of the trial together."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    """Reason why there is no score; usually empty."""


@dataclass(frozen=True)
class Epoch:
    """Report of a trial after one epoch."""

    epoch: int
    objective: float
    """Best score on the development split so far; higher is better."""
    seconds: float
    """Seconds that the epoch took on all devices of the trial together."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One point of a study's space, as far as it has come."""

    study: int
    number: int
    """0, 1, ... within its study, in order of first start."""
    params: Mapping[str, Any]
    origin: str
    """`first` (published settings), `warm` (an earlier sweep), `sampler`, or `confirm` (another seed)."""
    seed: int
    of: int | None = None
    """Number of the trial whose setting a `confirm` trial repeats."""
    system_attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that the sampler stored on it."""
    epochs: tuple[Epoch, ...] = ()
    state: State = "running"
    reason: Reason | None = None
    message: str = ""
    losses: int = 0
    """Number of times that its process died."""
    halvings: int = 0
    """Number of times that the host's memory was too small: the trial starts again with half the micro batch."""
    looks: tuple[Look, ...] = ()
    """Reports inside the first epoch, all before `epochs`."""

    @property
    def epoch(self) -> int:
        """The last one that was reported; 0 before the first."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def reached(self) -> float:
        """Epochs trained at the last report, with the share of the first one; 0 before any."""
        return self.epoch or (self.looks[-1].epoch if self.looks else 0.0)

    @property
    def rung(self) -> Rung | None:
        """Place of the last report; None before the first."""
        return self.epoch or (self.looks[-1].at if self.looks else None)

    @property
    def objective(self) -> float | None:
        """Best score so far; None before the first epoch, whatever looks inside it have seen."""
        return self.epochs[-1].objective if self.epochs else None

    @property
    def seconds(self) -> float:
        """Device-seconds so far."""
        return sum(one.seconds for one in self.reports)

    @property
    def looked(self) -> tuple[Look, ...]:
        """The looks that have a score."""
        return tuple(look for look in self.looks if look.objective is not None)

    @property
    def reports(self) -> "list[Look | Epoch]":
        """All looks, then all epochs."""
        return [*self.looks, *self.epochs]

    @property
    def searched(self) -> bool:
        """Whether it counts as a trial of the search, not as a confirmation."""
        return self.origin != "confirm"

    @property
    def id(self) -> str:
        """Name of its folder and of its MLflow run."""
        return f"{self.number:05d}"

    def objective_at(self, rung: Rung) -> float | None:
        """Score at a look, or best score within so many epochs; None where it has not come so far or has none there."""
        if isinstance(rung, Duration):
            return next((one.objective for one in self.looks if one.at == rung), None)
        return next((one.objective for one in self.epochs if one.epoch == rung), None)


@dataclass(frozen=True)
class Closed:
    """Reason why the search of a study has stopped before the budget was spent."""

    trials: int
    """Trials of the search at that time."""
    gain: float
    """Expected gain of another one, in points of the metric per device-hour."""
    limit: float
    """The gain below which the search stops."""


class Ledger:
    """The trials of all studies of a sweep; in memory alone where `path` is None.

    Raises:
        DataError: a line before the last is damaged. ClusterError: another process is writing it; or by whatever writes
            to it, it was deleted or replaced.
        CapacityError: by whatever writes to it, on a disk that is full or read-only; nothing has changed then.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._trials: dict[tuple[int, int], Trial] = {}
        self._closed: dict[int, Closed] = {}
        self._file: Any = None
        self._held = contextlib.ExitStack()
        if path is None:
            return
        make_folder(path.parent)
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no regular file; start the sweep under another name")
        self._file = open_private(path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"sweep {path.parent.name} is being run by another process; wait for it to end"
            ) from None
        except OSError:  # a file system without locks
            pass
        self._held.enter_context(hold(path.parent, f"sweep {path.parent.name}"))
        self.check_in_place()
        self._replay(path)

    def close(self) -> None:
        """Let another process write."""
        self._held.close()
        if self._file:
            self._file.close()
            self._file = None

    @property
    def trials(self) -> list[Trial]:
        """All of them, by order of first start."""
        return list(self._trials.values())

    def of_study(self, study: int) -> list[Trial]:
        """The trials of one study, by number."""
        return [trial for trial in self._trials.values() if trial.study == study]

    def trial(self, study: int, number: int) -> Trial:
        """One of them."""
        return self._trials[study, number]

    @property
    def closed(self) -> Mapping[int, Closed]:
        """The studies whose search has stopped, as it no longer pays."""
        return self._closed

    def close_study(self, study: int, closed: Closed) -> None:
        """The search of a study stops for good; one that has stopped is left as it is."""
        if study not in self._closed:
            self._append(CloseLine(event="close", study=study, **asdict(closed)))

    def start(self, trial: Trial) -> Trial:
        """A new trial runs."""
        plain = {key: getattr(trial, key) for key in StartLine.model_fields if key != "event"}
        return self._tell(StartLine(event="start", **plain))

    def resume(self, trial: Trial) -> Trial:
        """A paused or lost trial runs again."""
        return self._tell(ResumeLine(event="resume", study=trial.study, number=trial.number))

    def look(self, trial: Trial, look: Look) -> Trial:
        """A look inside the first epoch; one that is known already is left as it is."""
        known = self._trials[trial.study, trial.number]
        if look.epoch <= known.reached:
            return known
        return self._tell(
            LookLine(
                event="look",
                study=trial.study,
                number=trial.number,
                at=str(look.at),
                epoch=look.epoch,
                objective=look.objective,
                seconds=round(look.seconds, 4),
                metrics=_finite(look.metrics),
                message=look.message,
            )
        )

    def report(self, trial: Trial, epoch: Epoch) -> Trial:
        """An epoch has ended; one that is known already is left as it is."""
        known = self._trials[trial.study, trial.number]
        if epoch.epoch <= known.epoch:
            return known
        return self._tell(
            EpochLine(
                event="epoch",
                study=trial.study,
                number=trial.number,
                epoch=epoch.epoch,
                objective=epoch.objective,
                seconds=round(epoch.seconds, 4),
                metrics=_finite(epoch.metrics),
            )
        )

    def end(self, trial: Trial, state: State, reason: Reason | None = None, message: str = "") -> Trial:
        """The trial pauses or ends."""
        return self._tell(
            EndLine(
                event="end",
                study=trial.study,
                number=trial.number,
                state=state,
                reason=reason,
                message=message,
            )
        )

    def _tell(self, event: TrialEvent) -> Trial:
        self._append(event)
        return self._trials[event.study, event.number]

    def _append(self, event: Event) -> None:
        if self._file:
            line = json.dumps(event.model_dump(), separators=(",", ":"), allow_nan=False)
            self._write(line.encode() + b"\n")
        self._fold(event)

    def _write(self, line: bytes) -> None:
        """Append a line whole or not at all, so that a disk that was full leaves a ledger that goes on."""
        self.check_in_place()
        file = self._file.fileno()  # below Python's buffer, which would keep what could not be written
        end = os.lseek(file, 0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError as error:
            with contextlib.suppress(OSError):  # then the next start cuts the half line off
                os.ftruncate(file, end)
            raise CapacityError(
                f"{self._file.name} cannot be written ({error.strerror}); make room or fix the disk, then run the same "
                "command again: it goes on from the last line that is there"
            ) from None

    def check_in_place(self) -> None:
        """Raise ClusterError where its file was deleted or replaced, with the home or alone, since it was opened."""
        check_in_place(self._file, f"sweep {Path(self._file.name).parent.name}")

    def _fold(self, event: Event) -> None:
        """Apply an event to its trial or study; KeyError for one of a trial that has not started."""
        if isinstance(event, CloseLine):
            self._closed[event.study] = Closed(event.trials, event.gain, event.limit)
            return
        key = (event.study, event.number)
        if isinstance(event, StartLine):
            trial = Trial(**event.model_dump(exclude={"event"}))
        elif isinstance(event, ResumeLine):
            trial = replace(self._trials[key], state="running")
        elif isinstance(event, LookLine):
            at = Duration.parse(event.at)
            look = Look(at, event.epoch, event.objective, event.seconds, event.metrics, event.message)
            trial = replace(self._trials[key], looks=(*self._trials[key].looks, look))
        elif isinstance(event, EpochLine):
            epoch = Epoch(event.epoch, event.objective, event.seconds, event.metrics)
            trial = replace(self._trials[key], epochs=(*self._trials[key].epochs, epoch))
        else:
            before = self._trials[key]
            trial = replace(
                before,
                state=event.state,
                reason=event.reason,
                message=event.message,
                losses=before.losses + (event.state == "lost" and event.reason is not None),
                halvings=before.halvings + (event.state == "lost" and event.reason == "out_of_memory"),
            )
        self._trials[key] = trial

    def _replay(self, path: Path) -> None:
        """Fold all whole events; what follows the last line break is cut off, so that the next one starts a line."""
        self._file.seek(0)
        raw = self._file.read()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            self._file.truncate(whole)
        for number, line in enumerate(raw[:whole].split(b"\n")[:-1], 1):
            try:
                self._fold_again(EVENTS.validate_json(line))
            except (ValidationError, KeyError, ConfigError):
                raise DataError(
                    f"{path} line {number} is damaged; restore the file, or start the sweep under another name"
                ) from None

    def _fold_again(self, event: Event) -> None:
        """Fold an event of the file; KeyError for one that cannot follow those before it."""
        if isinstance(event, CloseLine):
            if event.study in self._closed or not self.of_study(event.study):
                raise KeyError
            self._fold(event)
            return
        known = self._trials.get((event.study, event.number))
        if (isinstance(event, StartLine) and known) or (
            isinstance(event, LookLine | EpochLine) and known and event.epoch <= known.reached
        ):
            raise KeyError
        self._fold(event)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The searched trial with the highest objective; of equals the earlier one."""
    scored = [
        trial for trial in trials if trial.searched and trial.objective is not None and trial.state != "failed"
    ]
    return max(scored, key=lambda trial: trial.objective or 0.0, default=None)


def leader_of(trials: Sequence[Trial]) -> Trial | None:
    """The best trial so far: by whole epochs, and before any by the furthest look that has a score."""
    best = best_of(trials)
    if best:
        return best
    seen = [trial for trial in trials if trial.searched and trial.state != "failed" and trial.looked]
    if not seen:
        return None
    furthest = max((trial.looked[-1] for trial in seen), key=lambda look: (look.at.unit, look.at.value)).at
    return max(seen, key=lambda trial: -math.inf if (value := trial.objective_at(furthest)) is None else value)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers; others are not JSON, and say no more than that."""
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
