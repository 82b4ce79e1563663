"""The next point of a study: by a surrogate of extrapolated ends, or from Optuna's samplers.

Optuna is asked about a study that is made from the ledger each time. It states facts: a paused or stopped trial is
PRUNED with the score of each epoch, a running one is RUNNING (so that TPE's constant liar keeps others away), one that
was too large or diverged is infeasible. Nothing lives longer than the question, and all randomness is a function of
(seed, number of the trial): there is no state to restore, and no zombie trial that keeps the search away from where
nothing runs.
"""

import contextlib
import itertools
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from clinscale.errors import ConfigError
from clinscale.sweep.curves import End, extrapolate
from clinscale.sweep.ledger import Trial
from clinscale.sweep.space import SearchSpace
from clinscale.units import Duration

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Sampler = Literal["surrogate", "tpe", "gp", "cmaes", "nsga2", "qmc", "random", "grid"]
Objective = Literal["score", "latency", "cost"]

DIRECTIONS: dict[Objective, str] = {"score": "maximize", "latency": "minimize", "cost": "minimize"}
"""`score` on the development split, `latency` in seconds per document there, `cost` in device-seconds of the trial."""

_STARTUP = 8
"""Trials before TPE, GP or CMA-ES is believed; those that the user or an earlier sweep gave count, the others are Sobol
points, which leave no corner out as random ones do."""
_QUASI_RANDOM = 8
"""One point in this many is quasi-random whatever the model says."""
_MOST_POINTS = 100_000
"""Most points of a grid: all of them are in memory."""
_IMPOSSIBLE = End(-math.inf, 0.0)
_LEARNING = ("surrogate", "tpe", "gp", "cmaes")


@dataclass(frozen=True)
class Proposal:
    """The next trial's point."""

    params: Mapping[str, Any]
    origin: str
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposer:
    """All that decides a study's points."""

    space: SearchSpace
    sampler: Sampler = "surrogate"
    seed: int = 0
    objectives: tuple[Objective, ...] = ("score",)
    first: tuple[Mapping[str, Any], ...] = ()
    """Published settings, tried first."""
    warm: tuple[Mapping[str, Any], ...] = ()
    """The best points of earlier sweeps, tried before those."""
    places: tuple[Any, ...] = ()
    """Rungs of a trial in their order, its end last, from which `surrogate` extrapolates; empty: scores as they are."""

    def __post_init__(self) -> None:
        if self.space.has_priors and (self.sampler != "surrogate" or len(self.objectives) > 1):
            raise ConfigError(
                "search space: priors are heard by recipe.sampler=surrogate with one objective, got "
                f"{self.sampler} and {', '.join(self.objectives)}; drop the priors, or take that sampler"
            )

    def propose(self, trials: Sequence[Trial]) -> Proposal:
        """The point of the trial after `trials`, which are all searched trials of the study."""
        given, number = self._given(), len(trials)
        if number < len(given):
            return given[number]
        place = number - len(given)
        if self.sampler == "grid":
            return Proposal(self._grid()[place], "sampler")
        if self.sampler == "qmc" or (self.sampler in _LEARNING and number < _STARTUP):
            return Proposal(self._startup_point(place), "sampler")
        if self.sampler != "surrogate" or len(self.objectives) > 1:
            return self._ask(trials)
        with threadpool_limits(1, user_api="blas"):  # more would wait for each other, on the cores of the trials
            return self._modelled(trials)

    def _startup_point(self, place: int) -> dict[str, Any]:
        """A Sobol point; with priors, in turns one that follows them."""
        if not self.space.has_priors:
            return self.space.quasi_random(place + 1, self.seed)[place]
        # two sequences, as every second point of one would leave half of the space out
        turn, follows = divmod(place, 2)
        return self.space.quasi_random(turn + 1, self.seed + follows, by_prior=not follows)[turn]

    def num_points(self) -> int | None:
        """Number of points of a grid."""
        return len(self._grid()) + len(self._given()) if self.sampler == "grid" else None

    def _given(self) -> list[Proposal]:
        """Points that are tried before the sampler is asked, each once."""
        given = [
            *(Proposal(point, "warm") for point in self.warm),
            *(Proposal(point, "first") for point in self.first),
        ]
        unique = {tuple(sorted(proposal.params.items())): proposal for proposal in reversed(given)}
        return list(unique.values())[::-1]

    def _modelled(self, trials: Sequence[Trial]) -> Proposal:
        """The point that the model of extrapolated ends promises most of."""
        from clinscale.sweep.surrogate import next_point  # SciPy's: what only reads a config starts without it

        known = extrapolate(trials, self.places).now
        rng = np.random.default_rng(random.Random(f"{self.seed}/{len(trials)}").getrandbits(63))
        place = len(trials) - len(self._given())
        ends = [_IMPOSSIBLE if infeasible(trial) else known.get(trial.number) for trial in trials]
        by_chance = place % _QUASI_RANDOM == _QUASI_RANDOM - 1  # what the model cannot see is found so
        if by_chance or sum(end not in (None, _IMPOSSIBLE) for end in ends) < 2:
            return Proposal(self.space.quasi_random(place + 1, self.seed)[place], "sampler")
        return Proposal(next_point(self.space, [trial.params for trial in trials], ends, rng), "sampler")

    def _ask(self, trials: Sequence[Trial]) -> Proposal:
        study = study_of(trials, self.space, self.objectives, sampler=self._optuna_sampler(len(trials)))
        with quiet_optuna():
            asked = study.ask()
            params = self.space.suggest(asked)
        left = study.get_trials(deepcopy=False)[-1].system_attrs
        return Proposal(params, "sampler", {key: value for key, value in left.items() if key.startswith("cma")})

    def _optuna_sampler(self, number: int) -> "BaseSampler":
        from optuna import samplers

        seed = random.Random(f"{self.seed}/{number}").getrandbits(31)
        if self.sampler in ("tpe", "surrogate"):
            return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, constant_liar=True)
        if self.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP, deterministic_objective=False)
        if self.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False)
        if self.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _grid(self) -> list[dict[str, Any]]:
        counts = {key: dimension.count() for key, dimension in self.space.parameters.items()}
        endless = next((key for key, count in counts.items() if count is None), None)
        if endless:
            raise ConfigError(
                f"search space: {endless} has no end of values, so no grid holds them; give it a step or choices, or "
                "use another recipe.sampler"
            )
        if (number := math.prod(count or 1 for count in counts.values())) > _MOST_POINTS:
            raise ConfigError(
                f"search space: a grid must have at most {_MOST_POINTS:,} points, got {number:,}; give the parameters "
                "larger steps or choices, or use another recipe.sampler"
            )
        choices = {key: dimension.grid() for key, dimension in self.space.parameters.items()}
        points = [
            self.space.active(dict(zip(choices, point, strict=True)))
            for point in itertools.product(*(values or () for values in choices.values()))
        ]
        unique = list({tuple(point.items()): point for point in points}.values())
        random.Random(self.seed).shuffle(unique)  # a budget that ends early has seen all corners
        return unique


