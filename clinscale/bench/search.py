"""Searches replayed on a table of real fine-tunings: what each costs until it has found a setting within 1 % of the best.

Every method runs on simulated workers that finish in the order in which the table's seconds say, so that asynchronous
decisions see what they would have seen. A proposed point is answered by the recorded configuration nearest to it. The cost
counts all workers' seconds, the sampler's own measured time and the start of each trial.
"""

import heapq
import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clinscale.bench.search_table import EPOCHS, Table
from clinscale.sweep import Halving, Ledger, Proposer, SearchSpace, Spend, StudyState, goes_on, next_move
from clinscale.sweep import Trial as SweepTrial
from clinscale.sweep.ledger import Epoch, best_of
from clinscale.sweep.policy import Resume, Start

WORKERS = 4
START_S = 0.25
"""Of each trial, for every method alike: what a reused process costs here. Tune's default costs four times as much."""
REGRET = 0.01
_CAP_TRIALS = 120
"""A search that has spent as much as this many whole trials has failed."""
_TOP_K = ((16, 2), (32, 3), (64, 5))
"""Sizes of one-epoch-then-top-K; the best of them for each table is the baseline."""


@dataclass
class Job:
    """Work on one trial from one epoch on."""

    key: Any
    params: Mapping[str, Any]
    done: int = 0
    """Epochs that are trained already."""


class Method(Protocol):
    """A search, asked by a simulator of workers."""

    def next(self) -> Job | None:
        """What a free worker does; None while it has to wait."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """An epoch of `job` has ended with the trial's best score so far; whether it trains on."""

    def incumbent(self) -> Mapping[str, Any] | None:
        """The setting that the search would return now."""


class Task:
    """One task of the table."""

    def __init__(self, table: Table, name: str) -> None:
        self.space, self._table, self._curves = table.space, table, table.curves[name]
        self.full = np.array([max(curve.value) for curve in self._curves])
        best, usual = float(self.full.max()), float(np.median(self.full))
        self.regret = (best - self.full) / (best - usual)
        self.whole_s = statistics.fmean(sum(curve.seconds) for curve in self._curves)
        self._shares = np.array([self._share(params) for params in table.params])

    def nearest(self, params: Mapping[str, Any]) -> int:
        """The recorded configuration that stands for `params`."""
        return int(np.argmin(((self._shares - self._share(params)) ** 2).sum(axis=1)))

    def epoch(self, index: int, epoch: int) -> tuple[float, float]:
        """Best score within the first `epoch` epochs, and the seconds of that epoch."""
        curve = self._curves[index]
        return max(curve.value[:epoch]), curve.seconds[epoch - 1]

    def _share(self, params: Mapping[str, Any]) -> np.ndarray:
        """A point of the unit cube; different choices are further apart than any two values of a range."""
        row: list[float] = []
        for key, dimension in self.space.parameters.items():
            if dimension.type == "categorical":
                row += [10.0 * (params[key] == choice) for choice in dimension.choices]
            else:
                row.append(dimension.share(params[key]))
        return np.array(row)


def replay(task: Task, method: Method) -> tuple[float, bool]:
    """Device-seconds until the incumbent is good enough, and whether it ever was."""
    cap_s = _CAP_TRIALS * task.whole_s
    order = itertools.count()
    busy: list[tuple[float, int, Job, int, float, float]] = []
    now_s, idle = 0.0, WORKERS
    while True:
        while idle:
            asked_s = time.perf_counter()
            job = method.next()
            thought_s = time.perf_counter() - asked_s
            if job is None:
                break
            idle -= 1
            _begin(task, busy, order, job, now_s + START_S + thought_s)
        if not busy:
            return now_s * WORKERS, False
        now_s, _, job, index, value, seconds = heapq.heappop(busy)
        if now_s * WORKERS > cap_s:
            return cap_s, False
        job.done += 1
        thinks_s = time.perf_counter()
        on = method.report(job, value, seconds)
        thinks_s = time.perf_counter() - thinks_s
        found = method.incumbent()
        if found is not None and task.regret[task.nearest(found)] <= REGRET:
            return now_s * WORKERS, True
        if on and job.done < EPOCHS:
            _begin(task, busy, order, job, now_s + thinks_s)
        else:
            idle += 1


def _begin(task: Task, busy: list[Any], order: Any, job: Job, at_s: float) -> None:
    index = task.nearest(job.params)
    value, seconds = task.epoch(index, job.done + 1)
    heapq.heappush(busy, (at_s + seconds, next(order), job, index, value, seconds))


