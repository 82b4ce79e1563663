"""The driver side of a sweep: the trials of all studies, then each study's winner, test score and version."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale import models, registry
from clinscale.config import fingerprint
from clinscale.errors import ClinscaleError, ClusterError, ConfigError, DataError
from clinscale.finetune import task_tags
from clinscale.registry import Experiment, Tag
from clinscale.runfolder import RECIPE_FILE, check_run_folder, check_unchanged, claim_run_folder, refuse_copy
from clinscale.runtime import Cluster
from clinscale.storage import read_json_object, write_json
from clinscale.sweep.choose import flat_remark
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.controller import SweepController
from clinscale.sweep.disk import FreedSpace, clean_up, remove_trials
from clinscale.sweep.forecast import require_one_trial
from clinscale.sweep.inputs import NOT_READ, Study, SweepInputs, read_inputs, study_recipe, sweep_recipe
from clinscale.sweep.judged import WINNER_FILE
from clinscale.sweep.ledger import LEDGER_FILE, Ledger, best_of
from clinscale.sweep.record import TrialLogger
from clinscale.sweep.remarks import search_remarks
from clinscale.sweep.segments import run_segments
from clinscale.sweep.trial import run_segment
from clinscale.sweep.warm import warm_file, write_warm_points
from clinscale.sweep.winner import StudyResult, check_winner, finish_study
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
    notes: tuple[str, ...]
    """Sentences on how the search went that are no part of a winner's score; usually none."""
    freed: FreedSpace
    """Trials that `runtime.keep_trials` does not keep."""


@dataclass(frozen=True)
class SearchProgress:
    """Progress of the search of one study for a person who watches it."""

    name: str
    trials: int
    running: int
    paused: int
    failed: int
    epochs: int
    best: float | None
    device_seconds: float
    remark: str = ""
    """Sentences on development scores that are flat over all trials so far, and on how the search goes."""
    looks: int = 0
    """Reports from inside first epochs."""
    confirmations: int = 0
    """Trials begun that repeat the setting of a finalist under another seed."""


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep for a person who watches it."""

    studies: tuple[SearchProgress, ...]
    trials_budget: int | None
    device_seconds_budget: float | None
    doing: str | None = None
    """Present activity before the first trial and after the last one."""

    @property
    def trials(self) -> int:
        """Begun so far."""
        return sum(study.trials for study in self.studies)

    @property
    def confirmations(self) -> int:
        """Begun so far."""
        return sum(study.confirmations for study in self.studies)

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
    refuse_copy(path)
    return SweepConfig.load(path, overrides)


def begun_studies(name: str, *, home: str | Path) -> tuple[str, ...]:
    """The studies that the sweep called `name` was begun with, in the order of their numbers; none where it was not.

    Those whose data or model was missing then are not among them.
    """
    return tuple(_begun(name, home))


def _begun(name: str, home: str | Path) -> dict[str, Any]:
    """The studies that the sweep was begun with, in their order then, with what its recipe has of each."""
    recipe = Path(home) / "sweep" / name / RECIPE_FILE
    studies = read_json_object(recipe).get("studies", {}) if recipe.is_file() else {}
    return {study: read for study, read in studies.items() if read != NOT_READ}


def is_judged(config: SweepConfig, *, home: str | Path) -> bool:
    """Whether each study of the sweep has a winner that was judged, so that another start trains nothing."""
    folder = Path(home) / "sweep" / config.name
    return all((folder / study.name / WINNER_FILE).exists() for study in config.recipe.studies)


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
        ChangedDataError: a base model, or the winner that was judged, is another one by now.
        ClinscaleError: the only study has no winner. Else as `read_inputs`.
    """
    inputs = inputs or read_inputs(config, tracking=tracking, home=home)
    folder = claim_run_folder(home, "sweep", config.name, sweep_recipe(config, inputs))
    begun = _begun(config.name, home)
    inputs = inputs.in_order({study: [*read["space"]["parameters"]] for study, read in begun.items()})
    write_json(folder / CONFIG_FILE, config.plain())
    results, failures, freed = [], dict[str, ClinscaleError](inputs.failures), FreedSpace()
    with contextlib.ExitStack() as open_runs:
        # the ledger first: who may not write it must not touch the runs of the process that does
        ledger = open_runs.enter_context(contextlib.closing(Ledger(folder / LEDGER_FILE)))
        for study in inputs.studies if config.recipe.warm_start else ():
            write_warm_points(warm_file(folder, study.name), study.warm)
        _check_unchanged(inputs, folder)  # a refusal leaves the finished runs in MLflow as they are
        runs = [open_runs.enter_context(_study_run(config, study, tracking)) for study in inputs.studies]
        for study, run in zip(inputs.studies, runs, strict=True):
            study.log_to(run)
        loggers = [
            TrialLogger(tracking, run, ledger, study) for study, run in zip(inputs.studies, runs, strict=True)
        ]
        driver = _Driver(config, inputs, folder, ledger, loggers, cluster, on_progress)
        if not ledger.trials:
            require_one_trial(
                config, inputs, on_study=lambda name: driver.show(f"measuring a few steps of {name}")
            )
        driver.search()
        for study, logger in zip(inputs.studies, loggers, strict=True):
            driver.show(f"judging {study.name}")
            trials, place = ledger.of_study(study.index), folder / study.name
            try:
                result = finish_study(study, config, trials, place, tracking=tracking, home=home, logger=logger)
            except (ClusterError, DataError, ConfigError) as error:
                if len(inputs.studies) + len(inputs.failures) == 1:
                    raise
                failures[study.name] = error
                continue
            results.append(result)
            freed += remove_trials(place, trials, config.runtime.keep_trials, winner=result.folder)
    for run in runs:
        if run.name in failures:
            run.end("FAILED")
    notes = tuple(
        f"{study.name}: {remark}"
        for study in inputs.studies
        for remark in (*study.data.findings.remarks, *_remarks(study, config, ledger))
    )
    return SweepResult(config.name, tuple(results), failures, notes, freed)


