"""The searches that are compared: ours, what others recommend, and Ray's own."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinscale.bench.search.replay import Job, Method, Task
from clinscale.bench.search.table import EPOCHS, Table
from clinscale.sweep import (
    Budget,
    Epoch,
    Halving,
    Ledger,
    Prior,
    Proposer,
    Resume,
    Search,
    SearchSpace,
    Start,
    goes_on,
    next_move,
)
from clinscale.sweep import Trial as SweepTrial

TOP_K = ((16, 2), (32, 3), (64, 5))
"""Sizes of one-epoch-then-top-K; the cheapest of them for each task is the baseline."""
_WARM_POINTS = 3
_EARLY = 0.04
"""Share of a training after which the top-2 rule looks."""
_TOP_2_OF = (25, 50, 100)
"""Sizes of its lots; the cheapest of them for each task is the baseline."""


class Ours:
    """clinscale's own ledger, policy and proposer."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        warm: tuple[Mapping[str, Any], ...] = (),
        trials: int | None = None,
        halving: Halving | None = None,
        epochs: int = EPOCHS,
    ) -> None:
        self._epochs = epochs
        self._ledger, self._halving, self._budget = Ledger(), halving or Halving(), Budget(trials=trials)
        places = (*self._halving.stops(epochs), epochs)
        self._proposer = Proposer(space, seed=seed, first=space.first_trials, warm=warm, places=places)
        self._jobs: dict[int, Job] = {}

    def next(self) -> Job | None:
        """See Method."""
        trials = self._ledger.of_study(0)
        move = next_move([Search(trials, self._epochs)], self._budget, self._halving)
        if isinstance(move, Resume):
            self._ledger.resume(move.trial)
            return self._jobs[move.trial.number]
        if not isinstance(move, Start):
            return None
        return Job(len(trials), self._proposer.propose(trials).params)

    def began(self, job: Job) -> None:
        """See Method."""
        self._ledger.start(SweepTrial(0, job.key, job.params, "sampler", 0))
        self._jobs[job.key] = job

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        trial = self._ledger.trial(0, job.key)
        if math.isnan(value):
            self._ledger.end(trial, "failed", "not_a_number")
            return False
        trial = self._ledger.report(trial, Epoch(job.done, value, seconds))
        if job.ended:
            self._ledger.end(trial, "complete")
        elif not goes_on(trial, self._ledger.of_study(0), self._halving, self._epochs):
            self._ledger.end(trial, "paused")
            return False
        return True


class Listed:
    """Points one after the other, each trained to its end: random, QMC, grid."""

    def __init__(self, points: Iterator[Mapping[str, Any]]) -> None:
        self._points, self._number = points, itertools.count()

    def next(self) -> Job | None:
        """See Method."""
        point = next(self._points, None)
        return None if point is None else Job(next(self._number), point)

    def began(self, job: Job) -> None:
        """See Method; a list learns nothing."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        return True


class Rounds:
    """Random settings in lots: all of a lot are trained to a first epoch, the best of them to a second, and so on."""

    def __init__(self, points: Iterator[Mapping[str, Any]], rounds: Sequence[tuple[int, int]]) -> None:
        """Rounds are pairs of the number of settings and the epoch to which they are trained."""
        self._points, self._rounds = points, rounds
        self._round, self._running = 0, 0
        self._waiting, self._judged = self._lot(), list[tuple[float, Job]]()

    def next(self) -> Job | None:
        """See Method."""
        if not self._waiting and not self._running:
            self._judged.sort(key=lambda one: -one[0])
            self._round = (self._round + 1) % len(self._rounds)
            kept = [job for _, job in self._judged[: self._rounds[self._round][0]]]
            self._waiting = [job for job in kept if not job.ended] if self._round else []
            if not self._waiting:  # the lot is done, or all of it diverged
                self._round, self._waiting = 0, self._lot()
            self._judged = []
        if not self._waiting:
            return None
        self._running += 1
        return self._waiting.pop(0)

    def began(self, job: Job) -> None:
        """See Method; random points learn nothing."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        if not math.isnan(value) and not job.ended and job.done < self._rounds[self._round][1]:
            return True
        self._running -= 1
        if not math.isnan(value):
            self._judged.append((value, job))
        return False

    def _lot(self) -> list[Job]:
        return [Job(object(), point) for point in itertools.islice(self._points, self._rounds[0][0])]


class OneEpochTopK(Rounds):
    """Random settings for one epoch each, the best K of them to their end; then the next lot."""

    def __init__(self, space: SearchSpace, seed: int, size: int, top: int) -> None:
        super().__init__(_random_points(space, seed), ((size, 1), (top, EPOCHS)))


@dataclass(frozen=True)
class _Named:
    """All that Tune's scheduler asks of a trial."""

    trial_id: str


