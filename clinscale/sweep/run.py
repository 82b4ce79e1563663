"""The driver side of a sweep: Tuner, winner, test score, registered version."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale import models, predict, registry
from clinscale.config import fingerprint, merge
from clinscale.errors import ClusterError, own_cause
from clinscale.finetune import OUTCOMES_FILE, FinetuneRecipe, FinetuneRuntime, judge, task_tags
from clinscale.registry import Tag
from clinscale.runfolder import claim_run_folder
from clinscale.runtime import Cluster, ray_logs
from clinscale.storage import read_json, write_json
from clinscale.sweep.choose import Keep, Promote, Trial, choose_winner, decide
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.record import SweepProgress, TrialRuns
from clinscale.sweep.space import SearchSpace, load_space
from clinscale.sweep.trial import MODEL, OBJECTIVE, TrialTask, run_trial, trial_folder
from clinscale.tasks import TaskData, load_task, read_task

WINNER_FILE = "winner.json"


@dataclass(frozen=True)
class SweepResult:
    """A sweep's winner, judged on the test split and registered."""

    name: str
    task: str
    kind: str
    family: str
    metric: str
    value: float
    """On the test split."""
    trivial: float
    """Of the trivial baseline on the test split."""
    test: dict[str, float]
    interval: tuple[float, float]
    """95 % of `value`, by bootstrap over documents."""
    max_tokens: int
    """Window that the winner reads."""
    trials: int
    recipe: FinetuneRecipe
    """The winner's own fine-tuning recipe."""
    version: registry.ModelVersion
    decision: Promote | Keep
    folder: Path
    """HF folder of the winner."""


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep reads before anything is started."""

    data: TaskData
    space: SearchSpace
    bases: tuple[registry.FetchedModel, ...]


def read_inputs(config: SweepConfig, *, tracking: registry.Tracking, home: str | Path) -> SweepInputs:
    """Space, base models and task data of a sweep; finds every mistake in them without starting Ray.

    Raises:
        ConfigError: unknown task, or the space is wrong. DataError: data are missing, or a folder is no HF model.
        RegistryError: a model is not in the registry.
    """
    task = load_task(config.recipe.task, config.recipe.task_changes)
    space = load_space(config.recipe.space or [task.name, task.kind])
    if config.recipe.max_tokens:
        space = SearchSpace.parse(
            merge(space.plain(), {"fixed": {"max_tokens": config.recipe.max_tokens}}), source="recipe.max_tokens"
        )
    bases = tuple(registry.fetch_model(tracking, model, home=home) for model in config.recipe.models)
    for base in bases:
        if Path(base.path).is_dir():
            models.check_hf_folder(base.path)
    return SweepInputs(read_task(task, config.recipe.data), space, bases)


def sweep(
    config: SweepConfig,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    cluster: Cluster,
    inputs: SweepInputs | None = None,
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Search, choose by the development split, judge the winner once on the test split, register it.

    Needs a `ray_session`. The same name with the same recipe resumes, or returns what is finished already.
    `inputs` are read unless given.

    Raises:
        ConfigError: the name stands for another recipe. ClusterError: no trial finished. Else as `read_inputs`.
    """
    inputs = inputs or read_inputs(config, tracking=tracking, home=home)
    data = inputs.data
    recipe = config.recipe.plain() | {
        "task": data.task.plain(),
        "data": data.fingerprint,
        "models": [base.label for base in inputs.bases],
        "space": inputs.space.plain(),
    }
    folder = claim_run_folder(home, "sweep", config.name, recipe)
    run = registry.resume_or_start_run(
        tracking,
        experiment="clinscale-sweep",
        name=config.name,
        kind="sweep",
        recipe=fingerprint(recipe),
        tags=task_tags(data),
        params={**recipe, **config.runtime.plain()},
    )
    with run:
        if not (folder / WINNER_FILE).exists():
            winner = _search(config, inputs, folder, tracking, run, cluster, on_progress)
            judged = judge(trial_folder(folder, winner["id"]), data, attention=config.runtime.attention)
            run.log_json(OUTCOMES_FILE, judged.outcomes.plain())
            run.log(judged.as_metrics(data.task.name, winner["dev"]))
            run.set_tags({Tag.MAX_TOKENS: str(judged.max_tokens)})
            write_json(folder / WINNER_FILE, {**winner, **judged.plain()})
        return _register(config, inputs, folder, tracking, run, fingerprint(recipe))


