"""The one truth of a sweep: every start, epoch and end of every trial, appended to a file and never changed.

Optuna's studies, MLflow's runs and Ray Tune's trials are made from it, so that none of them has to be restored: a sweep
that lost its driver reads the ledger and goes on. One process writes it; a last line that was cut off by a crash is
dropped, because nothing was done on its strength.
"""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clinscale.errors import ClusterError, DataError

LEDGER_FILE = "ledger.jsonl"

State = Literal["running", "paused", "lost", "complete", "pruned", "failed"]
"""`paused` at a rung, where it may be promoted; `lost` with its process, to be started again; the others are final."""

FINAL: tuple[State, ...] = ("complete", "pruned", "failed")

Reason = Literal["not_a_number", "out_of_memory", "over_time", "error", "lost"]
"""Why a trial failed; the first three are limits of the settings, which the sampler learns from."""


@dataclass(frozen=True)
class Epoch:
    """What a trial reported after one epoch."""

    epoch: int
    objective: float
    """Best score on the development split so far; higher is better."""
    seconds: float
    """That the epoch took on all devices of the trial together."""
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
    """Of a `confirm` trial: the number of the trial whose setting it repeats."""
    system_attrs: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler left on it."""
    epochs: tuple[Epoch, ...] = ()
    state: State = "running"
    reason: Reason | None = None
    message: str = ""
    losses: int = 0
    """How often its process died."""
    halvings: int = 0
    """How often it died because the host's memory was too small: it starts again with half the micro batch."""

    @property
    def epoch(self) -> int:
        """The last one that was reported; 0 before the first."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def objective(self) -> float | None:
        """Best score so far; None before the first epoch."""
        return self.epochs[-1].objective if self.epochs else None

    @property
    def seconds(self) -> float:
        """Device-seconds so far."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def searched(self) -> bool:
        """Whether it counts as a trial of the search, not as a confirmation."""
        return self.origin != "confirm"

    @property
    def id(self) -> str:
        """Name of its folder and of its MLflow run."""
        return f"{self.number:05d}"

    def objective_at(self, epoch: int) -> float | None:
        """Best score within the first `epoch` epochs; None where it has not come so far."""
        return next((one.objective for one in self.epochs if one.epoch == epoch), None)


class Ledger:
    """The trials of all studies of a sweep; in memory alone where `path` is None.

    Raises:
        DataError: a line before the last is damaged. ClusterError: another process is writing it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._trials: dict[tuple[int, int], Trial] = {}
        self._file: Any = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"sweep {path.parent.name} is being run by another process; wait for it to end"
            ) from None
        except OSError:  # a file system without locks
            pass
        for event in self._read(path):
            self._fold(event)

    def close(self) -> None:
        """Let another process write."""
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

    def start(self, trial: Trial) -> Trial:
        """A new trial runs."""
        plain = {
            key: getattr(trial, key)
            for key in ("study", "number", "params", "origin", "seed", "of", "system_attrs")
        }
        return self._append({"event": "start", **plain})

    def resume(self, trial: Trial) -> Trial:
        """A paused or lost trial runs again."""
        return self._append({"event": "resume", "study": trial.study, "number": trial.number})

    def report(self, trial: Trial, epoch: Epoch) -> Trial:
        """An epoch has ended; one that is known already is left as it is."""
        known = self._trials[trial.study, trial.number]
        if epoch.epoch <= known.epoch:
            return known
        # a metric that is no number is not JSON, and says no more than that
        metrics = {key: value for key, value in epoch.metrics.items() if math.isfinite(value)}
        return self._append(
            {
                "event": "epoch",
                "study": trial.study,
                "number": trial.number,
                "epoch": epoch.epoch,
                "objective": epoch.objective,
                "seconds": round(epoch.seconds, 4),
                "metrics": metrics,
            }
        )

    def end(self, trial: Trial, state: State, reason: Reason | None = None, message: str = "") -> Trial:
        """The trial pauses or ends."""
        return self._append(
            {
                "event": "end",
                "study": trial.study,
                "number": trial.number,
                "state": state,
                "reason": reason,
                "message": message,
            }
        )

    def _append(self, event: dict[str, Any]) -> Trial:
        if self._file:
            self._file.write(json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._fold(event)

    def _fold(self, event: Mapping[str, Any]) -> Trial:
        """What an event makes of its trial."""
        key = (event["study"], event["number"])
        kind = event["event"]
        if kind == "start":
            trial = Trial(**{name: value for name, value in event.items() if name != "event"})
        elif kind == "resume":
            trial = replace(self._trials[key], state="running")
        elif kind == "epoch":
            epoch = Epoch(event["epoch"], event["objective"], event["seconds"], event["metrics"])
            trial = replace(self._trials[key], epochs=(*self._trials[key].epochs, epoch))
        else:
            before = self._trials[key]
            trial = replace(
                before,
                state=event["state"],
                reason=event["reason"],
                message=event["message"],
                losses=before.losses + (event["state"] == "lost" and event["reason"] is not None),
                halvings=before.halvings + (event["state"] == "lost" and event["reason"] == "out_of_memory"),
            )
        self._trials[key] = trial
        return trial

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        """All whole events; what follows the last line break is cut off, so that the next one starts a line."""
        self._file.seek(0)
        raw = self._file.read()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            self._file.truncate(whole)
        for number, line in enumerate(raw[:whole].splitlines(), 1):
            event = None
            with contextlib.suppress(ValueError):
                event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise DataError(
                    f"{path} line {number} is damaged; restore the file, or start the sweep under another name"
                )
            yield event


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The searched trial with the highest objective; of equals the earlier one."""
    scored = [
        trial for trial in trials if trial.searched and trial.objective is not None and trial.state != "failed"
    ]
    return max(scored, key=lambda trial: trial.objective or 0.0, default=None)