class StockRay:
    """Ray's own ASHAScheduler and OptunaSearch with their defaults."""

    def __init__(self, space: SearchSpace, seed: int, epochs: int = EPOCHS) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._distributions = {key: dimension.distribution() for key, dimension in space.parameters.items()}
        self._search = OptunaSearch(
            dict(self._distributions),
            metric="objective",
            mode="max",
            seed=seed,
            points_to_evaluate=[dict(point) for point in space.first_trials] or None,
        )
        self._asha = ASHAScheduler(time_attr="training_iteration", metric="objective", mode="max", max_t=epochs)
        self._number = itertools.count()

    def next(self) -> Job | None:
        """See Method."""
        named = _Named(f"trial-{next(self._number)}")
        self._asha.on_trial_add(None, named)
        return Job(named, self._search.suggest(named.trial_id) or {})

    def began(self, job: Job) -> None:
        """See Method."""
        trial = self._search._ot_trials[job.key.trial_id]
        for key, distribution in self._distributions.items():
            value = distribution.to_internal_repr(job.params[key])
            trial.storage.set_trial_param(trial._trial_id, key, value, distribution)

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        if math.isnan(value):
            self._asha.on_trial_error(None, job.key)
            self._search.on_trial_complete(job.key.trial_id, error=True)
            return False
        result = {"objective": value, "training_iteration": job.done}
        on = self._asha.on_trial_result(None, job.key, result) == self._asha.CONTINUE and not job.ended
        if on:
            self._search.on_trial_result(job.key.trial_id, result)
        else:
            self._asha.on_trial_complete(None, job.key, result)
            self._search.on_trial_complete(job.key.trial_id, result)
        return on


def _random_points(space: SearchSpace, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    while True:
        yield {key: dimension.at(rng.random()) for key, dimension in space.parameters.items()}


def _grid_points(space: SearchSpace, seed: int) -> Iterator[dict[str, Any]]:
    """The paper's examples and ClinicalBERT's authors vary rate and batch: five rates by all batches, shuffled.

    A value that a grid does not vary is that of the first trial.
    """
    rates = [space.parameters["optimizer.learning_rate"].at((place + 0.5) / 5) for place in range(5)]
    batches = space.parameters["batch_size"].grid() or []
    points = [
        {**space.first_trials[0], "optimizer.learning_rate": rate, "batch_size": batch}
        for rate in rates
        for batch in batches
    ]
    random.Random(seed).shuffle(points)
    return iter(points)


def methods_of(table: Table, task: str, seed: int) -> dict[str, Callable[[], Method]]:
    """Constructors of every search, by name, for one task and one seed."""
    space = table.space
    others = [Task(table, other).best(_WARM_POINTS) for other in table.curves if other != task]
    # the best of each other task, then the second of each, as `recipe.warm_start` takes them
    warm = tuple(table.params[index] for places in zip(*others, strict=True) for index in places)[:_WARM_POINTS]
    return {
        "ours": lambda: Ours(space, seed, trials=len(table.params)),
        "warm": lambda: Ours(space, seed, trials=len(table.params), warm=warm),
        "random": lambda: Listed(_random_points(space, seed)),
        "qmc": lambda: Listed(iter(space.quasi_random(4 * len(table.params), seed))),
        "grid": lambda: Listed(_grid_points(space, seed)),
        "stock_asha": lambda: StockRay(space, seed),
        **{
            f"one_epoch_top_{top}_of_{size}": lambda size=size, top=top: OneEpochTopK(space, seed, size, top)  # type: ignore[misc]
            for size, top in TOP_K
        },
    }


def curve_methods_of(
    table: Table, epochs: int, seed: int, warm: tuple[Mapping[str, Any], ...]
) -> dict[str, Callable[[], Method]]:
    """Constructors of the searches that are compared on public tables, by name.

    Args:
        table: of one task.
        epochs: looks of a whole training there.
        seed: of every search.
        warm: the best settings of its siblings; with none, there is no warm search.
    """
    space, count = table.space, len(table.params)
    early = max(1, math.ceil(_EARLY * epochs))
    found: dict[str, Callable[[], Method]] = {
        "random": lambda: Listed(_random_points(space, seed)),
        "qmc": lambda: Listed(iter(space.quasi_random(count, seed))),
        "stock_asha": lambda: StockRay(space, seed, epochs),
        "sync_halving": lambda: Rounds(_random_points(space, seed), _halvings(epochs)),
        **{
            f"top_2_of_{size}": lambda size=size: Rounds(_random_points(space, seed), ((size, early), (2, epochs)))  # type: ignore[misc]
            for size in _TOP_2_OF
        },
        "ours": lambda: Ours(space, seed, epochs=epochs),
    }
    if warm:
        found["warm"] = lambda: Ours(space, seed, epochs=epochs, warm=warm)
    [(_, ends)] = table.ends.items()
    ranked = sorted(range(count), key=lambda index: (-ends[index], index))
    for name, index in (("good_prior", ranked[min(2, count - 1)]), ("wrong_prior", ranked[-1])):
        told = _with_priors(space, table.params[index])
        found[name] = lambda told=told: Ours(told, seed, epochs=epochs)  # type: ignore[misc]
    return found


def _with_priors(space: SearchSpace, center: Mapping[str, Any]) -> SearchSpace:
    """The space with a prior around one setting."""
    told = {
        key: dimension.model_copy(update={"prior": Prior(center=center[key])})
        for key, dimension in space.parameters.items()
    }
    return space.model_copy(update={"parameters": told})


def _halvings(epochs: int) -> list[tuple[int, int]]:
    """Rounds of synchronous halving with Halving's own first rung and factor."""
    usual = Halving()
    ends = [*usual.rungs(epochs), epochs]
    return [(usual.reduction_factor ** (len(ends) - place), end) for place, end in enumerate(ends, 1)]
