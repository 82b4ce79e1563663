"""The searcher and the scheduler that Ray Tune asks in a sweep; all that they know is the conductor."""

from dataclasses import asdict
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from clinscale.sweep.conductor import Conductor


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
