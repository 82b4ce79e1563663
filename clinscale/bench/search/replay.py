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
from collections.abc import Callable, Mapping
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


class Method(Protocol):
    """A search, asked by a simulator of workers."""

    def next(self) -> Job | None:
        """The next job of a free worker; None while it has to wait."""

    def began(self, job: Job) -> None:
        """A new job has begun, with the parameters of the configuration that represents it."""

    def report(self, job: Job, value: float, seconds: float) -> bool:
        """An epoch of `job` has ended with the trial's best score so far; whether it trains on."""


class Task:
    """One task of the table."""

    def __init__(self, table: Table, name: str) -> None:
        self._space, self._params, self._curves = table.space, table.params, table.curves[name]
        full = np.array([max(curve.value) for curve in self._curves])
        best, usual = float(full.max()), float(np.median(full))
        self.regret = (best - full) / (best - usual)
        self.whole_s = statistics.fmean(sum(curve.seconds) for curve in self._curves)
        """Seconds of a whole fine-tuning, on average."""
        self._shares = np.array([self._share(params) for params in table.params])

    def take(self, job: Job, taken: list[int]) -> bool:
        """Let the nearest recorded configuration of those not taken represent `job`; False when all are taken."""
        distance = ((self._shares - self._share(job.params)) ** 2).sum(axis=1)
        distance[taken] = math.inf
        index = int(np.argmin(distance))
        if math.isinf(distance[index]):
            return False
        job.index, job.params = index, self._params[index]
        taken.append(index)
        return True

    def epoch(self, index: int, epoch: int) -> tuple[float, float]:
        """Best score within the first `epoch` epochs, and the seconds of that epoch."""
        curve = self._curves[index]
        return max(curve.value[:epoch]), curve.seconds[epoch - 1]

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


def replay(task: Task, method: Method) -> tuple[float, bool]:
    """Device-seconds until the best trial so far is good enough, and whether it ever was."""
    order = itertools.count()
    busy: list[tuple[float, int, Job, float, float]] = []
    taken: list[int] = []
    now_s, idle = 0.0, WORKERS
    best, best_value = None, -math.inf

    def begin(job: Job, at_s: float) -> None:
        value, seconds = task.epoch(job.index or 0, job.done + 1)
        heappush(busy, (at_s + seconds, next(order), job, value, seconds))

    while True:
        while idle:
            job, thought_s = _timed(method.next)
            if job is None:
                break
            if job.index is None:
                if not task.take(job, taken):
                    break  # the table is used up, so nothing new can be learned
                method.began(job)
            idle -= 1
            begin(job, now_s + START_S + thought_s)
        if not busy:
            return now_s * WORKERS, False
        now_s, _, job, value, seconds = heappop(busy)
        job.done += 1
        on, thought_s = _timed(functools.partial(method.report, job, value, seconds))
        if value > best_value:
            best, best_value = job.index, value
        if best is not None and task.regret[best] <= REGRET:
            return now_s * WORKERS, True
        if on and job.done < EPOCHS:
            begin(job, now_s + thought_s)
        else:
            idle += 1


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start_s = time.perf_counter()
    answer = work()
    return answer, time.perf_counter() - start_s
