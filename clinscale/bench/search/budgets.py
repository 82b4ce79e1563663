"""Regret at fixed budgets on public learning-curve tables, and costs to the same regret as ratios to ours.

Regret is judged by the worth of the setting that a search holds for the best: 0 is the table's best, 1 its median or
anything below, or no setting yet. Costs are seconds of the table, in whole trainings of its task, so that a run of the
bench can be repeated to the last digit; what the searches themselves took is measured beside them.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from clinscale.bench.measure import ratio, surroundings
from clinscale.bench.record import BenchRecord, Ratio
from clinscale.bench.search.methods import curve_methods_of
from clinscale.bench.search.public import Goal, PublicTask, read_public
from clinscale.bench.search.replay import WORKERS, Method, Task, moments
from clinscale.config import nearest
from clinscale.errors import ConfigError, DataError
from clinscale.sweep import quiet_optuna

BUDGETS = (2, 5, 10, 20)
"""Whole trainings at whose cost regret is read."""
_HORIZON = 40
"""Whole trainings at which a replay ends."""
_GRID = np.arange(0, _HORIZON + 0.05, 0.1)
_RESAMPLES = 1000
_BEST = 0.01
"""Share of the settings that are the best ones: ten of a thousand."""
_WARM_POINTS = 3


@dataclass(frozen=True)
class _Runs:
    """A method on one task, a row for each seed."""

    regret: np.ndarray
    """Regret by seed and by place in `_GRID`."""
    to_best: np.ndarray
    """Whole trainings until one of the best settings led; the horizon where none did."""
    thought_s: np.ndarray
    """Seconds that the search itself took for a trial, with the whole replay."""


@dataclass(frozen=True)
class _Comparison:
    """Cost of `peer` over that of `mine`, both to the regret that `peer` has at `budget`."""

    peer: str
    mine: str
    budget: int | None
    """Number of whole trainings; None compares the costs to one of the best settings, by the medians over seeds."""
    asked: float


_COMPARISONS = {
    **{f"stock_{n}": _Comparison("stock_asha", "ours", n, asked) for n, asked in ((5, 3.5), (10, 3.0), (20, 1.5))},
    "random_20": _Comparison("random", "ours", 20, 8.0),
    "top_2": _Comparison("top_2", "ours", None, 1.0),
    "warm": _Comparison("ours", "warm", 10, 2.0),
    "good_prior": _Comparison("ours", "good_prior", 10, 1.0),
    "wrong_prior": _Comparison("ours", "wrong_prior", 10, 0.85),
}
_ASKED_DECISION_S = 1.0


def bench_budgets(
    *,
    table: str | Path,
    goal: Goal | None = None,
    tasks: Sequence[str] = (),
    seeds: int = 30,
    processes: int = 1,
    on_progress: Callable[[str], None] = lambda name: None,
) -> BenchRecord:
    """Regret of each search at the cost of 2, 5, 10 and 20 whole trainings, and ratios of costs to the same regret.

    Intervals are 95 %, by bootstrap over seeds. A search that does not reach a regret within 40 trainings counts with
    those 40.

    Raises:
        ConfigError: fewer than two seeds, or no such task. DataError: no table of the public form.
    """
    if seeds < 2:
        raise ConfigError(
            f"seeds must be at least 2, so that there are intervals, got {seeds}; 10 or more are usual"
        )
    before = surroundings("search", "cpu")
    read = read_public(table, goal=goal)
    if unknown := [name for name in tasks if name not in read]:
        raise ConfigError(f"{table} has no task {unknown[0]}; {nearest(unknown[0], list(read))}")
    left_out = {name: why for name in tasks or read if (why := read[name].worth_searching)}
    chosen = [name for name in read if name in (tasks or read) and name not in left_out]
    if not chosen:
        name, why = next(iter(left_out.items()))
        raise DataError(f"{table} must have a task in which there is something to find: in {name}, {why}")
    found: dict[str, dict[str, _Runs]] = {}
    with contextlib.ExitStack() as stack:
        each: Any = map
        if processes > 1:  # one is this one: a spawned process imports torch first
            each = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("spawn"))).map
        for name in chosen:
            on_progress(name)
            work = partial(_replays, name, read[name], _warm_points(read, name))
            # not seed 0: a table may be Sobol's points under that seed
            found[name] = _by_method(list(each(work, range(1, seeds + 1))))
    rng = np.random.default_rng(0)
    picks = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES) / seeds
    weights = np.vstack([np.full(seeds, 1 / seeds), picks])  # the first row is the runs as they are
    ratios = {
        name: _ratio([(runs[one.peer], runs[one.mine]) for runs in found.values()], one, weights)
        for name, one in _COMPARISONS.items()
        if all({one.peer, one.mine} <= runs.keys() for runs in found.values())
    }
    thought_s = [float(runs["ours"].thought_s.mean()) for runs in found.values()]
    ratios["decision_s"] = ratio(thought_s, _ASKED_DECISION_S)
    return BenchRecord(
        surroundings=before,
        ratios=ratios,
        at_most=("decision_s",),
        details={
            "seeds": seeds,
            "workers": WORKERS,
            "left_out": left_out,
            "regret": _regrets(list(found.values()), weights),
            "tasks": {name: _details(read[name], runs, weights) for name, runs in found.items()},
        },
    )


def _by_method(replays: Sequence[Mapping[str, tuple[np.ndarray, float, float]]]) -> dict[str, _Runs]:
    """The replays of all seeds by method; `top_2` is the lot size that is the cheapest here."""
    found = {
        method: _Runs(*(np.array([replay[method][part] for replay in replays]) for part in range(3)))
        for method in replays[0]
    }
    lots = [runs for method, runs in found.items() if method.startswith("top_2_of_")]
    return {**found, "top_2": min(lots, key=lambda runs: float(np.median(runs.to_best)))}


def _details(task: PublicTask, runs: Mapping[str, _Runs], weights: np.ndarray) -> dict[str, Any]:
    return {
        "configurations": len(task.params),
        "diverging": sum(math.isinf(end) for end in task.ends),
        "trainings_to_best": {method: float(np.median(one.to_best)) for method, one in runs.items()},
        "regret": _regrets([runs], weights),
    }


def _warm_points(read: Mapping[str, PublicTask], name: str) -> tuple[Mapping[str, Any], ...]:
    """The best setting of each other task with the same hyperparameters, then the second of each."""
    ranked = [
        sorted(zip(one.ends, range(len(one.ends)), one.params, strict=True), key=lambda end: (-end[0], end[1]))
        for other, one in read.items()
        if other != name and one.space.parameters.keys() == read[name].space.parameters.keys()
    ]
    merged = [ends[place][2] for place in range(_WARM_POINTS) for ends in ranked if place < len(ends)]
    return tuple(merged[:_WARM_POINTS])


def _replays(
    name: str, task: PublicTask, warm: tuple[Mapping[str, Any], ...], seed: int
) -> dict[str, tuple[np.ndarray, float, float]]:
    """All methods on one task under one seed."""
    table = task.table(name, seed)
    seen = Task(table, name)
    with quiet_optuna():
        methods = curve_methods_of(table, seen.epochs, seed, warm)
        return {method: _replayed(seen, make()) for method, make in methods.items()}


def _replayed(task: Task, method: Method) -> tuple[np.ndarray, float, float]:
    """See _Runs."""
    best = set(task.best(max(1, round(_BEST * len(task.regret)))))
    regret, thought_s = np.ones(len(_GRID)), 0.0
    to_best = float(_HORIZON)
    for moment in moments(task, method, start_s=0.0, counts_thought=False):
        cost = moment.cost_s / task.whole_s
        if cost > _HORIZON:
            break
        place = int(np.searchsorted(_GRID, cost - 1e-9))
        regret[place:] = 1.0 if moment.best is None else min(1.0, task.regret[moment.best])
        if moment.best in best:
            to_best = min(to_best, cost)
        thought_s = moment.thought_s / moment.trials
    return regret, to_best, thought_s


def _regrets(tasks: Sequence[Mapping[str, _Runs]], weights: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Mean regret over tasks and seeds by method and budget, with its interval."""
    found: dict[str, dict[str, list[float]]] = {}
    for method in (name for name in tasks[0] if all(name in runs for runs in tasks)):
        means = np.mean([weights @ runs[method].regret[:, _places(BUDGETS)] for runs in tasks], axis=0)
        found[method] = {
            str(budget): [round(float(one), 4) for one in (mean[0], *np.percentile(mean[1:], [2.5, 97.5]))]
            for budget, mean in zip(BUDGETS, means.T, strict=True)
        }
    return dict(sorted(found.items(), key=lambda one: one[1][str(BUDGETS[-1])]))


