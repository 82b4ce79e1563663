"""The searches that are compared: ours, what others recommend, and Ray's own."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clinscale.bench.search.replay import Job, Method, Task
from clinscale.bench.search.table import EPOCHS, Table
from clinscale.sweep import (
    Budget,
    Epoch,
    Halving,
    Ledger,
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
    ) -> None:
        self._ledger, self._halving, self._budget = Ledger(), halving or Halving(), Budget(trials=trials)
        self._proposer = Proposer(space, seed=seed, first=space.first_trials, warm=warm)
        self._jobs: dict[int, Job] = {}

    def next(self) -> Job | None:
        """See Method."""
        trials = self._ledger.of_study(0)
        move = next_move([Search(trials, EPOCHS)], self._budget, self._halving)
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
        trial = self._ledger.report(self._ledger.trial(0, job.key), Epoch(job.done, value, seconds))
        if job.done == EPOCHS:
            self._ledger.end(trial, "complete")
        elif not goes_on(trial, self._ledger.of_study(0), self._halving, EPOCHS):
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


class OneEpochTopK:
    """Random settings for one epoch each, the best K of them to their end; then the next lot."""

    def __init__(self, space: SearchSpace, seed: int, size: int, top: int) -> None:
        self._points, self._size, self._top = _random_points(space, seed), size, top
        self._judged: list[tuple[float, Job]] = []
        self._chosen: list[Job] = []
        self._started, self._running = 0, 0

    def next(self) -> Job | None:
        """See Method."""
        if self._started == self._size and not self._running and not self._chosen:
            self._judged.sort(key=lambda one: -one[0])
            self._chosen = [job for _, job in self._judged[: self._top]]
            self._judged, self._started = [], 0
        if self._chosen:
            self._running += 1
            return self._chosen.pop(0)
        if self._started == self._size or (self._started == 0 and self._running):
            return None
        self._started += 1
        self._running += 1
        return Job(object(), next(self._points))

    def began(self, job: Job) -> None:
        """See Method; random points learn nothing."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        if job.done == 1:
            self._judged.append((value, job))
        on = 1 < job.done < EPOCHS
        self._running -= not on
        return on


@dataclass(frozen=True)
class _Named:
    """All that Tune's scheduler asks of a trial."""

    trial_id: str


class StockRay:
    """Ray's own ASHAScheduler and OptunaSearch with their defaults."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._distributions = {key: dimension.distribution() for key, dimension in space.parameters.items()}
        self._search = OptunaSearch(
            dict(self._distributions),
            metric="objective",
            mode="max",
            seed=seed,
            points_to_evaluate=[dict(point) for point in space.first_trials],
        )
        self._asha = ASHAScheduler(time_attr="training_iteration", metric="objective", mode="max", max_t=EPOCHS)
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
        result = {"objective": value, "training_iteration": job.done}
        on = job.done < EPOCHS
        on = self._asha.on_trial_result(None, job.key, result) == self._asha.CONTINUE and on
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
