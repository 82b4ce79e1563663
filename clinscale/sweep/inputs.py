"""Inputs that a sweep reads before anything starts, so that every mistake is found before a GPU is requested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from clinscale import models, registry
from clinscale.config import merge
from clinscale.errors import ConfigError, DataError
from clinscale.finetune import FinetuneRecipe, Looks, look_part, task_inputs
from clinscale.runfolder import check_plain_name
from clinscale.sweep.config import StudyConfig, SweepConfig, SweepRecipe
from clinscale.sweep.foreseen import Base, check_settings
from clinscale.sweep.sampler import Proposer
from clinscale.sweep.space import MODEL, SearchSpace, load_space
from clinscale.sweep.trial import TrialSpec
from clinscale.sweep.warm import read_warm_points, warm_file, warm_points
from clinscale.tasks import KINDS, TaskConfig, TaskData, check_use, kind_of, load_task, read_task
from clinscale.tokenizers import load_tokenizer

NOT_READ = "not read"
"""Value in the recipe of a sweep in place of a study whose data or model was missing."""


@dataclass(frozen=True)
class Study:
    """A study with all that it reads before anything starts."""

    index: int
    """Number of the study, by which the ledger knows it."""
    config: StudyConfig
    data: TaskData
    space: SearchSpace
    """The space, with the base model as a dimension if there are several."""
    bases: tuple[registry.FetchedModel, ...]
    warm: tuple[Mapping[str, Any], ...]
    """Points of earlier studies."""

    @property
    def name(self) -> str:
        """Name of its MLflow run and its folder."""
        return self.config.name

    @property
    def searched(self) -> list[str]:
        """Recipe fields that are searched: what another study must search too to start warm from this one."""
        return [key for key in self.space.parameters if key != MODEL]

    def trial_spec(self, config: SweepConfig, folder: Path) -> TrialSpec:
        """The message to each of its trials, whose folders are in `folder`."""
        return TrialSpec(
            task=self.data.task,
            data=str(Path(self.config.data).absolute()),
            fingerprint=self.data.fingerprint,
            models=tuple(base.path for base in self.bases),
            space=self.space,
            folder=folder,
            runtime=config.runtime,
            pauses=tuple(config.recipe.halving.pauses(self.space.epochs)),
            looks=self._looks(config.recipe),
            average=config.recipe.soup is not None,
        )

    def _looks(self, recipe: SweepRecipe) -> Looks | None:
        """The looks inside the first epoch, and the part of the development split that judges them in every trial."""
        at = recipe.halving.looks
        if not at:
            return None
        trained = at[0].value  # the shortest training between two looks is the first, of the smallest batch
        batches = self.space.parameters.get("batch_size")
        if at[0].unit == "steps":
            sizes = batches.examples() if batches else [self.space.recipe("-", {}).batch_size]
            trained *= min(map(int, sizes))  # of choices that are texts, "16" is less than "8"
        else:
            trained *= len(self.data.splits["train"])
        return Looks(at, look_part(self.data, trained_examples=int(trained)))

    def proposer(self, recipe: SweepRecipe) -> Proposer:
        """The proposer of its points; ConfigError for a grid over a range without end."""
        made = Proposer(
            self.space,
            sampler=recipe.sampler,
            seed=recipe.seed,
            objectives=recipe.objectives,
            first=self.space.first_trials,
            warm=self.warm,
            places=(*recipe.halving.stops(self.space.epochs), self.space.epochs),
        )
        made.num_points()
        return made

    def recipe(self, point: Mapping[str, Any], seed: int) -> FinetuneRecipe:
        """The fine-tuning that a point means, of the base model that it chooses."""
        values = dict(point)
        base = self.bases[int(values.pop(MODEL, 0))]
        return self.space.recipe(base.path, values, seed)

    def log_to(self, run: registry.Run, sampled: Mapping[str, Any] | None = None) -> None:
        """Name the data and the base models (of a trial: its own) among the inputs of an MLflow run."""
        bases = self.bases if sampled is None else [self.bases[int(sampled.get(MODEL, 0))]]
        run.log_inputs([task_inputs(self.data)], [base.model_id for base in bases])

    def describe(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """A point as MLflow shows it: all that the space says, and the base model by its label."""
        return {**self.space.fixed, **sampled, MODEL: self.bases[int(sampled.get(MODEL, 0))].label}


@dataclass(frozen=True)
class SweepInputs:
    """Inputs that a sweep reads before anything starts."""

    studies: tuple[Study, ...]
    failures: Mapping[str, DataError]
    """Errors of studies whose data or model is missing, by study. The others run."""

    def in_order(self, begun: Mapping[str, Sequence[str]]) -> Self:
        """The same studies, numbered as in `begun`, which their sweep was begun with, and their parameters as there.

        The ledger knows studies by number, and the points of a grid and of Sobol sequences go by the parameters' order.
        """
        names = list(begun)
        studies = sorted(self.studies, key=lambda study: names.index(study.name))
        return replace(
            self,
            studies=tuple(
                replace(study, index=at, space=study.space.in_order(begun[study.name]))
                for at, study in enumerate(studies)
            ),
        )


def read_inputs(
    config: SweepConfig, *, tracking: registry.Tracking, home: str | Path, loads_weights: bool = True
) -> SweepInputs:
    """Spaces, base models and task data of a sweep; finds every mistake in them without starting Ray.

    Without `loads_weights`, which a plan does without, a base whose weights are damaged passes.

    Raises:
        ConfigError: unknown task, or a space is wrong. RegistryError: a model is not in the registry.
        DataError: data are missing, or a folder is no HF model, in every study.
    """
    studies, failures = list[Study](), {}
    for study in config.recipe.studies:
        try:
            studies.append(_read_study(len(studies), study, config, tracking, home, loads_weights))
        except DataError as error:
            failures[study.name] = error
    if not studies:
        raise next(iter(failures.values()))
    return SweepInputs(tuple(studies), failures)


def registered_name(study: StudyConfig, task: TaskConfig) -> str:
    """The registered model that the study's winner becomes a version of."""
    return study.register_as or task.name


