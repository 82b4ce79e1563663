"""Definition of a sweep: one or many studies under one budget."""

from typing import Any, Literal

from pydantic import Field

from clinscale.config import Config, Seed, check_last_seed
from clinscale.engine import MemoryConfig
from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe, FinetuneRuntime
from clinscale.models import AttentionConfig
from clinscale.promotion import GateRules
from clinscale.runfolder import check_plain_name
from clinscale.runtime import check_gpus
from clinscale.sweep.policy import Halving, Scheduler
from clinscale.sweep.sampler import Objective, Sampler
from clinscale.units import Duration

KeepTrials = Literal["winner", "finalists", "all"]
"""The trials of a finished study that keep their weights."""

_MOST_BYTES = 200
"""Longest name of a study, which is a folder and the beginning of its trials' names."""


class StudyConfig(Config):
    """One task asked of one base model, or of several that are searched too: what Optuna calls a study."""

    name: str
    """Name of its MLflow run and its folder; unique within the sweep."""

    task: str
    """Name in `clinscale tasks`, or a YAML file of your own task."""

    data: str
    """Folder of the task's files; the sweep records the fingerprint of what it read, not the place."""

    task_changes: dict[str, Any] = Field(default_factory=dict)
    """Laid over the task: `unit: line`."""

    models: tuple[str, ...] = Field(min_length=1)
    """Folders, registry names or hub names of base models; with more than one, the model is searched too."""

    max_tokens: int | None = None
    """Window of every trial; None is what the space says, else all that the model reads. 512: the short baseline."""

    space: str | None = None
    """YAML file of the search space; None takes `search_spaces/` by task, then by kind."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields (dotted) that have one value in every trial, whatever the space says, as
    `long_documents: head_tail`."""

    arm: str | None = None
    """Model's name in the league table: a base model and how it reads; None is the study's name."""

    league: str | None = None
    """League table that it is a cell of; None is that of its sweep."""

    seen_tests: bool = False
    """Whether a base model may have seen the task's test documents in its pretraining, which is recorded."""

    register_as: str | None = None
    """Registered model that the winner becomes a version of; None is the task's name."""

    def check(self) -> None:
        """The names can be a folder and a registered model, the window can hold text."""
        # studies with blanks in their names have run well
        if not self.name.isprintable() or "/" in self.name or self.name.startswith(".") or not self.name.strip():
            raise ConfigError(
                f"study name {self.name!r} must be a plain file name; letters, digits and - are usual"
            )
        if len(self.name.encode()) > _MOST_BYTES:
            raise ConfigError(f"study name {self.name!r} must be at most {_MOST_BYTES} bytes long; shorten it")
        if len(set(self.models)) < len(self.models):
            raise ConfigError(
                f"study {self.name}: models must name each base once, got {len(set(self.models))} different of "
                f"{len(self.models)}; leave the repeated ones out"
            )
        if self.register_as is not None:
            check_plain_name(f"study {self.name}: register_as", self.register_as)
        if self.max_tokens is not None and self.max_tokens < 8:
            raise ConfigError(
                f"study {self.name}: max_tokens must be at least 8, got {self.max_tokens}; 512 is usual for short "
                "windows"
            )
        if self.space is not None and not self.space.strip():  # as of a shell variable that is not set
            raise ConfigError(
                f"study {self.name}: space must name a YAML file, got {self.space!r}; leave it out to search that of "
                "search_spaces/"
            )
        if self.max_tokens is not None and "max_tokens" in self.fixed:
            raise ConfigError(
                f"study {self.name}: max_tokens is given twice, as {self.max_tokens} and, in fixed, as "
                f"{self.fixed['max_tokens']}; leave out one of the two"
            )


