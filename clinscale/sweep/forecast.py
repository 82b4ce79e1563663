"""Forecast of a sweep's work and cost: the dry run, and the check that a budget holds one trial."""

import statistics
from collections.abc import Callable, Mapping, Sequence
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
from clinscale.tasks import TaskConfig, read_task

_SUGGESTIONS = 10
_FINALISTS = 3
"""Trials of a study that are confirmed under more seeds: winner, runner-up and the first one."""


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
    measured_over_planned: float | None = None
    """Factor by which the probe of the first setting corrects what is planned for all; None where nothing is planned,
    and every setting counts as the first."""

    def expected(self) -> dict[str, Any]:
        """The row of expected times, as JSON and tables show it."""
        correction = self.measured_over_planned
        return {
            "study": self.name,
            "device-seconds per epoch": round(self.device_seconds_per_epoch, 2),
            "epochs of a trial": round(self.epochs, 2),
            "of at most": self.max_epochs,
            **({} if correction is None else {"measured over planned": round(correction, 3)}),
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


Costs = Callable[[Study, Sequence[Mapping[str, Any]]], Sequence[float] | None]
"""Planned device-seconds of an epoch at each of some points of a study; None where they cannot be planned."""


@dataclass(frozen=True)
class Work:
    """All that a sweep will do, in trials and hours."""

    trials: int
    device_hours: float
    """Confirmations under more seeds included."""
    hours: float
    usd: float | None
    """None where no price of a device-hour is given."""


def forecast(
    config: SweepConfig, inputs: SweepInputs, *, cluster: Cluster, planned: Costs | None = None
) -> Forecast:
    """The work of a sweep: spaces, first suggestions, expected times, the gate's limits, hours and money.

    Needs a `ray_session` or a `fork_session`; each study trains a few steps of its first setting for some seconds on
    the resources of one trial. With `planned`, hours are those of the mean of the first settings: as planned, times
    what the probe of the first one takes over its plan.

    Raises:
        ConfigError: the budget does not hold one trial.
        DataError, OutOfMemoryError: what a trial would meet too.
    """
    settings = config.runtime
    searches = tuple(_study(config, study, planned) for study in inputs.studies)
    at_once = settings.max_concurrent_trials or cluster.slots(
        cpus=settings.cpus_per_trial * settings.workers_per_trial,
        gpus=settings.gpus_per_trial * settings.workers_per_trial,
    )
    epochs = [study.space.epochs for study in inputs.studies]
    work = expected_work(config, epochs, [one.device_seconds_per_epoch for one in searches], at_once=at_once)
    return Forecast(
        name=config.name,
        studies=searches,
        gate=config.gate,
        failures={name: str(error) for name, error in inputs.failures.items()},
        trials_at_once=at_once,
        trials=work.trials,
        device_hours=work.device_hours,
        hours=work.hours,
        usd=work.usd,
    )


def expected_work(config: SweepConfig, epochs: Sequence[int], epoch_s: Sequence[float], *, at_once: int) -> Work:
    """The work of a sweep whose studies' epochs take so many device-seconds.

    Args:
        config: of the sweep.
        epochs: of a trial that goes to its end, by study.
        epoch_s: device-seconds of an epoch, by study.
        at_once: trials at a time.
    """
    recipe, budget = config.recipe, config.recipe.budget
    num_studies = len(epochs)
    mean_trial_s = (
        sum(s * expected_epochs(most, recipe.halving) for s, most in zip(epoch_s, epochs, strict=True))
        / num_studies
    )
    again = (recipe.confirm_seeds - 1) * _FINALISTS
    confirm_s = sum(again * s * most for s, most in zip(epoch_s, epochs, strict=True))
    trials = budget.trials_of(num_studies)
    if budget.device_seconds is not None:
        affordable = max(0, int((budget.device_seconds - confirm_s) // mean_trial_s))
        trials = affordable if trials is None else min(trials, affordable)
    assert trials is not None
    device_hours = (trials * mean_trial_s + confirm_s) / 3600
    return Work(
        trials=trials,
        device_hours=device_hours,
        hours=device_hours / config.runtime.devices_per_trial / at_once,
        usd=None if budget.usd_per_device_hour is None else device_hours * budget.usd_per_device_hour,
    )


def require_one_trial(config: SweepConfig, inputs: SweepInputs, *, on_study: Callable[[str], None]) -> None:
    """ConfigError when a budget of hours or money does not hold one whole trial of some study."""
    if config.recipe.budget.device_seconds is None:
        return
    for study in inputs.studies:
        on_study(study.name)
        _refuse_too_little(config, study, device_seconds_per_epoch(config, study))


def _refuse_too_little(config: SweepConfig, study: Study, epoch_s: float) -> None:
    """ConfigError where the budget does not hold a trial whose epochs take so many device-seconds."""
    limit_s, whole_s = config.recipe.budget.device_seconds, epoch_s * study.space.epochs
    if limit_s is not None and whole_s > limit_s:
        raise ConfigError(
            f"sweep {config.name}: the budget of {limit_s / 3600:.3g} device-hours is below one trial of "
            f"{study.name}, which needs about {whole_s / 3600:.3g}; raise recipe.budget, or lower epochs or "
            "max_tokens"
        )


def device_seconds_per_epoch(config: SweepConfig, study: Study) -> float:
    """Measured on a few steps of the first setting, with the resources of one trial."""
    settings = config.runtime
    recipe = study.recipe(study.proposer(config.recipe).propose([]).params, config.recipe.seed)
    # of one worker: a group computes the same number of windows, and its start is no part of an epoch
    device = None if settings.gpus_per_trial else "cpu"
    alone = settings.finetune.model_copy(update={"num_workers": 1, "device": device})
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
    # how much of an epoch some steps are is not known before one is made: those looks are left out, at the safe side
    looks = [look.value for look in halving.looks if look.unit == "epochs"]
    share, before, total = 1.0, 0.0, 0.0
    for rung in (*looks, *halving.rungs(epochs), epochs):
        total += share * (rung - before)
        share, before = share / halving.reduction_factor, rung
    return total


def _probe(recipe: FinetuneRecipe, task: TaskConfig, data: str, runtime: FinetuneRuntime, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    return seconds_per_epoch(recipe, read_task(task, data), runtime=runtime)


def suggestions(config: SweepConfig, study: Study) -> list[Trial]:
    """The first settings that the sampler proposes before it knows any score."""
    proposer, trials = study.proposer(config.recipe), list[Trial]()
    for number in range(_SUGGESTIONS):
        limit = proposer.num_points()
        if limit is not None and number >= limit:
            break
        proposal = proposer.propose(trials)
        trials.append(Trial(0, number, proposal.params, proposal.origin, 0, system_attrs=proposal.system_attrs))
    return trials


def _study(config: SweepConfig, study: Study, planned: Costs | None) -> SearchForecast:
    trials = suggestions(config, study)
    epoch_s, correction = device_seconds_per_epoch(config, study), None
    _refuse_too_little(config, study, epoch_s)
    if planned and (costs := planned(study, [trial.params for trial in trials])):
        correction = epoch_s / costs[0]
        epoch_s = correction * statistics.fmean(costs)
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
        measured_over_planned=correction,
    )
