"""A sweep's runs in MLflow, made from its ledger: one run per study, one child run per trial.

The ledger is the truth and MLflow a copy, so that a server that is away costs nothing: what it lacks is delivered when
it answers, each epoch once, whichever process was the last to try.
"""

import logging

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.registry import Experiment, Tag
from clinscale.sweep.inputs import Study
from clinscale.sweep.ledger import FINAL, Epoch, Ledger, Look, Trial, best_of

log = logging.getLogger(__name__)

_STATUS: dict[str, registry.Status] = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}


class TrialLogger:
    """Logs the trials of one study to MLflow, as child runs of the study's own `run`."""

    def __init__(
        self,
        tracking: registry.Tracking,
        run: registry.Run,
        ledger: Ledger,
        study: Study,
    ) -> None:
        self._tracking, self._ledger, self._study = tracking, ledger, study
        self.run = run
        """The study's."""
        self._runs: dict[str, registry.Run] = {}
        self._logged: dict[str, tuple[int, str]] = {}
        """The number of reports and the state that MLflow has, by trial."""
        self._known = {one.name: one for one in registry.read_runs(tracking, parent=run.id)}
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
        trials = self._ledger.of_study(self._study.index)
        for trial in trials:
            if self._logged.get(trial.id) != (len(trial.reports), trial.state):
                self._log(trial)
        best = best_of(trials)
        if best and best.objective != self._best:
            ended = sum(trial.state in FINAL for trial in trials)
            self.run.log({"best/objective": best.objective or 0.0}, step=ended)
            self._best = best.objective

    def close(self) -> None:
        """The sweep pauses or ends: no run stays open."""
        self.catch_up()
        for trial in self._ledger.of_study(self._study.index):
            if trial.state not in FINAL and self._logged[trial.id][1] != "closed":
                self._runs[trial.id].end("KILLED")
                self._logged[trial.id] = (len(trial.reports), "closed")

    def run_id(self, trial: Trial) -> str:
        """MLflow's id of a trial's run."""
        return self._runs[trial.id].id

    def _log(self, trial: Trial) -> None:
        run = self._runs.get(trial.id) or self._open(trial)
        logged, state = self._logged[trial.id]
        if state != "running" and trial.state == "running":
            registry.reopen_run(self._tracking, run.id)
        for one in trial.reports[logged:]:
            metrics = {key: value for key, value in one.metrics.items() if key != "step"}
            if isinstance(one, Epoch):
                metrics["objective"] = one.objective
            elif one.objective is not None:  # of a part of the split: no history has both
                metrics["look/objective"] = one.objective
            run.log({**metrics, "epoch": one.epoch}, step=_step_of(one))
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
        self._logged[trial.id] = (len(trial.reports), trial.state)

    def _open(self, trial: Trial) -> registry.Run:
        """The trial's run: one that exists is continued, whichever process made it."""
        name = f"{self._study.name}-{trial.id}"
        known = self._known.get(name)
        if known:
            ended = known.status in _STATUS.values()
            run = (
                registry.open_run(self._tracking, known.id)
                if ended
                else registry.reopen_run(self._tracking, known.id)
            )
            steps = [step for step, _ in registry.metric_history(self._tracking, known.id, "epoch")]
            logged = sum(_step_of(one) in steps for one in trial.reports)
            self._logged[trial.id] = (logged, trial.state if ended and trial.state in FINAL else "running")
        else:
            confirmed = {} if trial.of is None else {Tag.CONFIRMS: f"{trial.of:05d}"}
            run = registry.start_run(
                self._tracking,
                experiment=Experiment.SWEEP,
                name=name,
                tags={Tag.KIND: "trial", Tag.TRIAL_ORIGIN: trial.origin, **confirmed},
                params={**self._study.describe(trial.params), "seed": trial.seed},
                parent=self.run.id,
            )
            self._study.log_to(run, trial.params)
            self._logged[trial.id] = (0, "running")
        self._runs[trial.id] = run
        return run


def _step_of(report: Look | Epoch) -> int:
    return int(report.metrics.get("step", report.epoch))