def study_recipe(config: SweepConfig, study: Study) -> dict[str, Any]:
    """All that changes a study's numbers, as its MLflow run shows it."""
    return {
        **_shared(config),
        "task": study.data.task.plain(),
        "data": study.data.fingerprint,
        "models": [base.label for base in study.bases],
        "space": study.space.plain(),
        "warm": [dict(point) for point in study.warm],
    }


def sweep_recipe(config: SweepConfig, inputs: SweepInputs) -> dict[str, Any]:
    """All that changes the sweep's numbers; a study that could not be read is there by its name."""
    by_study: dict[str, Any] = {name: NOT_READ for name in inputs.failures}
    shared = _shared(config)
    for study in inputs.studies:
        # what a warm start finds in MLflow may be more by the time of a resume; a file records what it was
        left_out = {"warm", *shared}
        by_study[study.name] = {
            key: value for key, value in study_recipe(config, study).items() if key not in left_out
        }
    return {**shared, "studies": by_study}


def _shared(config: SweepConfig) -> dict[str, Any]:
    """The settings of all studies; without what is not set, so that a newer setting leaves older sweeps as they are."""
    values = config.recipe.plain()
    return {key: value for key, value in values.items() if key != "studies" and value is not None}


def _check_grace(name: str, recipe: SweepRecipe, epochs: int) -> None:
    """ConfigError for a first rung that no trial of so many epochs comes to."""
    if recipe.grace is not None and recipe.grace.unit == "epochs" and recipe.grace.value >= epochs:
        raise ConfigError(
            f"study {name}: recipe.grace must be below the {epochs} epochs of a trial, got {recipe.grace}; lower it, "
            "or set recipe.scheduler=none to train all trials to their end"
        )


def _read_study(
    index: int,
    study: StudyConfig,
    config: SweepConfig,
    tracking: registry.Tracking,
    home: str | Path,
    loads_weights: bool,
) -> Study:
    task = load_task(study.task, study.task_changes)
    check_plain_name(
        f"study {study.name}: the registered model of its winner",
        registered_name(study, task),
        advice="give another with --register-as, or register_as of the study, or rename the task",
    )
    registry.check_kind(tracking, registered_name(study, task), "task")
    # a task of another kind that is called `tokens` has no space of its own
    own = [task.name, task.kind] if task.name not in KINDS else [task.kind]
    space = load_space(study.space or own)
    if study.fixed:
        space = space.with_fixed(study.fixed, source=f"study {study.name}")
    if study.max_tokens:
        space = SearchSpace.parse(
            merge(space.plain(), {"fixed": {"max_tokens": study.max_tokens}}), source=f"max_tokens of {study.name}"
        )
    _check_grace(study.name, config.recipe, space.epochs)
    bases = tuple(registry.fetch_model(tracking, model, home=home) for model in study.models)
    _check_apart(study, bases)
    known = [_loaded(base, task) for base in bases] if loads_weights else []
    recipe = config.recipe
    begun = warm_file(Path(home) / "sweep" / config.name, study.name)
    if begun.is_file():  # MLflow may hold more by now, and the sweep would go on otherwise than it began
        warm = read_warm_points(begun)
    else:
        warm = warm_points(
            tracking, recipe.warm_start, task=task, space=space, count=recipe.warm_points, own=study.name
        )
        if len(bases) > 1:
            warm = tuple({MODEL: index, **point} for point in warm for index in range(len(bases)))
    data = read_task(task, study.data)
    check_use(data)
    check_settings(study.name, space, known, data, config.runtime)
    made = Study(index, study, data, space.with_models(len(bases)), bases, warm)
    made.proposer(recipe)  # a grid over a range without end proposes nothing
    return made


def _check_apart(study: StudyConfig, bases: Sequence[registry.FetchedModel]) -> None:
    """ConfigError when two of a study's models are the same files: the search would take them for two."""
    known: dict[str, str] = {}
    for name, base in zip(study.models, bases, strict=True):
        files = base.digest or base.path
        if files in known:
            raise ConfigError(
                f"study {study.name}: models must differ, but {known[files]} and {name} are the same files; leave out "
                "one of them"
            )
        known[files] = name


def _loaded(base: registry.FetchedModel, task: TaskConfig) -> Base:
    """The base, once it has loaded as in each trial: no GPU is asked for to find out that it does not."""
    model = models.load_hf(base.path, head=kind_of(task).head)
    models.check_padding(model.config, load_tokenizer(base.path))
    return Base(base.path, base.label, models.max_tokens_of(model.config))
