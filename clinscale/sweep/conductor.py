"""What Ray Tune asks and is told, turned into ledger entries: the searcher and the scheduler of a sweep.

Tune runs stints: a trial that pauses at a rung ends its stint, and its promotion is another stint that goes on from its
checkpoint. So a pause holds no process and no placement group, and processes are reused by whatever comes next.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from clinscale.errors import ClusterError, own_cause
from clinscale.runtime import ray_logs
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.ledger import Epoch, Ledger, Reason, State, Trial
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
        self.name = config.name
        _live[config.name] = self
        self.finished: str | None = None
        """Why the sweep has ended."""
        for trial in ledger.trials:  # of a driver that died, perhaps before it wrote what it had decided
            if trial.state == "running":
                ledger.end(trial, "lost" if self._goes_on(trial) else "paused", message="the driver was gone")

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
        return Stint(trial.study, trial.id, trial.params, trial.seed, trial.epoch, trial.halvings)

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
        exhausted = self.spend.exhausted
        if self._goes_on(trial) and not exhausted:
            self._on_change()
            return True
        below_median = self._config.recipe.scheduler == "median" and not exhausted
        self._end(tune_id, "pruned" if below_median else "paused")
        return False

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
        reason: Reason = "lost" if error is None or isinstance(error, RayActorError) else "error"
        if isinstance(error, OutOfMemoryError):  # Ray ended it, before the host would have run out
            reason = "out_of_memory"
        again = reason != "error" and trial.losses < self._config.runtime.max_failures
        self._end(tune_id, "lost" if again else "failed", reason, kind)

    def close(self) -> None:
        """At the end, what was not promoted is pruned; before it, what runs is left for the next start."""
        if self.finished:
            for trial in self._ledger.trials:
                if trial.state == "paused":
                    self._ledger.end(trial, "pruned", message="was not promoted")
        for tune_id in list(self._stints):
            self._end(tune_id, "lost", message="interrupted")

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

    def _end(self, tune_id: str, state: State, reason: Reason | None = None, message: str = "") -> None:
        self._ledger.end(self._stints.pop(tune_id), state, reason, message)
        self._on_change()

    def _goes_on(self, trial: Trial) -> bool:
        peers = self._ledger.of_study(trial.study)
        return goes_on(trial, peers, self._config.recipe.halving, self._studies[trial.study].epochs)

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


def run_stints(
    conductor: Conductor,
    trainable: Callable[..., None],
    *,
    folder: Path,
    resources: Mapping[str, float],
    reuse_actors: bool = True,
    **parameters: Any,
) -> None:
    """Let Ray Tune run `trainable(config, **parameters)` for each stint until the conductor has no more.

    Needs a `ray_session`. Tune's own files lie in `folder/tune` meanwhile and are never read.

    Raises:
        ClusterError: Tune gave up.
    """
    from ray import tune
    from ray.tune import TuneError

    if not conductor.work_left():
        return
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours to handle: runs must be closed
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"  # the ledger is the state
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its tracebacks may quote data
    scratch = folder / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    bound = tune.with_parameters(trainable, **parameters) if parameters else trainable
    try:
        tune.Tuner(
            tune.with_resources(bound, {kind: amount for kind, amount in resources.items() if amount}),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the policy says when it is enough
                search_alg=SweepSearch(conductor),
                scheduler=RungScheduler(conductor),
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(
                name=scratch.name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=0),  # the ledger counts losses
                verbose=0,
            ),
        ).fit()
    except TuneError as error:
        raise ClusterError(
            f"sweep {conductor.name}: Ray Tune gave up ({type(error).__name__}); {ray_logs()}; run the same command to "
            "resume it"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