def _search(
    config: SweepConfig,
    inputs: SweepInputs,
    folder: Path,
    tracking: registry.Tracking,
    run: registry.Run,
    cluster: Cluster,
    on_progress: Callable[[SweepProgress], None] | None,
) -> dict[str, Any]:
    """Run all trials; the winner's id, value, parameters and base, and the number of trials."""
    import optuna
    from ray.tune import TuneError

    settings = config.runtime
    spec = TrialTask(
        task=inputs.data.task,
        data=str(Path(config.recipe.data).absolute()),
        models=tuple(base.path for base in inputs.bases),
        space=inputs.space,
        seed=config.recipe.seed,
        folder=folder,
        num_threads=max(1, int(settings.cpus_per_trial)),
        runtime=FinetuneRuntime(
            attention=settings.attention, activation_checkpointing=settings.activation_checkpointing
        ),
    )

    def describe(sampled: dict[str, Any]) -> dict[str, Any]:
        return {**inputs.space.fixed, **sampled, MODEL: inputs.bases[int(sampled.get(MODEL, 0))].label}

    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # its tracebacks may quote data; errors are told below
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = TrialRuns(tracking, run, describe=describe, on_progress=on_progress)
    try:
        results = _tuner(config, spec, runs, cluster).fit()
    except TuneError as error:
        raise ClusterError(f"sweep {config.name}: Ray Tune gave up; run the same command to resume it") from error
    finally:
        runs.close_open_runs()
    trials = [
        Trial(id=result.metrics["trial_id"], value=result.metrics[OBJECTIVE], params=result.config)
        for result in results
        if result.metrics and OBJECTIVE in result.metrics
    ]
    if not trials and results.errors:
        first = results.errors[0]
        # errors that are not ours are told by type only: their text may quote data
        raise own_cause(first) or ClusterError(
            f"sweep {config.name}: all trials failed ({type(first).__name__}); {ray_logs()}"
        )
    winner = choose_winner(config.name, trials)
    run.set_tags({Tag.TRIALS: str(len(results)), Tag.WINNER_RUN: runs.run_id(winner.id)})
    return {
        "id": winner.id,
        "dev": winner.value,
        "recipe": spec.recipe(winner.params).plain(),
        "base": int(winner.params.get(MODEL, 0)),
        "trials": len(results),
    }


def _tuner(config: SweepConfig, spec: TrialTask, runs: TrialRuns, cluster: Cluster) -> Any:
    """A new Tuner, or the one that an earlier start of this sweep left behind."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours to handle: runs must be closed
    recipe, settings = config.recipe, config.runtime
    resources = {
        "CPU": settings.cpus_per_trial,
        **({"GPU": settings.gpus_per_trial} if settings.gpus_per_trial else {}),
    }
    trainable = tune.with_resources(tune.with_parameters(run_trial, spec=spec), resources)
    earlier = spec.folder / "tune"
    if any(earlier.glob("experiment_state-*.json")):  # without one, no trial of the earlier start is worth keeping
        return tune.Tuner.restore(str(earlier), trainable, resume_unfinished=True, resume_errored=True)
    shutil.rmtree(earlier, ignore_errors=True)
    slots = cluster.slots(cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial)
    distributions, points = spec.space.distributions(), [dict(point) for point in spec.space.first_trials]
    if len(spec.models) > 1:
        from optuna.distributions import CategoricalDistribution

        distributions[MODEL] = CategoricalDistribution(tuple(range(len(spec.models))))
        points = [{**point, MODEL: index} for point in points for index in range(len(spec.models))]
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="max",
            num_samples=recipe.num_trials,
            max_concurrent_trials=min(settings.max_concurrent_trials or slots, slots),
            search_alg=OptunaSearch(
                distributions,
                metric=OBJECTIVE,
                mode="max",
                seed=recipe.seed,
                study_name=config.name,
                points_to_evaluate=points[: recipe.num_trials] or None,
            ),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                grace_period=recipe.grace_epochs,
                reduction_factor=recipe.reduction_factor,
                max_t=10_000,
            ),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(spec.folder),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[runs],
            verbose=0,
        ),
    )


def _register(
    config: SweepConfig,
    inputs: SweepInputs,
    folder: Path,
    tracking: registry.Tracking,
    run: registry.Run,
    recipe: str,
) -> SweepResult:
    """The winner as a version of the task's model; champion when it is better than the present one."""
    winner = read_json(folder / WINNER_FILE)
    data, metric = inputs.data, winner["metric"]
    value, trivial = winner["test"][metric], winner["trivial"][metric]
    hf_folder = trial_folder(folder, winner["id"])
    family = models.family_of(models.check_hf_folder(hf_folder)["model_type"])
    name = config.register_as or data.task.name
    champion = registry.find_version(tracking, f"{name}@champion")
    version = registry.register(
        tracking,
        run.id,
        hf_folder,
        name=name,
        tags={
            **task_tags(data),
            Tag.KIND: "task",
            Tag.NAME: config.name,
            Tag.FAMILY: family,
            Tag.VALUE: repr(value),
            Tag.TRIVIAL: repr(trivial),
            Tag.TRIALS: str(winner["trials"]),
            Tag.MAX_TOKENS: str(winner["max_tokens"]),
            Tag.BASE: inputs.bases[winner["base"]].label,
            Tag.RECIPE: recipe,
        },
        pyfunc_code=predict.PYFUNC_CODE,
        pip_requirements=predict.pip_requirements(),
    )
    decision: Promote | Keep
    if champion and champion.digest == version.digest:
        decision = Keep("this version is the champion already")
    else:
        decision = decide(metric, value, data.fingerprint, _judged(champion))
    if isinstance(decision, Promote):
        version = registry.promote(tracking, version)
    return SweepResult(
        name=config.name,
        task=data.task.name,
        kind=data.task.kind,
        family=family,
        metric=metric,
        value=value,
        trivial=trivial,
        test=winner["test"],
        interval=(winner["interval"]["low"], winner["interval"]["high"]),
        max_tokens=winner["max_tokens"],
        trials=winner["trials"],
        recipe=FinetuneRecipe.parse(winner["recipe"], source=str(folder / WINNER_FILE)),
        version=version,
        decision=decision,
        folder=hf_folder,
    )


def _judged(champion: registry.ModelVersion | None) -> dict[str, Any] | None:
    if champion is None or Tag.VALUE not in champion.tags:
        return None
    tags = champion.tags
    return {"metric": tags.get(Tag.METRIC), "value": tags[Tag.VALUE], "data": tags.get(Tag.DATA)}