def check_start(config: SweepConfig, inputs: SweepInputs, *, home: str | Path) -> None:
    """Refuse what `sweep` refuses before its first trial, for who asks what it would do; writes nothing.

    Raises:
        ConfigError: the name belongs to another recipe. ChangedDataError: as `sweep`.
    """
    _check_unchanged(
        inputs, check_run_folder(home, "sweep", config.name, sweep_recipe(config, inputs)), records=False
    )


def _check_unchanged(inputs: SweepInputs, folder: Path, *, records: bool = True) -> None:
    """Check that base models and winners are those that the sweep in a folder was begun and judged with."""
    for base in {base for study in inputs.studies for base in study.bases if not base.digest}:
        # a folder that no version can be made of has no digest in the recipe
        if content := models.model_fingerprint(base.path):
            check_unchanged(folder, f"model {base.label}", content, records=records)
    for study in inputs.studies:
        check_winner(folder / study.name)


def _study_run(config: SweepConfig, study: Study, tracking: registry.Tracking) -> registry.Run:
    """The MLflow run of a study, begun or gone on with."""
    recipe = study_recipe(config, study)
    return registry.resume_or_start_run(
        tracking,
        experiment=Experiment.SWEEP,
        name=study.name,
        kind="sweep",
        recipe=fingerprint(recipe),
        tags={
            **task_tags(study.data),
            Tag.SWEEP: config.name,
            Tag.LEAGUE: study.config.league or config.name,
            Tag.ARM: study.config.arm or study.name,
            **({Tag.SEEN_TESTS: "true"} if study.config.seen_tests else {}),
            Tag.SPACE: json.dumps(study.searched),
        },
        params={**recipe, **config.runtime.plain()},
    )


class _Driver:
    """One start of a sweep."""

    def __init__(
        self,
        config: SweepConfig,
        inputs: SweepInputs,
        folder: Path,
        ledger: Ledger,
        loggers: Sequence[TrialLogger],
        cluster: Cluster,
        on_progress: Callable[[SweepProgress], None] | None,
    ) -> None:
        self._config, self._inputs, self._folder, self._ledger = config, inputs, folder, ledger
        self._loggers, self._cluster, self._on_progress = loggers, cluster, on_progress
        self._controller = SweepController(
            config,
            ledger,
            [study.proposer(config.recipe) for study in inputs.studies],
            slots=self._slots,
            on_change=self._changed,
        )

    def search(self) -> None:
        """Run segments until the policy says that nothing is left to do."""
        settings = self._config.runtime
        resources = {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
        if settings.workers_per_trial > 1:
            resources = {"CPU": 0.01}  # the workers set aside their own; Tune takes no 0
        specs = tuple(study.trial_spec(self._config, self._folder / study.name) for study in self._inputs.studies)
        try:
            run_segments(
                self._controller,
                functools.partial(run_segment, specs=specs),
                folder=self._folder,
                resources=resources,
                reuse_processes=settings.workers_per_trial == 1,
            )
        except BaseException:
            with contextlib.suppress(ClinscaleError):  # people hear of what ended the search
                self._close()
            raise
        self._close()

    def _close(self) -> None:
        self._controller.close()
        for logger in self._loggers:
            logger.close()
        self._clean_up()

    def _changed(self) -> None:
        """A trial began, reported or ended."""
        for logger in self._loggers:
            logger.follow()
        self._clean_up()
        self.show()

    def show(self, doing: str | None = None) -> None:
        """Report the state to those who watch."""
        if self._on_progress:
            budget = self._controller.budget
            studies = tuple(_progress(study, self._config, self._ledger) for study in self._inputs.studies)
            self._on_progress(SweepProgress(studies, budget.trials, budget.device_seconds, doing))

    def _clean_up(self) -> None:
        self._ledger.check_in_place()  # files of another time are not ours to remove
        folders = {study.index: self._folder / study.name for study in self._inputs.studies}
        quota = self._config.runtime.disk_quota_gb
        clean_up(folders, self._ledger.trials, quota and quota * 1e9)

    def _slots(self) -> int:
        """Trials that may run at once, on the cluster as it is now."""
        settings = self._config.runtime
        if settings.max_concurrent_trials:
            return settings.max_concurrent_trials
        return self._cluster.now().slots(
            cpus=settings.cpus_per_trial * settings.workers_per_trial,
            gpus=settings.gpus_per_trial * settings.workers_per_trial,
        )


def _remarks(study: Study, config: SweepConfig, ledger: Ledger) -> list[str]:
    trials, closed = ledger.of_study(study.index), ledger.closed.get(study.index)
    return search_remarks(trials, config.recipe.halving, closed, metric_of(study.data.task))


def _progress(study: Study, config: SweepConfig, ledger: Ledger) -> SearchProgress:
    trials = ledger.of_study(study.index)
    best = best_of(trials)
    flat = flat_remark(trials, metric_of(study.data.task), len(study.data.splits["dev"]))
    count = {state: sum(trial.state == state for trial in trials) for state in ("running", "paused", "failed")}
    return SearchProgress(
        name=study.name,
        trials=sum(trial.searched for trial in trials),
        confirmations=sum(not trial.searched for trial in trials),
        looks=sum(len(trial.looks) for trial in trials),
        epochs=sum(len(trial.epochs) for trial in trials),
        best=best.objective if best else None,
        device_seconds=sum(trial.seconds for trial in trials),
        remark="; ".join(filter(None, [flat, *_remarks(study, config, ledger)])),
        **count,
    )