class BudgetConfig(Config):
    """Limits of all studies together; the first limit that is reached ends the search."""

    trials: int | None = None
    """Hyperparameter settings tried in all; None without another limit is 16 for each study."""

    device_hours: float | None = None
    """Hours of all GPUs, or of all CPUs where trials have no GPU."""

    usd: float | None = None
    """Money, at `usd_per_device_hour`."""

    usd_per_device_hour: float | None = None
    """Price of one GPU (or CPU) for an hour."""

    def check(self) -> None:
        """Limits are positive, and money has a price."""
        if self.trials is not None and self.trials < 1:
            raise ConfigError(
                f"recipe.budget.trials must be at least 1, got {self.trials}; a sweep needs one trial"
            )
        for name in ("device_hours", "usd", "usd_per_device_hour"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(
                    f"recipe.budget.{name} must be above 0, got {value:g}; leave it out for no limit"
                )
        if self.usd is not None and self.usd_per_device_hour is None:
            raise ConfigError(
                f"recipe.budget.usd={self.usd:g} needs a price; add recipe.budget.usd_per_device_hour=..."
            )

    def trials_of(self, studies: int) -> int | None:
        """The limit in trials; None where only time or money limits."""
        if self.trials is None and self.device_hours is None and self.usd is None:
            return 16 * studies
        return self.trials

    @property
    def device_seconds(self) -> float | None:
        """The tighter one of hours and money."""
        limits = [self.device_hours] if self.device_hours is not None else []
        if self.usd is not None and self.usd_per_device_hour is not None:
            limits.append(self.usd / self.usd_per_device_hour)
        return min(limits) * 3600 if limits else None


class SweepRecipe(Config):
    """All that changes the numbers."""

    studies: tuple[StudyConfig, ...] = Field(min_length=1)
    """The studies that are searched; the budget moves to where the expected gain is largest."""

    budget: BudgetConfig = BudgetConfig()
    """Limits of all studies together."""

    sampler: Sampler = "surrogate"
    """`surrogate`: a Gaussian process of extrapolated ends (with several objectives, TPE); Optuna's TPE, GP, CMA-ES or
    NSGA-II; `qmc` (Sobol), `random`, `grid`."""

    scheduler: Scheduler = "asha"
    """The rule by which trials end early: `asha` and `hyperband` pause them at rungs and promote the best, `median`
    stops what is below the median, `none` trains all to their end."""

    grace_epochs: int = 2
    """No trial ends before this many epochs: after the first one, entities often still score nothing."""

    grace: Duration | None = None
    """The first rung inside the first epoch, in place of `grace_epochs`: `0.1epochs`, or `200steps`.

    Rungs up to half an epoch are looks: a fixed part of the development split judges them, so small that judging costs
    about 5 % of the training between two looks. Later rungs are whole epochs, judged on all of the split.
    """

    reduction_factor: int = 3
    """One trial in this many goes on at each rung."""

    stop_when_gain_below: float | None = None
    """Points of the metric (hundredths) per device-hour: a study whose next trial is expected to bring less begins no
    more of them, and what is left of the budget goes to the other studies. None is no limit."""

    objectives: tuple[Objective, ...] = ("score",)
    """Objectives of the search; more than one (`latency`, `cost`) is a search for a Pareto front.

    The winner is best by the first.
    """

    warm_start: tuple[str, ...] = ()
    """Names of earlier studies in MLflow whose best settings are tried first; `auto` finds those of the same task, then
    of the same kind. Their spaces must hold the same parameters."""

    warm_points: int = 3
    """Settings taken from earlier studies."""

    confirm_seeds: int = 1
    """Number of seeds in the final comparison.

    With 3, the winner, the runner-up and the first trial are trained under two more seeds each before one is
    chosen, which guards against a lucky seed.
    """

    soup: Literal["offer", "take"] | None = None
    """Averages of weights: a greedy soup of the best trials of the winner's base, and the winner's last epochs.

    They are judged on the development split. `offer` names them beside the winner; `take` ships the best one where it
    is better than the winner there, which its card says. The test split is judged once, on what is shipped.
    """

    seed: Seed = 0
    """Seed of the samplers and of every trial."""

    def check(self) -> None:
        """The parts fit together."""
        names = [study.name for study in self.studies]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two studies are called {twice[0]}; give each a name of its own")
        cells: dict[tuple[str | None, str, str], str] = {}
        for study in self.studies:
            first = cells.setdefault((study.league, study.arm or study.name, study.task), study.name)
            if first != study.name:
                raise ConfigError(
                    f"studies {first} and {study.name} are one cell of the league table: {study.arm or study.name} on "
                    f"{study.task}; give each an arm of its own"
                )
        if self.budget.trials is not None and self.budget.trials < len(self.studies):
            raise ConfigError(
                f"recipe.budget.trials must be at least one for each of {len(self.studies)} studies, got "
                f"{self.budget.trials}, with which some would have no winner; raise it"
            )
        if self.grace_epochs < 1 or self.reduction_factor < 2 or self.confirm_seeds < 1 or self.warm_points < 1:
            raise ConfigError(
                "a sweep needs grace_epochs, confirm_seeds and warm_points >= 1 and reduction_factor >= 2, got "
                f"{self.grace_epochs}, {self.confirm_seeds}, {self.warm_points} and {self.reduction_factor}; leave out "
                "those below for the usual ones"
            )
        check_last_seed(self.seed, self.confirm_seeds, of="recipe.confirm_seeds")
        self._check_grace()
        if (
            not self.objectives
            or self.objectives[0] != "score"
            or len(set(self.objectives)) < len(self.objectives)
        ):
            raise ConfigError(
                f"recipe.objectives must begin with score and name each objective once, got {list(self.objectives)}; "
                "correct the list"
            )
        if self.stop_when_gain_below is not None and self.stop_when_gain_below <= 0:
            raise ConfigError(
                f"recipe.stop_when_gain_below must be above 0, got {self.stop_when_gain_below:g}; leave it out to "
                "spend the whole budget"
            )
        if len(self.objectives) > 1:
            if self.stop_when_gain_below is not None:
                raise ConfigError(
                    f"recipe.stop_when_gain_below={self.stop_when_gain_below:g} knows the gain of one objective, got "
                    f"{list(self.objectives)}; leave one of the two out"
                )
            if self.scheduler != "none":
                raise ConfigError(
                    "recipe.scheduler must be none with several objectives, as none ranks trials by them, got "
                    f"{self.scheduler}; set recipe.scheduler=none"
                )
            if self.sampler == "cmaes":
                raise ConfigError("recipe.sampler=cmaes knows one objective; use tpe, gp or nsga2 for several")

    def _check_grace(self) -> None:
        """The first rung is one that the scheduler can judge at."""
        if self.grace is None:
            return
        usual = type(self).model_fields["grace_epochs"].default
        if self.grace_epochs != usual:
            raise ConfigError(
                f"recipe.grace={self.grace} must stand alone, got grace_epochs={self.grace_epochs} beside it; leave "
                "out one of the two"
            )
        if self.grace.unit == "tokens" or (self.grace.unit == "steps" and self.grace.value < 1):
            raise ConfigError(
                f"recipe.grace must be a share of an epoch or at least one step, got {self.grace}; write 0.1epochs or "
                "200steps"
            )
        if self.scheduler == "none" or (self.scheduler == "hyperband" and self.grace.unit == "steps"):
            raise ConfigError(
                f"recipe.grace={self.grace} says where trials are first judged, which recipe.scheduler="
                f"{self.scheduler} {'never does' if self.scheduler == 'none' else 'needs in epochs'}; "
                f"{'leave it out' if self.scheduler == 'none' else 'write 0.1epochs'}, or use recipe.scheduler=asha"
            )

    @property
    def halving(self) -> Halving:
        """The rule by which trials end early."""
        return Halving(self.scheduler, self.grace_epochs, self.reduction_factor, self.grace)


class SweepRuntime(MemoryConfig, AttentionConfig):
    """All that changes only speed, place or cost."""

    cpus_per_trial: float = 1
    """CPUs that Ray sets aside for each trial (each worker of it), and threads that it computes with."""

    gpus_per_trial: float = 0
    """GPUs for each trial (each worker of it); a fraction shares one, and 0 trains on CPUs though there are GPUs."""

    workers_per_trial: int = 1
    """Workers of each trial; several are a Ray Train group under `zero`, for models that one GPU does not hold."""

    max_concurrent_trials: int | None = None
    """Trials at once at most; None is all that the cluster has room for."""

    max_failures: int = 3
    """Restarts of one trial whose process or node died; it goes on from its last epoch."""

    stall_timeout_s: float = Field(default=1800, gt=0)
    """A trial that has done no step for so long counts as hanging: its process is killed, and it goes on from its last
    epoch. Trials of several workers have a group, which waits as long for one of them."""

    disk_quota_gb: float | None = None
    """Limit of all checkpoints and weights together; over it, those of the weakest trials go first.

    None is no limit.
    """

    keep_trials: KeepTrials = "finalists"
    """The trials whose weights stay when a study is finished and its winner registered: `winner` alone, `finalists`
    (winner, runner-up and first trial, under all their seeds), or `all`."""

    def check(self) -> None:
        """Shares are positive."""
        if (
            self.cpus_per_trial <= 0
            or self.gpus_per_trial < 0
            or self.workers_per_trial < 1
            or self.max_failures < 0
        ):
            raise ConfigError(
                "a sweep needs cpus_per_trial > 0, gpus_per_trial >= 0, workers_per_trial >= 1, max_failures >= 0, "
                f"got {self.cpus_per_trial:g}, {self.gpus_per_trial:g}, {self.workers_per_trial} and "
                f"{self.max_failures}; leave out those below for the usual ones"
            )
        check_gpus("runtime.gpus_per_trial", self.gpus_per_trial)
        if (self.max_concurrent_trials is not None and self.max_concurrent_trials < 1) or (
            self.disk_quota_gb is not None and self.disk_quota_gb <= 0
        ):
            raise ConfigError(
                f"runtime.max_concurrent_trials and disk_quota_gb must be above 0, got {self.max_concurrent_trials} "
                f"and {self.disk_quota_gb}; null is no limit"
            )

    @property
    def devices_per_trial(self) -> float:
        """GPUs of a trial, or CPUs where it has none: what device-hours count."""
        return self.workers_per_trial * (self.gpus_per_trial or self.cpus_per_trial)

    @property
    def threads_per_trial(self) -> int:
        """Threads that each trial computes with."""
        return max(1, int(self.cpus_per_trial))

    def check_recipe(self, recipe: FinetuneRecipe) -> None:
        """ConfigError where no trial on these devices could train by `recipe`."""
        if recipe.precision == "fp16" and not self.gpus_per_trial:
            raise ConfigError(
                "precision=fp16 needs a GPU, and runtime.gpus_per_trial is 0: a CPU computes fp16 hundreds of times "
                "slower than bf16; use precision bf16, or runtime.gpus_per_trial=1"
            )
        if self.workers_per_trial > 1:
            recipe.optimizer.check_stage(self.zero.stage)

    @property
    def finetune(self) -> FinetuneRuntime:
        """Runtime settings of each trial."""
        alone_on_cpu = self.workers_per_trial == 1 and not self.gpus_per_trial
        return FinetuneRuntime(
            device="cpu" if alone_on_cpu else None,  # Ray hides no GPU from a process that asked for none
            attention=self.attention,
            activation_checkpointing=self.activation_checkpointing,
            num_workers=self.workers_per_trial,
            cpus_per_worker=self.cpus_per_trial,
            gpus_per_worker=self.gpus_per_trial,
            zero=self.zero,
        )


class SweepConfig(Config):
    """One sweep under one name."""

    name: str
    """Sweep name; the same name resumes."""

    recipe: SweepRecipe
    """Changes the numbers."""

    runtime: SweepRuntime = SweepRuntime()
    """Changes speed, place or cost."""

    gate: GateRules = GateRules()
    """Limits that a winner must keep to become champion, as `clinscale models promote` takes them. They change no
    number, so another start of the sweep may change them."""

    def check(self) -> None:
        """The name can be a folder."""
        check_plain_name("sweep name", self.name)
