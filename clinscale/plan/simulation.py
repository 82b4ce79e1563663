"""Simulation of a pretraining on devices that are taken away: when it ends, and how often to save.

Discrete events of an elastic group as `runtime` runs it: a lost device stops the group, which starts again from the
newest checkpoint that is written, on as many devices as there are; where devices came back, the next look lets it grow,
which is a start from that checkpoint too.
"""

import functools
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from clinscale.plan.estimate import as_configured, estimate, largest_that_fits, snapshot_bytes
from clinscale.plan.run import Run
from clinscale.plan.site import Site
from clinscale.plan.step import StepTime

STORAGE_BYTES_PER_S = 1.0e9
"""Speed at which all workers together write a checkpoint to storage, beside training; assumed."""

_LOOK_S = 60.0
"""Seconds between two looks whether the cluster grew, as Ray Train takes them."""

_ENDLESS = 30.0
"""A run that takes so many times its undisturbed time is said not to end."""

_EVENTS = 300_000
"""Events that all runs at one interval may have together: larger clusters are simulated less often."""

_LEAST_RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The workers of a run with their devices, and how they come and go."""

    least: int
    """Devices without which nothing runs."""
    most: int
    losses_per_device_s: float
    """Rate at which each one is taken away, whatever its age."""
    replace_s: float
    """Mean seconds until a lost one is replaced."""
    restart_s: float
    """Seconds from the stop of a group until it trains again."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a run."""

    total_steps: int
    step_s: Callable[[int], float]
    """Seconds of a step on so many devices, checkpoints left out."""
    stall_s: float
    """Seconds that training waits for each checkpoint."""
    write_s: float
    """Seconds after which a checkpoint can be started from."""


@dataclass(frozen=True)
class Ending:
    """Time and losses of one simulated run."""

    seconds: float
    """Infinite where it does not end."""
    device_s: float
    """Seconds of all devices that were held, busy or not."""
    losses: int
    starts: int
    repeated_steps: float


def run_once(fleet: Fleet, work: Work, every_steps: int, chance: random.Random) -> Ending:
    """One run that saves every so many steps, by the events that `chance` draws."""
    return _Run(fleet, work, every_steps, chance).to_the_end()


