"""The controller of a sweep: it turns requests and reports of workers into entries of the ledger."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clinscale.errors import CapacityError, ChangedDataError, ClusterError
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.events import Reason, State
from clinscale.sweep.ledger import Closed, Epoch, Ledger, Look, Trial
from clinscale.sweep.policy import (
    Budget,
    Confirm,
    Finish,
    Move,
    Resume,
    Search,
    Start,
    Wait,
    gain_per_device_hour,
    goes_on,
    next_move,
    to_close,
)
from clinscale.sweep.sampler import Proposer
from clinscale.sweep.trial import CHANGED, FAILED, LOOK, MESSAGE, NO_ROOM, OBJECTIVE, SHORT_OF_MEMORY, Segment

_KEPT = ("eval/", "look/", "train/", "perf/")

_live: dict[str, "SweepController"] = {}


def live_controller(sweep: str) -> "SweepController":
    """The controller of a sweep in this process: what a pickled one represents."""
    return _live[sweep]


class SweepController:
    """Asks the policy, writes the ledger, and reports to listeners.

    Tune pickles whatever it is given, but a ledger has one writer: a pickle is only the sweep's name.
    """

    def __reduce__(self) -> tuple[Callable[[str], "SweepController"], tuple[str]]:
        return live_controller, (self._config.name,)

    def __init__(
        self,
        config: SweepConfig,
        ledger: Ledger,
        proposers: Sequence[Proposer],
        *,
        slots: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        self._config, self._ledger, self._proposers = config, ledger, proposers
        self._epochs = [proposer.space.epochs for proposer in proposers]
        """Epochs of a trial that goes to its end, by study."""
        self._slots, self._on_change = slots, on_change
        self._segments: dict[str, Trial] = {}
        self.name = config.name
        _live[config.name] = self
        self.finished: str | None = None
        """Reason why the sweep has ended."""
        for trial in ledger.trials:  # of a driver that died, perhaps before it wrote what it had decided
            if trial.state == "running":
                ledger.end(trial, "lost" if self._goes_on(trial) else "paused", message="the driver was gone")

    def next_segment(self, segment_id: str) -> Segment | None:
        """The next segment of a free worker; None while it has to wait, or when the sweep is at its end."""
        if len(self._segments) >= self._slots():
            return None
        move = self._move()
        self._close_studies()
        if isinstance(move, Finish):
            self.finished = move.because
            return None
        if isinstance(move, Wait):
            return None
        trial = (
            self._ledger.resume(move.trial) if isinstance(move, Resume) else self._ledger.start(self._new(move))
        )
        self._segments[segment_id] = trial
        self._on_change()
        looks = self._config.recipe.halving.looks
        return Segment(
            trial.study,
            trial.id,
            trial.params,
            trial.seed,
            known_epochs=trial.reached,
            known_looks=looks.index(trial.looks[-1].at) + 1 if trial.looks else 0,
            halvings=trial.halvings,
        )

    def work_left(self) -> bool:
        """Whether a start of the sweep has anything to do."""
        return not isinstance(self._move(), Finish)

    def report(self, segment_id: str, result: Mapping[str, Any]) -> bool:
        """Record a look or an epoch of a segment, and return whether its trial goes on training at once."""
        trial = self._segments[segment_id]
        if result.get(FAILED) == CHANGED:
            self._end(segment_id, "lost", message=CHANGED)
            raise ChangedDataError(f"sweep {self.name}: {result[MESSAGE]}")
        if result.get(FAILED) == NO_ROOM:
            self._end(segment_id, "lost", message=NO_ROOM)
            raise CapacityError(
                f"sweep {self.name}: {result[MESSAGE]}; make room or fix the disk, then run the same command again: "
                "all trials go on from their last epochs"
            )
        if result.get(FAILED) == SHORT_OF_MEMORY:
            self.died(segment_id, "out_of_memory", result[MESSAGE])
            return False
        if FAILED in result:
            self._end(segment_id, "failed", result[FAILED], result[MESSAGE])
            return False
        trial = self._segments[segment_id] = self._record(trial, result)
        limit_minutes = self._proposers[trial.study].space.constraints.minutes_per_trial
        whole = trial.searched and bool(trial.epochs)
        if limit_minutes and whole and (needed_minutes := self._needed_s(trial) / 60) > limit_minutes:
            limit = f"constraints.minutes_per_trial is {limit_minutes:g}"
            message = f"needs about {needed_minutes:.1f} device-minutes, {limit}"
            self._end(segment_id, "failed", "over_time", message)
            return False
        exhausted = self.budget.exhausted
        if self._goes_on(trial) and not exhausted:
            self._on_change()
            return True
        below_median = self._config.recipe.scheduler == "median" and not exhausted
        self._end(segment_id, "pruned" if below_median else "paused")
        return False

    def _record(self, trial: Trial, result: Mapping[str, Any]) -> Trial:
        """Write a report of a trial into the ledger."""
        metrics = {key: float(value) for key, value in result.items() if key.startswith(_KEPT)}
        metrics["step"] = float(result["step"])
        spent_s = float(result["device_seconds"])
        if LOOK not in result:
            return self._ledger.report(
                trial, Epoch(int(result["epoch"]), float(result[OBJECTIVE]), spent_s, metrics)
            )
        look = Look(
            at=self._config.recipe.halving.looks[int(result[LOOK])],
            epoch=float(result["epoch"]),
            objective=result.get(OBJECTIVE),
            seconds=spent_s,
            metrics=metrics,
            message=result.get(MESSAGE, ""),
        )
        return self._ledger.look(trial, look)

    def ended(self, segment_id: str) -> None:
        """A segment came to its own end: its trial is complete."""
        if segment_id in self._segments:
            self._end(segment_id, "complete")

    def died(self, segment_id: str, reason: Reason, message: str) -> None:
        """A segment's process or code failed; the message may not quote foreign errors, whose text may quote data."""
        if segment_id not in self._segments:
            return
        trial = self._segments[segment_id]
        again = reason != "error" and trial.losses < self._config.runtime.max_failures
        self._end(segment_id, "lost" if again else "failed", reason, message)

    def close(self) -> None:
        """Prune what was not promoted if the sweep is at its end; else leave the running trials for the next start."""
        _live.pop(self.name, None)
        if self.finished:
            for trial in self._ledger.trials:
                if trial.state == "paused":
                    self._ledger.end(trial, "pruned", message="was not promoted")
        with contextlib.suppress(
            CapacityError, ClusterError
        ):  # the next start finds them running without a driver
            for segment_id in list(self._segments):
                self._end(segment_id, "lost", message="interrupted")

    @property
    def budget(self) -> Budget:
        """The budget as it is, with what was begun and not reported yet left out."""
        limits = self._config.recipe.budget
        return Budget(
            limits.trials_of(len(self._proposers)),
            limits.device_seconds,
            sum(trial.seconds for trial in self._ledger.trials),
        )

    def _move(self) -> Move:
        return next_move(
            self._searches(),
            self.budget,
            self._config.recipe.halving,
            confirm_seeds=self._config.recipe.confirm_seeds,
            least_gain=self._config.recipe.stop_when_gain_below,
        )

    def _searches(self) -> list[Search]:
        closed = self._ledger.closed
        return [
            Search(self._ledger.of_study(index), self._epochs[index], proposer.num_points(), index in closed)
            for index, proposer in enumerate(self._proposers)
        ]

    def _close_studies(self) -> None:
        """Write down which searches have stopped because they no longer pay."""
        searches, limit = self._searches(), self._config.recipe.stop_when_gain_below
        for index in to_close(searches, limit):
            trials = searches[index].trials
            searched = sum(trial.searched for trial in trials)
            self._ledger.close_study(index, Closed(searched, gain_per_device_hour(trials), limit or 0.0))

    def _end(self, segment_id: str, state: State, reason: Reason | None = None, message: str = "") -> None:
        self._ledger.end(self._segments.pop(segment_id), state, reason, message)
        self._on_change()

    def _needed_s(self, trial: Trial) -> float:
        """Device-seconds of the whole trial: those spent, and for what is left those of its last epoch's work.

        The seconds of a first epoch hold the start of its process, which the epochs after it do not repeat.
        """
        metrics = trial.epochs[-1].metrics
        train_s = metrics["perf/train_s"]
        if trial.epoch == 1:  # of which its looks have the beginning
            train_s += sum(look.metrics.get("perf/train_s", 0.0) for look in trial.looks)
        epoch_s = (train_s + metrics["perf/eval_s"]) * self._config.runtime.devices_per_trial
        return trial.seconds + epoch_s * (self._epochs[trial.study] - trial.epoch)

    def _goes_on(self, trial: Trial) -> bool:
        peers = self._ledger.of_study(trial.study)
        return goes_on(trial, peers, self._config.recipe.halving, self._epochs[trial.study])

    def _new(self, move: Start | Confirm) -> Trial:
        if isinstance(move, Confirm):
            of = move.trial
            number = len(self._ledger.of_study(of.study))
            return Trial(of.study, number, of.params, "confirm", move.seed, of=of.number)
        trials = self._ledger.of_study(move.study)
        proposal = self._proposers[move.study].propose(trials)
        return Trial(
            move.study,
            len(trials),
            proposal.params,
            proposal.origin,
            self._config.recipe.seed,
            system_attrs=proposal.system_attrs,
        )
