"""The cost of finding a setting within 1 % of the best: every search over seeds on every task, as ratios to ours."""

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from clinscale.bench.measure import surroundings
from clinscale.bench.record import BenchRecord, Ratio
from clinscale.bench.search.methods import methods_of
from clinscale.bench.search.noop import noop_ratio
from clinscale.bench.search.replay import WORKERS, Task, replay
from clinscale.bench.search.table import Table
from clinscale.errors import ConfigError
from clinscale.sweep import quiet_optuna

_ASKED = {"random": 5.0, "stock_asha": 1.3, "one_epoch_top_k": 1.0, "warm_start": 2.0, "noop_trial": 4.0}
_RESAMPLES = 2000


def _run(job: tuple[str, str, int]) -> dict[str, tuple[float, bool]]:
    """All methods on one task under one seed."""
    path, task, seed = job
    table = Table.read(path)
    with quiet_optuna():
        return {
            name: replay(Task(table, task), method()) for name, method in methods_of(table, task, seed).items()
        }


def bench_search(
    *,
    table: str | Path,
    seeds: int = 30,
    noop_trials: int = 32,
    processes: int = 1,
    on_progress: Callable[[str], None] = lambda name: None,
) -> BenchRecord:
    """Costs to 1 % regret over seeds, as ratios to ours; and what an empty trial costs under Ray Tune.

    A cost is the expected running time (Hansen et al. 2010): the sum of all runs' costs over the number of those that
    got there, so that a run that used up the table counts with what it spent. Intervals are 95 %, by bootstrap over
    seeds.
    """
    if seeds < 2:
        raise ConfigError(f"seeds must be at least 2, so that there are intervals, got {seeds}; 30 is usual")
    before = surroundings("search", "cpu")
    read = Table.read(table)
    costs: dict[str, dict[str, np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        each: Any = map
        if processes > 1:  # one is this one: a spawned process imports torch first
            each = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("spawn"))).map
        for task in read.curves:
            on_progress(task)
            # not seed 0: the table itself is Sobol's points under that seed
            runs = list(each(_run, [(str(table), task, seed) for seed in range(1, seeds + 1)]))
            whole_s = Task(read, task).whole_s
            costs[task] = {
                name: np.array([(cost_s / whole_s, reached) for cost_s, reached in (run[name] for run in runs)])
                for name in runs[0]
            }
    compared = {
        "random": ("random", "ours"),
        "stock_asha": ("stock_asha", "ours"),
        "one_epoch_top_k": ("one_epoch_top_k", "ours"),
        "warm_start": ("ours", "warm"),
    }
    by_task: dict[str, dict[str, Any]] = {}
    for task, found in costs.items():
        top_k = min(
            (name for name in found if name.startswith("one_epoch")), key=lambda name: _expected(found[name])
        )
        found["one_epoch_top_k"] = found[top_k]
        by_task[task] = {
            "cost_in_whole_trials": {name: _finite(_expected(runs)) for name, runs in found.items()},
            "reached": {name: int(runs[:, 1].sum()) for name, runs in found.items()},
            "ratios": {name: _interval(found[a], found[b]) for name, (a, b) in compared.items()},
            "top_k": top_k,
        }
    ratios = {
        name: _over_tasks([(found[a], found[b]) for found in costs.values()], _ASKED[name])
        for name, (a, b) in compared.items()
    }
    if noop_trials:
        on_progress("noop_trial")
        ratios["noop_trial"] = noop_ratio(noop_trials, asked=_ASKED["noop_trial"])
    return _SearchRecord(
        surroundings=before,
        ratios=ratios,
        details={"seeds": seeds, "workers": WORKERS, "configurations": len(read.params), "tasks": by_task},
    )


class _SearchRecord(BenchRecord):
    """The record of this bench."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready; equality comes before the ratios, where files of this bench have always had it."""
        return {**asdict(self.surroundings), "equal": self.equal, **super().plain()}


def _expected(runs: np.ndarray) -> float:
    """Expected running time; infinite where no run got there."""
    reached = runs[:, 1].sum()
    return float(runs[:, 0].sum() / reached) if reached else math.inf


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _resampled(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Ratios of expected running times over bootstrap samples of the seeds."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), size=(_RESAMPLES, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: np.ndarray = (a[picks, 0].sum(1) / a[picks, 1].sum(1)) / (b[picks, 0].sum(1) / b[picks, 1].sum(1))
    return ratios


def _interval(a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    samples = _resampled(a, b)
    low, high = np.nanpercentile(samples, [2.5, 97.5], method="nearest")
    return {
        "ratio": _finite(_expected(a) / _expected(b)),
        "low": _finite(float(low)),
        "high": _finite(float(high)),
    }


def _over_tasks(pairs: Sequence[tuple[np.ndarray, np.ndarray]], asked: float) -> Ratio:
    """Median, smallest and largest ratio over the tasks, and `pooled` with its interval: all tasks as one.

    None is infinite: the first of the two never got there.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a method that never got there costs infinitely much
        ratios = [float(np.float64(_expected(a)) / _expected(b)) for a, b in pairs]
    pooled = _interval(*(np.mean(side, axis=0) for side in zip(*pairs, strict=True)))
    return Ratio(
        _finite(statistics.median(ratios)),
        _finite(min(ratios)),
        _finite(max(ratios)),
        asked,
        {"pooled": pooled["ratio"], "low": pooled["low"], "high": pooled["high"]},
    )