def _places(budgets: Sequence[int]) -> list[int]:
    return [int(np.searchsorted(_GRID, budget - 1e-9)) for budget in budgets]


def _ratio(pairs: Sequence[tuple[_Runs, _Runs]], one: _Comparison, weights: np.ndarray) -> Ratio:
    """Median, smallest and largest ratio over the tasks, and `pooled` with its interval: all tasks as one."""
    by_task = [float(_ratios([pair], one, weights[:1])[0]) for pair in pairs]
    pooled = _ratios(pairs, one, weights)
    low, high = np.percentile(pooled[1:], [2.5, 97.5], method="nearest")
    figures = {"pooled": pooled[0], "low": low, "high": high}
    return ratio(by_task, one.asked, **{name: round(float(figure), 3) for name, figure in figures.items()})


def _ratios(pairs: Sequence[tuple[_Runs, _Runs]], one: _Comparison, weights: np.ndarray) -> np.ndarray:
    """The ratio in each resample of the seeds, the tasks taken together."""
    if one.budget is None:
        peers, mine = (_medians([pair[side].to_best for pair in pairs], weights) for side in (0, 1))
        return np.asarray(peers / mine)
    curves = [np.mean([weights @ pair[side].regret for pair in pairs], axis=0) for side in (0, 1)]
    level = curves[0][:, _places([one.budget])] + 1e-12
    peers, mine = (_first_at(curve <= level) for curve in curves)
    return np.asarray(peers / mine)


def _first_at(reached: np.ndarray) -> np.ndarray:
    """Cost at which each row is first true."""
    costs = np.where(reached.any(axis=1), _GRID[reached.argmax(axis=1)], _HORIZON)
    return np.asarray(np.maximum(costs, _GRID[1]))


def _medians(by_task: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted median over seeds and tasks in each resample."""
    values = np.concatenate(by_task)
    order = np.argsort(values, kind="stable")
    shares = np.cumsum(np.tile(weights, len(by_task))[:, order], axis=1) / len(by_task)
    return np.asarray(values[order][(shares >= 0.5 - 1e-9).argmax(axis=1)])
