"""The driver side of a sweep: the trials of all studies, then each study's winner, test score and version."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinscale import registry
from clinscale.config import fingerprint
from clinscale.errors import ClinscaleError, ClusterError, ConfigError, DataError
from clinscale.finetune import task_tags
from clinscale.registry import Experiment, Tag
from clinscale.runfolder import claim_run_folder
from clinscale.runtime import Cluster
from clinscale.storage import write_json
from clinscale.sweep.choose import flat_remark
from clinscale.sweep.conductor import Conductor, Study
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.disk import Freed, retire, tidy
from clinscale.sweep.forecast import require_one_trial
from clinscale.sweep.inputs import StudyInputs, SweepInputs, read_inputs, study_recipe, sweep_recipe
from clinscale.sweep.ledger import LEDGER_FILE, Ledger, Trial, best_of
from clinscale.sweep.record import StudyRuns
from clinscale.sweep.segments import run_segments
from clinscale.sweep.trial import StudySpec, run_segment
from clinscale.sweep.winner import StudyResult, finish_study
from clinscale.tasks import metric_of

CONFIG_FILE = "config.json"
"""File in a sweep's folder with all that `--resume` needs."""


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep."""

    name: str
    studies: tuple[StudyResult, ...]
    failures: Mapping[str, ClinscaleError]
    """Reason of each study that has no winner."""
    freed: Freed
    """Trials that `runtime.keep_trials` does not keep."""


@dataclass(frozen=True)
class StudyProgress:
    """Progress of one study for a person who watches it."""

    name: str
    trials: int
    running: int
    paused: int
    failed: int
    epochs: int
    best: float | None
    device_seconds: float
    remark: str = ""
    """The sentence on development scores that are flat over all trials so far."""


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep for a person who watches it."""

    studies: tuple[StudyProgress, ...]
    trials_budget: int | None
    device_seconds_budget: float | None
    doing: str | None = None
    """Present activity before the first trial and after the last one."""

    @property
    def trials(self) -> int:
        """Begun so far."""
        return sum(study.trials for study in self.studies)

    @property
    def device_seconds(self) -> float:
        """Spent so far."""
        return sum(study.device_seconds for study in self.studies)


def load_sweep(name: str, overrides: Sequence[str] = (), *, home: str | Path) -> SweepConfig:
    """The config of the sweep called `name`, to resume it; ConfigError when there is none."""
    path = Path(home) / "sweep" / name / CONFIG_FILE
    if not path.is_file():
        known = sorted(other.parent.name for other in (Path(home) / "sweep").glob(f"*/{CONFIG_FILE}"))
        raise ConfigError(f"no sweep {name!r} in {home}; known: {', '.join(known) or 'none'}")
    return SweepConfig.load(path, overrides)


