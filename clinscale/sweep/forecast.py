"""Forecast of a sweep's work and cost: the dry run, and the check that a budget holds one trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe, FinetuneRuntime, seconds_per_epoch
from clinscale.promotion import GateRules
from clinscale.runtime import Cluster, run_once
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.inputs import Study, SweepInputs
from clinscale.sweep.ledger import Trial
from clinscale.sweep.policy import Halving
from clinscale.sweep.space import MODEL
from clinscale.tasks import TaskConfig, read_task

_SUGGESTIONS = 10


@dataclass(frozen=True)
class SearchForecast:
    """Forecast of the search of one study."""

    name: str
    space: tuple[Mapping[str, Any], ...]
    """One row for each hyperparameter that is searched; all rows have the same keys."""
    fixed: Mapping[str, Any]
    suggestions: tuple[Mapping[str, Any], ...]
    """The first settings that the sampler proposes: `trial`, `from` and the searched hyperparameters."""
    device_seconds_per_epoch: float
    epochs: float
    """Epochs of a trial on average."""
    max_epochs: int
    """Epochs of a trial that no rung stops."""

    def expected(self) -> dict[str, Any]:
        """The row of probed times, as JSON and tables show it."""
        return {
            "study": self.name,
            "device-seconds per epoch": round(self.device_seconds_per_epoch, 2),
            "epochs of a trial": round(self.epochs, 2),
            "of at most": self.max_epochs,
        }


@dataclass(frozen=True)
class Forecast:
    """The work of a sweep before it is started, and what it costs."""

    name: str
    studies: tuple[SearchForecast, ...]
    gate: GateRules
    """Limits that a winner must keep to become champion."""
    failures: Mapping[str, str]
    """Reason by study that cannot be started."""
    trials_at_once: int
    trials: int
    device_hours: float
    hours: float
    usd: float | None
    """None where no price of a device-hour is given."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "studies": [
                {"name": one.name, "space": one.space, "fixed": one.fixed, "suggestions": one.suggestions}
                for one in self.studies
            ],
            "expected": [one.expected() for one in self.studies],
            "gate": self.gate.plain(),
            "failures": self.failures,
            "trials_at_once": self.trials_at_once,
            "trials": self.trials,
            "device_hours": self.device_hours,
            "hours": self.hours,
            "usd": self.usd,
        }


def forecast(config: SweepConfig, inputs: SweepInputs, *, cluster: Cluster) -> Forecast:
    """The work of a sweep: spaces, first suggestions, probed times, the gate's limits, hours and money.

    Needs a `ray_session` or a `fork_session`; each study trains a few steps for some seconds on the resources of one
    trial.

    Raises:
        DataError, OutOfMemoryError: what a trial would meet too.
    """
    settings, budget = config.runtime, config.recipe.budget
    epoch_s = [device_seconds_per_epoch(config, study) for study in inputs.studies]
    mean_trial_s = sum(
        seconds * expected_epochs(study.space.epochs, config.recipe.halving)
        for seconds, study in zip(epoch_s, inputs.studies, strict=True)
    ) / len(inputs.studies)
    trials = budget.trials_of(len(inputs.studies))
    if budget.device_seconds is not None:
        affordable = int(budget.device_seconds // mean_trial_s)
        trials = affordable if trials is None else min(trials, affordable)
    assert trials is not None
    at_once = settings.max_concurrent_trials or cluster.slots(
        cpus=settings.cpus_per_trial * settings.workers_per_trial,
        gpus=settings.gpus_per_trial * settings.workers_per_trial,
    )
    device_hours = trials * mean_trial_s / 3600
    return Forecast(
        name=config.name,
        studies=tuple(
            _study(config, study, seconds) for seconds, study in zip(epoch_s, inputs.studies, strict=True)
        ),
        gate=config.gate,
        failures={name: str(error) for name, error in inputs.failures.items()},
        trials_at_once=at_once,
        trials=trials,
        device_hours=device_hours,
        hours=device_hours / settings.devices_per_trial / at_once,
        usd=None if budget.usd_per_device_hour is None else device_hours * budget.usd_per_device_hour,
    )


def require_one_trial(config: SweepConfig, inputs: SweepInputs, *, on_study: Callable[[str], None]) -> None:
    """ConfigError when a budget of hours or money does not hold one whole trial of some study."""
    limit_s = config.recipe.budget.device_seconds
    if limit_s is None:
        return
    for study in inputs.studies:
        on_study(study.name)
        whole_s = device_seconds_per_epoch(config, study) * study.space.epochs
        if whole_s > limit_s:
            raise ConfigError(
                f"sweep {config.name}: the budget of {limit_s / 3600:.3g} device-hours is below one trial of "
                f"{study.name}, which needs about {whole_s / 3600:.3g}; raise recipe.budget, or lower epochs or "
                "max_tokens"
            )


def device_seconds_per_epoch(config: SweepConfig, study: Study) -> float:
    """Measured on a few steps of the first setting, with the resources of one trial."""
    settings = config.runtime
    point = dict(study.proposer(config.recipe).propose([]).params)
    base = study.bases[int(point.pop(MODEL, 0))]
    recipe = study.space.recipe(base.path, point, config.recipe.seed)
    # of one worker: a group computes the same number of windows, and its start is no part of an epoch
    alone = settings.finetune.model_copy(update={"num_workers": 1})
    found: float = run_once(
        f"study {study.name}: the steps that were to be timed",
        _probe,
        recipe,
        study.data.task,
        str(Path(study.config.data).absolute()),
        alone,
        settings.threads_per_trial,
        cpus=settings.cpus_per_trial,
        gpus=settings.gpus_per_trial,
    )
    return found * (settings.gpus_per_trial or settings.cpus_per_trial)


def expected_epochs(epochs: int, halving: Halving) -> float:
    """Epochs of a trial on average, where one in `reduction_factor` goes on at each rung."""
    if halving.scheduler not in ("asha", "hyperband"):
        return float(epochs)
    rungs = [*halving.rungs(epochs), epochs]
    share, before, total = 1.0, 0, 0.0
    for rung in rungs:
        total += share * (rung - before)
        share, before = share / halving.reduction_factor, rung
    return total


def _probe(recipe: FinetuneRecipe, task: TaskConfig, data: str, runtime: FinetuneRuntime, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    return seconds_per_epoch(recipe, read_task(task, data), runtime=runtime)


def _study(config: SweepConfig, study: Study, epoch_s: float) -> SearchForecast:
    proposer, trials = study.proposer(config.recipe), list[Trial]()
    for number in range(_SUGGESTIONS):
        limit = proposer.num_points()
        if limit is not None and number >= limit:
            break
        proposal = proposer.propose(trials)
        trials.append(Trial(0, number, proposal.params, proposal.origin, 0, system_attrs=proposal.system_attrs))
    searched = [
        {"key": key, **{k: v for k, v in dimension.plain().items() if v not in (None, False, {})}}
        for key, dimension in study.space.parameters.items()
    ]
    columns = dict.fromkeys(column for row in searched for column in row)
    return SearchForecast(
        name=study.name,
        space=tuple({column: row.get(column, "") for column in columns} for row in searched),
        fixed=study.space.fixed,
        suggestions=tuple(
            {
                "trial": trial.number,
                "from": trial.origin,
                **{
                    key: value
                    for key, value in study.describe(trial.params).items()
                    if key in study.space.parameters
                },
            }
            for trial in trials
        ),
        device_seconds_per_epoch=epoch_s,
        epochs=expected_epochs(study.space.epochs, config.recipe.halving),
        max_epochs=study.space.epochs,
    )
