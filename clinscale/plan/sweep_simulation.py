"""Simulation of a sweep on so many devices: its own controller, policy and ledger, with drawn scores and planned times.

Nothing of the search is written again here. This is a runner of segments, as Ray Tune and forks are, whose clock is
simulated: what runs next, what is promoted, what is tried again after a loss is decided by the sweep itself.
"""

import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clinscale.errors import ConfigError
from clinscale.plan.site import Site
from clinscale.plan.sweep import planned_costs
from clinscale.sweep import OBJECTIVE, Ledger, Proposer, Segment, Study, SweepConfig, SweepController, SweepInputs

SEGMENT_START_S = 10.0
"""Seconds until a process trains after it was given a trial: model, tokenizer and windows are read; assumed."""

_POINTS = 64

RUNS = 10
"""Simulated runs of each size of cluster."""


@dataclass(frozen=True, kw_only=True)
class SweepSpread:
    """Endings of simulated sweeps with so many trials at once."""

    at_once: int
    mean_hours: float
    low_hours: float
    """Fewest hours of a run."""
    high_hours: float
    """Most hours of a run."""
    device_hours: float
    """Device-hours that trials took, lost epochs included."""
    trials: float
    losses: float
    """Trials that lost their device; each goes on from its last epoch."""
    failed: float
    """Trials that lost it more often than `runtime.max_failures` allows."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def _points(config: SweepConfig, study: Study) -> tuple[Mapping[str, Any], ...]:
    """Points all over a study's space, drawn once for all runs: a sampler would take longer than all else."""
    if config.recipe.sampler == "grid":
        return ()
    return tuple(study.space.quasi_random(_POINTS, config.recipe.seed))


@dataclass(frozen=True)
class _Ending:
    seconds: float
    device_s: float
    trials: int
    losses: int
    failed: int


def simulate_tune(
    config: SweepConfig,
    inputs: SweepInputs,
    site: Site,
    *,
    at_once: int,
    replace_s: float,
    start_s: float = SEGMENT_START_S,
    runs: int = RUNS,
    seed: int = 0,
) -> SweepSpread:
    """A sweep with so many trials at once, on devices that are taken away as the site says.

    Scores are drawn, alike for all settings, and settings are spread over the space: it is about time, which depends
    on the order of the scores alone. Every trial trains all of its epochs where nothing stops it.

    Args:
        config: of the sweep.
        inputs: of its studies.
        site: hardware, and how often a device is taken away.
        at_once: trials at a time.
        replace_s: mean seconds until a lost device is replaced.
        start_s: seconds until a process trains after it was given a trial.
        runs: number of simulated sweeps.
        seed: of the chances.

    Raises:
        ConfigError: a base model whose shape is not known, or looks inside the first epoch, which are not simulated.
    """
    if config.recipe.halving.looks:
        raise ConfigError(
            "recipe.grace puts looks into the first epoch, which no simulation has; drop --simulate or recipe.grace"
        )
    costs = planned_costs(config, site)
    known: dict[tuple[int, str], float] = {}

    def epoch_s(segment: Segment) -> float:
        key = segment.study, repr(sorted(segment.params.items()))
        if key not in known:
            study = inputs.studies[segment.study]
            if (found := costs(study, [segment.params])) is None:
                raise ConfigError(
                    f"study {study.name}: the shape of its base model must be readable here to be simulated; plan it "
                    "without --simulate to see why"
                )
            known[key] = found[0] / config.runtime.devices_per_trial
        return known[key]

    points = [_points(config, study) for study in inputs.studies]
    loss_per_s = site.preemptions_per_device_day * config.runtime.devices_per_trial / 86400
    ends = [
        _Simulated(
            config,
            inputs,
            points,
            epoch_s,
            at_once,
            loss_per_s,
            replace_s,
            start_s,
            random.Random(f"{seed}/{number}"),
        ).run()
        for number in range(runs)
    ]
    hours = [one.seconds / 3600 for one in ends]
    return SweepSpread(
        at_once=at_once,
        mean_hours=statistics.fmean(hours),
        low_hours=min(hours),
        high_hours=max(hours),
        device_hours=statistics.fmean(one.device_s for one in ends) / 3600,
        trials=statistics.fmean(one.trials for one in ends),
        losses=statistics.fmean(one.losses for one in ends),
        failed=statistics.fmean(one.failed for one in ends),
    )