class Ours:
    """clinscale's own ledger, policy and proposer."""

    def __init__(self, space: SearchSpace, seed: int, *, halving: Halving | None = None, **options: Any) -> None:
        self._ledger, self._halving = Ledger(), halving or Halving()
        self._proposer = Proposer(space, seed=seed, first=space.first_trials, **options)

    def next(self) -> Job | None:
        """See Method."""
        trials = self._ledger.of_study(0)
        move = next_move([StudyState(trials, EPOCHS)], Spend(), self._halving)
        if isinstance(move, Resume):
            trial = self._ledger.resume(move.trial)
            return Job(trial.number, trial.params, trial.epoch)
        if not isinstance(move, Start):
            return None
        proposal = self._proposer.propose(trials)
        trial = self._ledger.start(
            SweepTrial(0, len(trials), proposal.params, proposal.origin, 0, system_attrs=proposal.system_attrs)
        )
        return Job(trial.number, trial.params)

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        trial = self._ledger.report(self._ledger.trial(0, job.key), Epoch(job.done, value, seconds))
        if job.done == EPOCHS:
            self._ledger.end(trial, "complete")
        elif not goes_on(trial, self._ledger.of_study(0), self._halving, EPOCHS):
            self._ledger.end(trial, "paused")
            return False
        return True

    def incumbent(self) -> Mapping[str, Any] | None:
        """See Method."""
        best = best_of(self._ledger.trials)
        return best.params if best else None


class _Best:
    """Remembers the best score that was reported."""

    def __init__(self) -> None:
        self.value, self.params = -math.inf, None

    def see(self, job: Job, value: float) -> None:
        if value > self.value:
            self.value, self.params = value, job.params


class Listed:
    """Points from a list, each trained to its end: random, QMC, grid."""

    def __init__(self, points: "itertools.chain[Any] | Any") -> None:
        self._points, self._best = iter(points), _Best()

    def next(self) -> Job | None:
        """See Method."""
        point = next(self._points, None)
        return None if point is None else Job(id(point), point)

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        self._best.see(job, value)
        return True

    def incumbent(self) -> Mapping[str, Any] | None:
        """See Method."""
        return self._best.params


class OneEpochTopK:
    """Random settings for one epoch each, the best K of them to the end; again and again."""

    def __init__(self, space: SearchSpace, seed: int, size: int, top: int) -> None:
        self._points, self._size, self._top = _random_points(space, seed), size, top
        self._best = _Best()
        self._round: list[tuple[float, Job]] = []
        self._started, self._resumable, self._running = 0, [], 0

    def next(self) -> Job | None:
        """See Method."""
        if self._started == self._size and not self._running and not self._resumable:
            if self._round:
                ranked = sorted(self._round, key=lambda one: -one[0])
                self._resumable = [job for _, job in ranked[: self._top]]
                self._round = []
            else:
                self._started = 0
        if self._resumable:
            self._running += 1
            return self._resumable.pop(0)
        if self._started < self._size:
            self._started += 1
            self._running += 1
            return Job(self._started, next(self._points))
        return None

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        self._best.see(job, value)
        if job.done == 1:
            self._round.append((value, job))
        on = 1 < job.done < EPOCHS
        self._running -= not on
        return on

    def incumbent(self) -> Mapping[str, Any] | None:
        """See Method."""
        return self._best.params


class StockRay:
    """Ray's own ASHAScheduler and OptunaSearch, as a user of Tune would set them."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._search = OptunaSearch(
            {key: dimension.distribution() for key, dimension in space.parameters.items()},
            metric="objective",
            mode="max",
            seed=seed,
            points_to_evaluate=[dict(point) for point in space.first_trials],
        )
        self._asha = ASHAScheduler(time_attr="training_iteration", metric="objective", mode="max", max_t=EPOCHS)
        self._number, self._best = itertools.count(), _Best()

    def next(self) -> Job | None:
        """See Method."""
        name = f"t{next(self._number)}"
        job = Job(_Named(name), self._search.suggest(name) or {})
        self._asha.on_trial_add(None, job.key)
        return job

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """See Method."""
        self._best.see(job, value)
        result = {"objective": value, "training_iteration": job.done}
        on = job.done < EPOCHS and self._asha.on_trial_result(None, job.key, result) == self._asha.CONTINUE
        if on:
            self._search.on_trial_result(job.key.trial_id, result)
        else:
            self._asha.on_trial_complete(None, job.key, result)
            self._search.on_trial_complete(job.key.trial_id, result)
        return on

    def incumbent(self) -> Mapping[str, Any] | None:
        """See Method."""
        return self._best.params


@dataclass(frozen=True)
class _Named:
    """All that Tune's scheduler asks of a trial."""

    trial_id: str


def _random_points(space: SearchSpace, seed: int) -> Any:
    rng = random.Random(seed)
    while True:
        yield {key: dimension.at(rng.random()) for key, dimension in space.parameters.items()}