class _Run:
    """The state of one simulated run."""

    def __init__(self, fleet: Fleet, work: Work, every_steps: int, chance: random.Random) -> None:
        self._fleet, self._work, self._every, self._chance = fleet, work, every_steps, chance
        self._there, self._now_s, self._device_s = fleet.most, 0.0, 0.0
        self._saved = 0.0
        self._losses = self._starts = 0
        self._repeated = 0.0
        self._patience_s = _ENDLESS * work.total_steps * work.step_s(fleet.most) + fleet.restart_s

    def to_the_end(self) -> Ending:
        """Start groups until one reaches the last step."""
        while self._saved < self._work.total_steps and self._now_s < self._patience_s:
            while self._there < self._fleet.least and self._now_s < self._patience_s:
                self._until_event(math.inf)
            group = min(self._there, self._fleet.most)
            self._starts += 1
            if self._restarted(group):
                self._train(group)
        ended = self._saved >= self._work.total_steps
        seconds = self._now_s if ended else math.inf
        return Ending(seconds, self._device_s, self._losses, self._starts, self._repeated)

    def _restarted(self, group: int) -> bool:
        """Whether the start of a group was not cut off by a loss."""
        end_s = self._now_s + self._fleet.restart_s
        while self._now_s < end_s:
            if self._until_event(end_s - self._now_s) == "loss" and self._there < group:
                return False
        return True

    def _train(self, group: int) -> None:
        """Train until the end, a loss in the group, or a look that finds more devices."""
        work, began_s, first = self._work, self._now_s, self._saved
        pace_s = work.step_s(group) + work.stall_s / self._every
        left_s = (work.total_steps - first) * pace_s
        look_s = math.inf
        while True:
            wait_s = min(began_s + left_s, look_s) - self._now_s
            before = self._there
            event = self._until_event(wait_s)
            trained_s = self._now_s - began_s
            if event is None and self._now_s >= began_s + left_s - 1e-9 * left_s:
                self._saved = float(work.total_steps)
                return
            # a device that came back in the meantime may be the one that is lost
            stops = event == "loss" and self._chance.random() < group / before
            if event == "replacement" and group < self._fleet.most and look_s == math.inf:
                look_s = self._now_s + _LOOK_S * self._chance.random()
            if stops or event is None:
                written = max(0.0, trained_s - work.write_s) // (self._every * pace_s)
                self._saved = first + written * self._every
                self._repeated += trained_s / pace_s - written * self._every
                return
            if self._now_s > self._patience_s:
                return

    def _until_event(self, wait_s: float) -> str | None:
        """Let time pass until a device is lost or replaced, `wait_s` at most; None where neither happened."""
        fleet = self._fleet
        lost, back = self._there * fleet.losses_per_device_s, (fleet.most - self._there) / fleet.replace_s
        next_s = self._chance.expovariate(lost + back) if lost + back else math.inf
        passed_s = min(next_s, wait_s)
        self._now_s += passed_s
        self._device_s += passed_s * self._there
        if next_s > wait_s:
            return None
        if self._chance.random() * (lost + back) < lost:
            self._there -= 1
            self._losses += 1
            return "loss"
        self._there += 1
        return "replacement"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Endings of many simulated runs."""

    every_steps: int
    runs: int
    mean_days: float | None
    """None where some run does not end."""
    low_days: float | None
    """Days within which one run in twenty ends."""
    high_days: float | None
    """Days within which all but one in twenty end."""
    device_hours: float
    losses: float
    starts: float
    repeated_share: float
    """Steps that were done again, as a share of those of the run."""

    @classmethod
    def of(cls, fleet: Fleet, work: Work, every_steps: int, *, seed: int) -> "Spread":
        """Endings at one interval; the same seed meets the same chances at any interval, as far as they go."""
        undisturbed_s = work.total_steps * work.step_s(fleet.most)
        expected = 2 * fleet.most * fleet.losses_per_device_s * undisturbed_s + 1
        runs = int(min(400, max(_LEAST_RUNS, _EVENTS / (4 * expected))))
        ends = [run_once(fleet, work, every_steps, random.Random(f"{seed}/{number}")) for number in range(runs)]
        days = sorted(one.seconds / 86400 for one in ends)
        share = runs // 20
        return cls(
            every_steps=every_steps,
            runs=runs,
            mean_days=_finite(statistics.fmean(days)),
            low_days=_finite(days[share]),
            high_days=_finite(days[-1 - share]),
            device_hours=statistics.fmean(one.device_s for one in ends) / 3600,
            losses=statistics.fmean(one.losses for one in ends),
            starts=statistics.fmean(one.starts for one in ends),
            repeated_share=statistics.fmean(one.repeated_steps for one in ends) / work.total_steps,
        )


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The answer: how a run ends as it is configured, and at the best interval of checkpoints."""

    fleet: Fleet
    configured: Spread
    best: Spread
    """The interval with the shortest mean of those tried, from an eighth of Young and Daly's to eight times it."""
    young_daly_steps: int
    """Interval by Daly 2006, on a group that is always whole."""
    usd_spot: float | None
    """Money of the run as configured; None without a price."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "seed": 0}


def simulate_pretrain(run: Run, site: Site, *, replace_s: float) -> Simulation | None:
    """The run as configured on devices that are taken away as the site says; None where its steps are not known."""
    runtime = run.config.runtime
    if run.total_steps is None:
        return None

    @functools.cache
    def step(workers: int) -> StepTime:
        return estimate(run, site, largest_that_fits(run, site, as_configured(run, workers))).step

    most, devices = runtime.most_workers, runtime.gpus_per_worker or runtime.cpus_per_worker  # of a worker
    work = Work(
        total_steps=run.total_steps,
        step_s=functools.cache(lambda workers: step(workers).total_s - step(workers).checkpoint_s),
        stall_s=step(most).checkpoint_s * runtime.checkpoint_every_steps,
        write_s=snapshot_bytes(run, runtime.zero.stage, 1) / STORAGE_BYTES_PER_S,
    )
    fleet = Fleet(
        least=runtime.least_workers,
        most=most,
        losses_per_device_s=site.preemptions_per_device_day * devices / 86400,
        replace_s=replace_s,
        restart_s=site.restart_s,
    )
    price = site.device.usd_per_spot_hour
    configured, best, by_formula = search_interval(fleet, work, runtime.checkpoint_every_steps)
    return Simulation(
        fleet=fleet,
        configured=configured,
        best=best,
        young_daly_steps=by_formula,
        usd_spot=price and configured.device_hours * devices * price,
    )


def search_interval(fleet: Fleet, work: Work, configured: int, *, seed: int = 0) -> tuple[Spread, Spread, int]:
    """Endings at the configured interval and at the best one, and Daly's interval in steps."""
    step_s = work.step_s(fleet.most)
    by_formula = work.total_steps
    if fleet.losses_per_device_s:
        between_s = 1 / (fleet.losses_per_device_s * fleet.most)
        by_formula = min(work.total_steps, max(1, round(daly_s(work.stall_s, between_s) / step_s)))
    least = max(1, math.ceil(work.write_s / step_s))  # one checkpoint is written at a time
    tried = {min(work.total_steps, max(least, round(by_formula * 2**power))) for power in range(-3, 4)}
    found = {steps: Spread.of(fleet, work, steps, seed=seed) for steps in sorted(tried | {configured})}
    best = min(found.values(), key=lambda one: math.inf if one.mean_days is None else one.mean_days)
    return found[configured], best, by_formula


def daly_s(stall_s: float, between_failures_s: float) -> float:
    """Seconds between two checkpoints by Daly 2006 (equation 37), which is Young's for short stalls."""
    if stall_s >= 2 * between_failures_s:
        return between_failures_s
    share = stall_s / (2 * between_failures_s)
    return math.sqrt(2 * stall_s * between_failures_s) * (1 + math.sqrt(share) / 3 + share / 9) - stall_s


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