class _Simulated:
    """One sweep on a simulated clock."""

    def __init__(
        self,
        config: SweepConfig,
        inputs: SweepInputs,
        points: Sequence[tuple[Mapping[str, Any], ...]],
        epoch_s: Callable[[Segment], float],
        at_once: int,
        loss_per_s: float,
        replace_s: float,
        start_s: float,
        chance: random.Random,
    ) -> None:
        self._config, self._inputs, self._epoch_s = config, inputs, epoch_s
        self._loss_per_s, self._replace_s, self._start_s = loss_per_s, replace_s, start_s
        self._chance = chance
        self._free = at_once
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_s = self._device_s = 0.0
        self._losses = 0
        self._scores: dict[tuple[int, str], float] = {}
        self._ledger = Ledger()
        proposers = [
            Proposer(study.space, sampler="qmc", first=tuple(chance.sample(chosen, len(chosen))))
            if chosen
            else study.proposer(config.recipe)
            for study, chosen in zip(inputs.studies, points, strict=True)
        ]
        self._controller = SweepController(
            config,
            self._ledger,
            proposers,
            slots=lambda: at_once,
            on_change=lambda: None,
        )

    def run(self) -> _Ending:
        """Let workers ask for segments until the controller is finished."""
        try:
            while True:
                while self._free and (segment := self._controller.next_segment(str(number := next(self._order)))):
                    self._free -= 1
                    self._begin(str(number), segment, self._start_s)
                if not self._events:
                    break
                self._now_s, _, happen = heapq.heappop(self._events)
                happen()
        finally:
            self._controller.close()
        trials = self._ledger.trials
        failed = sum(trial.state == "failed" for trial in trials)
        return _Ending(self._now_s, self._device_s, len(trials), self._losses, failed)

    def _begin(self, segment_id: str, segment: Segment, start_s: float, done: int | None = None) -> None:
        """Train the next epoch of a segment, or lose its device before that ends."""
        done = int(segment.known_epochs) if done is None else done
        took_s = start_s + self._epoch_s(segment)
        lost_s = self._chance.expovariate(self._loss_per_s) if self._loss_per_s else math.inf
        self._device_s += min(lost_s, took_s) * self._config.runtime.devices_per_trial
        if lost_s < took_s:
            self._after(lost_s, lambda: self._lose(segment_id))
        else:
            self._after(took_s, lambda: self._end_epoch(segment_id, segment, done + 1, took_s))

    def _lose(self, segment_id: str) -> None:
        self._losses += 1
        self._controller.died(segment_id, "lost", "its device was taken away")
        self._after(self._chance.expovariate(1 / self._replace_s), self._come_back)

    def _come_back(self) -> None:
        self._free += 1

    def _end_epoch(self, segment_id: str, segment: Segment, epoch: int, took_s: float) -> None:
        study = self._inputs.studies[segment.study]
        epochs = study.recipe(segment.params, segment.seed).epochs
        result: Mapping[str, Any] = {
            OBJECTIVE: self._score(segment, epoch),
            "epoch": epoch,
            "step": epoch,
            "device_seconds": took_s * self._config.runtime.devices_per_trial,
            "perf/train_s": took_s,
            "perf/eval_s": 0.0,
        }
        if not self._controller.report(segment_id, result):
            self._free += 1
        elif epoch < epochs:
            self._begin(segment_id, segment, 0.0, epoch)
        else:
            self._controller.ended(segment_id)
            self._free += 1

    def _score(self, segment: Segment, epoch: int) -> float:
        """A curve that rises to the trial's own end, never by itself to 1."""
        key = segment.study, segment.trial
        end = self._scores.setdefault(key, self._chance.uniform(0.5, 0.9))
        return float(end * (1 - 0.5 ** (epoch + self._chance.random())))

    def _after(self, wait_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + wait_s, next(self._order), happen))