def sweep(
    config: SweepConfig,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    cluster: Cluster,
    inputs: SweepInputs | None = None,
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Search all studies under one budget; of each, judge the winner once on the test split and register it.

    Needs a `ray_session` or a `fork_session`. The same name with the same recipe resumes, or returns what is finished
    already. `inputs` are read unless given. A study without a winner is among the failures; the others have theirs.

    Raises:
        ConfigError: the name belongs to another recipe. ClusterError: Ray gave up, or another process runs this sweep.
        ClinscaleError: the only study has no winner. Else as `read_inputs`.
    """
    inputs = inputs or read_inputs(config, tracking=tracking, home=home)
    recipes = [study_recipe(config, study) for study in inputs.studies]
    folder = claim_run_folder(home, "sweep", config.name, sweep_recipe(config, inputs))
    write_json(folder / CONFIG_FILE, config.plain())
    results, failures, freed = [], dict[str, ClinscaleError](inputs.failures), Freed()
    with contextlib.ExitStack() as open_runs:
        # the ledger first: who may not write it must not touch the runs of the process that does
        ledger = open_runs.enter_context(contextlib.closing(Ledger(folder / LEDGER_FILE)))
        runs = [
            open_runs.enter_context(
                registry.resume_or_start_run(
                    tracking,
                    experiment=Experiment.SWEEP,
                    name=study.config.name,
                    kind="sweep",
                    recipe=fingerprint(recipe),
                    tags={
                        **task_tags(study.data),
                        Tag.SWEEP: config.name,
                        Tag.LEAGUE: study.config.league or config.name,
                        Tag.ARM: study.config.arm or study.config.name,
                        **({Tag.SEEN_TESTS: "true"} if study.config.seen_tests else {}),
                        Tag.SPACE: json.dumps(study.searched),
                    },
                    params={**recipe, **config.runtime.plain()},
                )
            )
            for study, recipe in zip(inputs.studies, recipes, strict=True)
        ]
        for study, run in zip(inputs.studies, runs, strict=True):
            study.log_to(run)
        driver = _Driver(config, inputs, folder, ledger, runs, tracking, cluster, on_progress)
        if not ledger.trials:
            require_one_trial(
                config, inputs, on_study=lambda name: driver.show(f"measuring a few steps of {name}")
            )
        driver.search()
        for index, (study, recipe) in enumerate(zip(inputs.studies, recipes, strict=True)):
            driver.show(f"judging {study.config.name}")
            trials, place = ledger.of_study(index), folder / study.config.name
            try:
                result = finish_study(
                    study,
                    config,
                    trials,
                    place,
                    tracking=tracking,
                    home=home,
                    runs=driver.records[index],
                    run=runs[index],
                    recipe=fingerprint(recipe),
                )
            except (ClusterError, DataError, ConfigError) as error:
                if len(inputs.studies) + len(inputs.failures) == 1:
                    raise
                failures[study.config.name] = error
                continue
            results.append(result)
            freed += retire(place, trials, config.runtime.keep_trials, winner=result.folder)
    for run in runs:
        if run.name in failures:
            run.end("FAILED")
    return SweepResult(config.name, tuple(results), failures, freed)


class _Driver:
    """One start of a sweep."""

    def __init__(
        self,
        config: SweepConfig,
        inputs: SweepInputs,
        folder: Path,
        ledger: Ledger,
        runs: Sequence[registry.Run],
        tracking: registry.Tracking,
        cluster: Cluster,
        on_progress: Callable[[SweepProgress], None] | None,
    ) -> None:
        self._config, self._inputs, self._folder, self._ledger = config, inputs, folder, ledger
        self._cluster, self._on_progress = cluster, on_progress
        self.records = [
            StudyRuns(
                tracking,
                run,
                ledger,
                index,
                name=study.config.name,
                describe=study.describe,
                log_inputs=study.log_to,
            )
            for index, (study, run) in enumerate(zip(inputs.studies, runs, strict=True))
        ]
        self._conductor = Conductor(
            config,
            ledger,
            [self._study(study, index) for index, study in enumerate(inputs.studies)],
            slots=self._slots,
            on_change=self._changed,
        )

    def search(self) -> None:
        """Run segments until the policy says that nothing is left to do."""
        settings = self._config.runtime
        resources = {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
        if settings.workers_per_trial > 1:
            resources = {"CPU": 0.01}  # the workers set aside their own; Tune takes no 0
        specs = tuple(self._spec(study) for study in self._inputs.studies)
        try:
            run_segments(
                self._conductor,
                functools.partial(run_segment, specs=specs),
                folder=self._folder,
                resources=resources,
                reuse_processes=settings.workers_per_trial == 1,
            )
        finally:
            self._conductor.close()
            self._tidy()
            for record in self.records:
                record.close()

    def _changed(self) -> None:
        """A trial began, reported or ended."""
        for record in self.records:
            record.follow()
        self._tidy()
        self.show()

    def show(self, doing: str | None = None) -> None:
        """Report the state to those who watch."""
        if self._on_progress:
            spend = self._conductor.spend
            studies = tuple(
                _progress(study, self._ledger.of_study(index)) for index, study in enumerate(self._inputs.studies)
            )
            self._on_progress(SweepProgress(studies, spend.trials, spend.device_seconds, doing))

    def _tidy(self) -> None:
        folders = {index: self._folder / study.config.name for index, study in enumerate(self._inputs.studies)}
        quota = self._config.runtime.disk_quota_gb
        tidy(folders, self._ledger.trials, quota and quota * 1e9)

    def _slots(self) -> int:
        """Trials that may run at once, on the cluster as it is now."""
        settings = self._config.runtime
        if settings.max_concurrent_trials:
            return settings.max_concurrent_trials
        return self._cluster.now().slots(
            cpus=settings.cpus_per_trial * settings.workers_per_trial,
            gpus=settings.gpus_per_trial * settings.workers_per_trial,
        )

    def _study(self, study: StudyInputs, index: int) -> Study:
        minutes = study.space.constraints.minutes_per_trial
        return Study(
            study.config.name, study.proposer(self._config.recipe), study.epochs, minutes and minutes * 60
        )

    def _spec(self, study: StudyInputs) -> StudySpec:
        settings = self._config.runtime
        return StudySpec(
            task=study.data.task,
            data=str(Path(study.config.data).absolute()),
            models=tuple(base.path for base in study.bases),
            space=study.space,
            folder=self._folder / study.config.name,
            num_threads=max(1, int(settings.cpus_per_trial)),
            devices=settings.devices_per_trial,
            runtime=settings.finetune,
            pauses=tuple(self._config.recipe.halving.pauses(study.epochs)),
        )


def _progress(study: StudyInputs, trials: Sequence[Trial]) -> StudyProgress:
    best = best_of(trials)
    count = {state: sum(trial.state == state for trial in trials) for state in ("running", "paused", "failed")}
    return StudyProgress(
        name=study.config.name,
        trials=sum(trial.searched for trial in trials),
        epochs=sum(len(trial.epochs) for trial in trials),
        best=best.objective if best else None,
        device_seconds=sum(trial.seconds for trial in trials),
        remark=flat_remark(trials, metric_of(study.data.task), len(study.data.splits["dev"])),
        **count,
    )
