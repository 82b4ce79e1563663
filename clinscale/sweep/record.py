"""A sweep's runs in MLflow, made from its ledger: one run per study, one child run per trial.

The ledger is the truth and MLflow a copy, so that a server that is away costs nothing: what it lacks is delivered when
it answers, each epoch once, whichever process was the last to try.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.registry import Experiment, Tag
from clinscale.sweep.ledger import FINAL, Ledger, Trial, best_of

log = logging.getLogger(__name__)

_STATUS: dict[str, registry.Status] = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}


class StudyRuns:
    """The run of one study and those of its trials."""

    def __init__(
        self,
        tracking: registry.Tracking,
        parent: registry.Run,
        ledger: Ledger,
        study: int,
        *,
        name: str,
        describe: Callable[[Mapping[str, Any]], dict[str, Any]],
        log_inputs: Callable[[registry.Run, Mapping[str, Any]], None],
    ) -> None:
        self._tracking, self._parent, self._ledger, self._study = tracking, parent, ledger, study
        self._name, self._describe, self._log_inputs = name, describe, log_inputs
        self._runs: dict[str, registry.Run] = {}
        self._told: dict[str, tuple[int, str]] = {}
        """The last epoch and state that MLflow has, by trial."""
        self._known = {run.name: run for run in registry.read_runs(tracking, parent=parent.id)}
        self._best: float | None = None
        self._away = False

    def follow(self) -> None:
        """Bring MLflow up to the ledger; a server that is away is brought up next time."""
        try:
            with self._tracking.impatient():
                self.catch_up()
        except RegistryError as error:
            if not self._away:
                log.warning("%s; the sweep goes on and delivers later", error)
            self._away = True
        else:
            self._away = False

    def catch_up(self) -> None:
        """Record as `follow` does; RegistryError when the server is away."""
        trials = self._ledger.of_study(self._study)
        for trial in trials:
            if self._told.get(trial.id) != (trial.epoch, trial.state):
                self._tell(trial)
        best = best_of(trials)
        if best and best.objective != self._best:
            ended = sum(trial.state in FINAL for trial in trials)
            self._parent.log({"best/objective": best.objective or 0.0}, step=ended)
            self._best = best.objective

    def close(self) -> None:
        """The sweep pauses or ends: no run stays open."""
        self.catch_up()
        for trial in self._ledger.of_study(self._study):
            if trial.state not in FINAL and self._told[trial.id][1] != "closed":
                self._runs[trial.id].end("KILLED")
                self._told[trial.id] = (trial.epoch, "closed")

    def run_id(self, trial: Trial) -> str:
        """MLflow's id of a trial's run."""
        return self._runs[trial.id].id

    def _tell(self, trial: Trial) -> None:
        run = self._runs.get(trial.id) or self._open(trial)
        epoch, state = self._told[trial.id]
        if state != "running" and trial.state == "running":
            registry.reopen_run(self._tracking, run.id)
        for one in trial.epochs:
            if one.epoch > epoch:
                metrics = {key: value for key, value in one.metrics.items() if key != "step"}
                step = int(one.metrics.get("step", one.epoch))
                run.log({**metrics, "epoch": one.epoch, "objective": one.objective}, step=step)
        if trial.state in ("paused", *FINAL) and trial.state != state:
            run.set_tags(
                {
                    Tag.TRIAL_STATE: trial.state,
                    Tag.TRIAL_REASON: f"{trial.reason}: {trial.message}" if trial.reason else trial.message,
                    Tag.DEVICE_SECONDS: f"{trial.seconds:.1f}",
                }
            )
        if trial.state in FINAL and state not in FINAL:
            run.end(_STATUS[trial.state])
        self._told[trial.id] = (trial.epoch, trial.state)

    def _open(self, trial: Trial) -> registry.Run:
        """The trial's run: one that exists is continued, whichever process made it."""
        name = f"{self._name}-{trial.id}"
        known = self._known.get(name)
        if known:
            ended = known.status in _STATUS.values()
            run = (
                registry.open_run(self._tracking, known.id)
                if ended
                else registry.reopen_run(self._tracking, known.id)
            )
            steps = [step for step, _ in registry.metric_history(self._tracking, known.id, "epoch")]
            told = sum(int(one.metrics.get("step", one.epoch)) in steps for one in trial.epochs)
            self._told[trial.id] = (told, trial.state if ended and trial.state in FINAL else "running")
        else:
            confirmed = {} if trial.of is None else {Tag.CONFIRMS: f"{trial.of:05d}"}
            run = registry.start_run(
                self._tracking,
                experiment=Experiment.SWEEP,
                name=name,
                tags={Tag.KIND: "trial", Tag.TRIAL_ORIGIN: trial.origin, **confirmed},
                params={**self._describe(trial.params), "seed": trial.seed},
                parent=self._parent.id,
            )
            self._log_inputs(run, trial.params)
            self._told[trial.id] = (0, "running")
        self._runs[trial.id] = run
        return run
