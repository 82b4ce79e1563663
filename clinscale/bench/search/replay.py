"""One search on one task of the table, on simulated workers.

Workers finish in the order in which the table's seconds say (as in mfhpo-simulator), so that asynchronous decisions see
what they would have seen. A proposed point is answered by the nearest recorded configuration that was not tried yet,
and that is what the search gets as what it ran; else it would learn that good places are bad, once those are taken.
The cost counts all workers' seconds, the sampler's own measured time, and for each start of a trial the same constant.
"""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

import numpy as np

from clinscale.bench.search.table import EPOCHS, Table

WORKERS = 4
START_S = 0.25
"""Seconds of each start of a trial, alike for every method; what `noop_ratio` measures, favouring neither side."""
REGRET = 0.01
"""Regret of the best setting that was found, judged by its full training: 0 is the best of the table, 1 its median."""


@dataclass
class Job:
    """Work on one trial from one epoch on."""

    key: Any
    params: Mapping[str, Any]
    """The proposed values; later those of the recorded configuration that represents them."""
    done: int = 0
    """Epochs that are trained already."""
    index: int | None = None
    """Index of the recorded configuration that represents it."""
    epochs: int = EPOCHS
    """Epochs after which its training ends by itself."""

    @property
    def ended(self) -> bool:
        """Whether its training has come to its end."""
        return self.done >= self.epochs


class Method(Protocol):
    """A search, asked by a simulator of workers."""

    def next(self) -> Job | None:
        """The next job of a free worker; None while it has to wait."""

    def began(self, job: Job) -> None:
        """A new job has begun, with the parameters of the configuration that represents it."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """An epoch of `job` has ended with the trial's best score so far; whether it trains on.

        NaN: the training has diverged, which ends it.
        """


class Task:
    """One task of the table."""

    def __init__(self, table: Table, name: str) -> None:
        self._space, self._params, self._curves = table.space, table.params, table.curves[name]
        full = np.array(table.ends.get(name) or [max(curve.value) for curve in self._curves])
        best, usual = float(full.max()), float(np.median(full))
        if math.isinf(usual):  # half of all diverge: the median of the others
            usual = float(np.median(full[np.isfinite(full)]))
        self.regret = (best - full) / (best - usual)
        self.epochs = max(len(curve.value) for curve in self._curves)
        """Epochs of the longest training."""
        self.whole_s = statistics.fmean(
            sum(curve.seconds) for curve in self._curves if len(curve.value) == self.epochs
        )
        """Seconds of a whole fine-tuning, on average."""
        self._shares = np.array([self._share(params) for params in table.params])

    def take(self, job: Job, taken: list[int]) -> bool:
        """Let the nearest recorded configuration of those not taken represent `job`; False when all are taken."""
        distance = ((self._shares - self._share(job.params)) ** 2).sum(axis=1)
        distance[taken] = math.inf
        index = int(np.argmin(distance))
        if math.isinf(distance[index]):
            return False
        job.index, job.params, job.epochs = index, self._params[index], len(self._curves[index].value)
        taken.append(index)
        return True

    def epoch(self, index: int, epoch: int) -> tuple[float, float]:
        """Best score within the first `epoch` epochs (NaN: it diverged), and the seconds of that epoch."""
        curve = self._curves[index]
        now = curve.value[epoch - 1]
        return now if math.isnan(now) else max(curve.value[:epoch]), curve.seconds[epoch - 1]

    def best(self, count: int) -> list[int]:
        """The configurations that are best when fully trained."""
        return [int(index) for index in np.argsort(self.regret, kind="stable")[:count]]

    def _share(self, params: Mapping[str, Any]) -> np.ndarray:
        """A point of the unit cube; different choices are a whole range apart."""
        row: list[float] = []
        for key, dimension in self._space.parameters.items():
            if dimension.type == "categorical":
                row += [math.sqrt(0.5) * (params[key] == choice) for choice in dimension.choices]
            else:
                row.append(dimension.share(params[key]))
        return np.array(row)


@dataclass(frozen=True)
class Moment:
    """The state of a search after a report."""

    cost_s: float
    """Device-seconds that all workers have taken."""
    best: int | None
    """Configuration of the best trial so far; None before there is one."""
    thought_s: float
    """Seconds that the search itself has taken, measured."""
    trials: int
    """Trials begun so far."""


def replay(task: Task, method: Method) -> tuple[float, bool]:
    """Device-seconds until the best trial so far is good enough, and whether it ever was."""
    cost_s = 0.0
    for moment in moments(task, method):
        cost_s = moment.cost_s
        if moment.best is not None and task.regret[moment.best] <= REGRET:
            return cost_s, True
    return cost_s, False


def moments(
    task: Task, method: Method, *, start_s: float = START_S, counts_thought: bool = True
) -> Iterator[Moment]:
    """The search after each of its reports, until the table is used up.

    Args:
        task: that it is run on.
        method: the search.
        start_s: what each start of a trial costs.
        counts_thought: whether the search's own seconds are part of the cost; else the same seed gives the same costs.
    """
    order = itertools.count()
    busy: list[tuple[float, int, Job, float, float]] = []
    taken: list[int] = []
    values: dict[int, float] = {}
    now_s, total_s, idle = 0.0, 0.0, WORKERS
    best: int | None = None

    def begin(job: Job, at_s: float) -> None:
        value, seconds = task.epoch(job.index or 0, job.done + 1)
        heappush(busy, (at_s + seconds, next(order), job, value, seconds))

    while True:
        while idle:
            job, thought_s = _timed(method.next)
            total_s += thought_s
            if job is None:
                break
            if job.index is None:
                if not task.take(job, taken):
                    break  # the table is used up, so nothing new can be learned
                method.began(job)
            idle -= 1
            begin(job, now_s + start_s + thought_s * counts_thought)
        if not busy:
            return
        now_s, _, job, value, seconds = heappop(busy)
        job.done += 1
        on, thought_s = _timed(functools.partial(method.report, job, value, seconds))
        total_s += thought_s
        index = job.index or 0
        if math.isnan(value):  # no model comes of it
            values.pop(index, None)
            best = max(values, key=lambda one: values[one], default=None) if best == index else best
        else:
            values[index] = value
            best = index if best is None or value > values[best] else best
        yield Moment(now_s * WORKERS, best, total_s, len(taken))
        if on and not job.ended:
            begin(job, now_s + thought_s * counts_thought)
        else:
            idle += 1


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start_s = time.perf_counter()
    answer = work()
    return answer, time.perf_counter() - start_s
