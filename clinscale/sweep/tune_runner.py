"""Segments on Ray Tune: a searcher and a scheduler that ask the controller, which is all that they know."""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from clinscale.errors import ClusterError, own_cause
from clinscale.runtime import ray_logs
from clinscale.sweep.controller import SweepController
from clinscale.sweep.events import Reason
from clinscale.sweep.segments import Work
from clinscale.sweep.trial import Segment


def run(
    controller: SweepController, work: Work, *, folder: Path, resources: Mapping[str, float], reuse_processes: bool
) -> None:
    """See SegmentRunner; ClusterError when Tune gave up."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours to handle: runs must be closed
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"  # the ledger is the state
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its tracebacks may quote data
    scratch = folder / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_live, work=work),
                {kind: amount for kind, amount in resources.items() if amount},
            ),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the policy says when it is enough
                search_alg=SweepSearch(controller),
                scheduler=RungScheduler(controller),
                reuse_actors=reuse_processes,
            ),
            run_config=tune.RunConfig(
                name=scratch.name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=0),  # the ledger counts losses
                verbose=0,
            ),
        ).fit()
    except TuneError as error:
        if own := own_cause(error):
            raise own from None
        raise ClusterError(
            f"sweep {controller.name}: Ray Tune gave up ({type(error).__name__}); {ray_logs()}; run the same command "
            "to resume it"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _live(config: dict[str, Any], work: Work) -> None:
    work(tune.report, Segment(**config["segment"]))


def how_it_died(error: BaseException | None) -> tuple[Reason, str]:
    """Reason why a segment failed, in the ledger's words; foreign errors by kind only, as their text may quote data."""
    ours = own_cause(error)
    kind = type(error).__name__ if ours is None else str(ours)
    if isinstance(error, OutOfMemoryError):  # Ray ended it, before the host would have run out
        return "out_of_memory", kind
    return ("lost" if error is None or isinstance(error, RayActorError) else "error"), kind


class SweepSearch(Searcher):  # type: ignore[misc]
    """Tune's questions for the controller: what runs next, and how it ended."""

    def __init__(self, controller: SweepController) -> None:
        super().__init__()
        self._controller = controller

    def suggest(self, trial_id: str) -> Any:
        """See Searcher."""
        segment = self._controller.next_segment(trial_id)
        if segment is not None:
            return {"segment": asdict(segment)}
        return Searcher.FINISHED if self._controller.finished else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """See Searcher; errors came through the scheduler, which gets their kind."""
        if not error:
            self._controller.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


class RungScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's reports for the controller: each epoch's score, and errors with their kind."""

    def __init__(self, controller: SweepController) -> None:
        super().__init__()
        self._controller = controller

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See TrialScheduler."""
        if result.get("done"):  # Tune repeats the last report when a segment has come to its end
            return str(TrialScheduler.CONTINUE)
        on = self._controller.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See TrialScheduler."""
        self._controller.died(trial.trial_id, *how_it_died(trial.get_pickled_error()))
