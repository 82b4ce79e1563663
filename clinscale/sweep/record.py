"""The one writer of a sweep's MLflow runs: a Tune callback in the driver."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune

from clinscale import registry
from clinscale.registry import Tag
from clinscale.sweep.trial import OBJECTIVE


@dataclass(frozen=True)
class SweepProgress:
    """What a person watching a sweep wants to know."""

    started: int
    finished: int
    best: float | None


_live: dict[str, "TrialRuns"] = {}


def live_runs(sweep_run_id: str) -> "TrialRuns":
    """The TrialRuns of a sweep in this process: what a pickled one stands for."""
    return _live[sweep_run_id]


class TrialRuns(tune.Callback):  # type: ignore[misc]
    """One child run per trial below the sweep's run; a restored sweep continues the runs it has.

    Tune pickles its callbacks and `Tuner.restore` brings them back, but a connection to MLflow and a progress
    display belong to one process: a pickle is only the id of the sweep's run.
    """

    def __reduce__(self) -> tuple[Callable[[str], "TrialRuns"], tuple[str]]:
        return live_runs, (self._parent.id,)

    def __init__(
        self,
        tracking: registry.Tracking,
        parent: registry.Run,
        *,
        describe: Callable[[dict[str, Any]], dict[str, Any]],
        on_progress: Callable[[SweepProgress], None] | None,
    ) -> None:
        self._tracking = tracking
        self._parent = parent
        self._describe = describe
        self._on_progress = on_progress
        self._runs: dict[str, registry.Run] = {}
        self._finished: set[str] = set()
        self._best: float | None = None
        _live[parent.id] = self

    def setup(self, **info: Any) -> None:
        """Find the runs of trials that an earlier start of this sweep made."""
        self._known = {
            record.name: record.id for record in registry.read_runs(self._tracking, parent=self._parent.id)
        }

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run."""
        trial_id = trial.trial_id
        if trial_id in self._runs:
            return
        if trial_id in self._known:
            self._runs[trial_id] = registry.reopen_run(self._tracking, self._known[trial_id])
        else:
            self._runs[trial_id] = registry.start_run(
                self._tracking,
                experiment="clinscale-sweep",
                name=trial_id,
                tags={Tag.KIND: "trial"},
                params=self._describe(trial.config),
                parent=self._parent.id,
            )
        self._tell()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log one epoch."""
        metrics = {
            key: float(value)
            for key, value in result.items()
            if key.startswith(("eval/", "train/")) or key == "epoch"
        }
        self._runs[trial.trial_id].log(metrics, step=int(result["step"]))
        if self._best is None or result[OBJECTIVE] > self._best:
            self._best = float(result[OBJECTIVE])
            self._tell()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run; an early-stopped trial is complete too."""
        self._close(trial.trial_id, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run as failed."""
        self._close(trial.trial_id, "FAILED")

    def close_open_runs(self) -> None:
        """End what an interrupted sweep leaves behind."""
        for trial_id in set(self._runs) - self._finished:
            self._close(trial_id, "KILLED")

    def run_id(self, trial_id: str) -> str:
        """MLflow's id of a trial's run."""
        run = self._runs.get(trial_id)
        return run.id if run else self._known[trial_id]

    def _close(self, trial_id: str, status: registry.Status) -> None:
        if trial_id in self._runs and trial_id not in self._finished:
            self._finished.add(trial_id)
            self._runs[trial_id].end(status)
            if self._best is not None:
                self._parent.log({"best/objective": self._best}, step=len(self._finished))
            self._tell()

    def _tell(self) -> None:
        if self._on_progress:
            self._on_progress(SweepProgress(len(self._runs), len(self._finished), self._best))
