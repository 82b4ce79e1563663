"""What Ray Tune asks and is told, turned into ledger entries: the searcher and the scheduler of a sweep.

Tune runs stints: a trial that pauses at a rung ends its stint, and its promotion is another stint that goes on from its
checkpoint. So a pause holds no process and no placement group, and processes are reused by whatever comes next.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from clinscale.errors import own_cause
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.ledger import Epoch, Ledger, Trial
from clinscale.sweep.policy import (
    Confirm,
    Finish,
    Move,
    Resume,
    Spend,
    Start,
    StudyState,
    Wait,
    goes_on,
    next_move,
)
from clinscale.sweep.sampler import Proposer
from clinscale.sweep.trial import FAILED, MESSAGE, OBJECTIVE, Stint

_KEPT = ("eval/", "train/", "perf/")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """One study as the conductor needs it."""

    name: str
    proposer: Proposer
    epochs: int
    """Of a trial that goes to its end."""
    limit_s: float | None
    """Device-seconds that one trial may take."""


_live: dict[str, "Conductor"] = {}


def live_conductor(sweep: str) -> "Conductor":
    """The conductor of a sweep in this process: what a pickled one stands for."""
    return _live[sweep]


class Conductor:
    """Asks the policy, writes the ledger, and tells whoever listens.

    Tune pickles whatever it is given, but a ledger has one writer: a pickle is only the sweep's name.
    """

    def __reduce__(self) -> tuple[Callable[[str], "Conductor"], tuple[str]]:
        return live_conductor, (self._config.name,)

    def __init__(
        self,
        config: SweepConfig,
        ledger: Ledger,
        studies: Sequence[Study],
        *,
        slots: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        self._config, self._ledger, self._studies = config, ledger, studies
        self._slots, self._on_change = slots, on_change
        self._stints: dict[str, Trial] = {}
        _live[config.name] = self
        self.finished: str | None = None
        """Why the sweep has ended."""
        for trial in ledger.trials:  # of a driver that died
            if trial.state == "running":
                ledger.end(trial, "paused" if trial.epoch else "lost", message="the driver was gone")

    def next_stint(self, tune_id: str) -> Stint | None:
        """What a free worker does; None while it has to wait, or when the sweep is at its end."""
        if len(self._stints) >= self._slots():
            return None
        move = self._move()
        if isinstance(move, Finish):
            self.finished = move.because
            return None
        if isinstance(move, Wait):
            return None
        trial = (
            self._ledger.resume(move.trial) if isinstance(move, Resume) else self._ledger.start(self._new(move))
        )
        self._stints[tune_id] = trial
        self._on_change()
        return Stint(trial.study, trial.id, trial.params, trial.seed, trial.epoch)

    def work_left(self) -> bool:
        """Whether a start of the sweep has anything to do."""
        return not isinstance(self._move(), Finish)

    def report(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """An epoch has ended; whether its trial trains on at once."""
        trial = self._stints[tune_id]
        if FAILED in result:
            self._end(tune_id, "failed", result[FAILED], result[MESSAGE])
            return False
        metrics = {key: float(value) for key, value in result.items() if key.startswith(_KEPT)}
        metrics["step"] = float(result["step"])
        epoch = Epoch(int(result["epoch"]), float(result[OBJECTIVE]), float(result["device_seconds"]), metrics)
        trial = self._stints[tune_id] = self._ledger.report(trial, epoch)
        study = self._studies[trial.study]
        needed_s = trial.seconds / trial.epoch * study.epochs
        if study.limit_s is not None and trial.searched and needed_s > study.limit_s:
            limit = f"constraints.minutes_per_trial is {study.limit_s / 60:g}"
            message = f"needs about {needed_s / 60:.1f} device-minutes, {limit}"
            self._end(tune_id, "failed", "over_time", message)
            return False
        peers = self._ledger.of_study(trial.study)
        halving = self._config.recipe.halving
        on = goes_on(trial, peers, halving, study.epochs) and not self.spend.exhausted
        if not on:
            self._end(
                tune_id, "pruned" if halving.scheduler == "median" and not self.spend.exhausted else "paused"
            )
        else:
            self._on_change()
        return on

    def ended(self, tune_id: str) -> None:
        """A stint came to its own end: its trial is complete."""
        if tune_id in self._stints:
            self._end(tune_id, "complete")

    def died(self, tune_id: str, error: BaseException | None) -> None:
        """A stint's process or code failed: told by kind only, for the text of foreign errors may quote data."""
        if tune_id not in self._stints:
            return
        from ray.exceptions import OutOfMemoryError, RayActorError

        trial = self._stints[tune_id]
        ours = own_cause(error)
        kind = type(error).__name__ if ours is None else str(ours)
        gone = error is None or isinstance(error, RayActorError | OutOfMemoryError)
        if gone and trial.losses < self._config.runtime.max_failures:
            self._end(tune_id, "lost", "lost", kind)
        elif isinstance(error, OutOfMemoryError):
            self._end(tune_id, "failed", "out_of_memory", kind)
        else:
            self._end(tune_id, "failed", "lost" if gone else "error", kind)

    def interrupt(self) -> None:
        """What runs is left where it is; the next start of the sweep goes on from there."""
        for tune_id in list(self._stints):
            trial = self._stints[tune_id]
            self._end(tune_id, "paused" if trial.epoch else "lost", message="interrupted")

    @property
    def spend(self) -> Spend:
        """The budget as it stands, with what was begun and not reported yet left out."""
        budget = self._config.recipe.budget
        return Spend(
            budget.trials_of(len(self._studies)),
            budget.device_seconds,
            sum(trial.seconds for trial in self._ledger.trials),
        )

    def _move(self) -> Move:
        return next_move(
            [self._state(index) for index in range(len(self._studies))],
            self.spend,
            self._config.recipe.halving,
            confirm_seeds=self._config.recipe.confirm_seeds,
        )

    def _end(self, tune_id: str, state: Any, reason: Any = None, message: str = "") -> None:
        self._ledger.end(self._stints.pop(tune_id), state, reason, message)
        self._on_change()

    def _state(self, index: int) -> StudyState:
        study = self._studies[index]
        return StudyState(self._ledger.of_study(index), study.epochs, study.proposer.num_points())

    def _new(self, move: Start | Confirm) -> Trial:
        if isinstance(move, Confirm):
            of = move.trial
            number = len(self._ledger.of_study(of.study))
            return Trial(of.study, number, of.params, "confirm", move.seed, of=of.number)
        trials = self._ledger.of_study(move.study)
        proposal = self._studies[move.study].proposer.propose(trials)
        return Trial(
            move.study,
            len(trials),
            proposal.params,
            proposal.origin,
            self._config.recipe.seed,
            system_attrs=proposal.system_attrs,
        )


class SweepSearch(Searcher):  # type: ignore[misc]
    """Tune's questions for the conductor: what runs next, and how it ended."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def suggest(self, trial_id: str) -> Any:
        """See Searcher."""
        stint = self._conductor.next_stint(trial_id)
        if stint is not None:
            return {"stint": asdict(stint)}
        return Searcher.FINISHED if self._conductor.finished else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """See Searcher; errors came through the scheduler, which is told their kind."""
        if not error:
            self._conductor.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


class RungScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's reports for the conductor: each epoch's score, and errors with their kind."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See TrialScheduler."""
        if result.get("done"):  # Tune repeats the last report when a stint has come to its end
            return str(TrialScheduler.CONTINUE)
        on = self._conductor.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See TrialScheduler."""
        self._conductor.died(trial.trial_id, trial.get_pickled_error())