def study_of(
    trials: Sequence[Trial],
    space: SearchSpace,
    objectives: Sequence[Objective] = ("score",),
    *,
    sampler: "BaseSampler | None" = None,
    name: str | None = None,
) -> "Study":
    """The searched trials as an Optuna study in memory: for samplers, plots and other readers of Optuna."""
    import optuna

    with quiet_optuna():
        study = optuna.create_study(
            study_name=name, directions=[DIRECTIONS[objective] for objective in objectives], sampler=sampler
        )
        searched = [trial for trial in trials if trial.searched]
        looks = sorted({look.at for trial in searched for look in trial.looked}, key=lambda at: at.value)
        study.add_trials([_frozen(trial, space, objectives, looks) for trial in searched])
    return study


def values_of(trial: Trial, objectives: Sequence[Objective]) -> list[float] | None:
    """The trial's objectives; None before its first epoch."""
    if trial.objective is None:
        return None
    last = trial.epochs[-1]
    known = {"score": trial.objective, "latency": last.metrics.get("perf/latency_s", 0.0), "cost": trial.seconds}
    return [known[objective] for objective in objectives]


def infeasible(trial: Trial) -> bool:
    """Whether its setting is one that cannot be trained, which a sampler is to stay away from."""
    return trial.state == "failed" and trial.reason in ("not_a_number", "out_of_memory", "over_time")


def _by_rung(trial: Trial, looks: Sequence[Duration]) -> dict[int, float]:
    """Best scores by epoch; those of the study's looks, which are compared among themselves, below 1."""
    first = 1 - len(looks)
    seen = {first + looks.index(look.at): look.objective for look in trial.looked if look.objective is not None}
    return seen | {epoch.epoch: epoch.objective for epoch in trial.epochs}


def _frozen(
    trial: Trial, space: SearchSpace, objectives: Sequence[Objective], looks: Sequence[Duration]
) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    values = values_of(trial, objectives)
    state = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "paused": TrialState.PRUNED,
        "running": TrialState.RUNNING,
        "lost": TrialState.RUNNING,
        "failed": TrialState.FAIL,
    }[trial.state]
    impossible = infeasible(trial)
    if impossible:  # samplers look at no FAILED trial, and would walk into the same wall again
        state = TrialState.PRUNED
    single = len(objectives) == 1
    known = state in (TrialState.COMPLETE, TrialState.PRUNED) and (single or not impossible)
    return create_trial(
        state=state,
        values=values if known else None,
        params=dict(trial.params),
        distributions=space.distributions(trial.params),
        user_attrs={
            "number": trial.number,
            "state": trial.state,
            "reason": trial.reason,
            "origin": trial.origin,
            "epochs": trial.epoch,
            "device_seconds": trial.seconds,
        },
        system_attrs=dict(trial.system_attrs),
        intermediate_values=_by_rung(trial, looks) if single else {},
        constraints={str(trial.reason): 1.0} if impossible else None,
    )


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Leave out Optuna's remarks on experimental features and independent sampling."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
