"""The next move of a sweep, as pure functions of its ledger: promotion, choice of the study, end.

Successive halving by promotion (Li et al. 2018, A System for Massively Parallel Hyperparameter Tuning, algorithm 2): a
trial pauses at each rung and goes on from its checkpoint when it is among the best `1 / reduction_factor` of those that
came so far, or no worse than a score that half of them have: there is no cut among equals. Nothing is trained further
before it has earned it, and nothing is trained twice.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clinscale.sweep.ledger import FINAL, Rung, Trial, leader_of
from clinscale.units import Duration

Scheduler = Literal["asha", "hyperband", "median", "none"]

_EARLY = 1 / 27
"""Share of a training at which trials are first judged."""
_FIRST = 3
"""Trials of each study before studies are compared by expected gain."""
_SPACINGS = 4
"""Top scores from which the tail of a study's scores is estimated."""
_LAST_LOOK = 0.5
"""Share of the first epoch above which a rung is the whole epoch: the split as a whole is worth the rest of it."""
_EVIDENCE = 8
"""Trials of a study that have a score, before its search may stop because it no longer pays."""
_POINTS = 100
"""Points of a metric from 0 to 1."""
_MOST_LOOKS = 8
"""Looks of a trial whose rungs are counted in steps; how many of them are inside its epoch depends on its batch."""


@dataclass(frozen=True)
class Halving:
    """The rungs at which trials are judged, and the share of them that goes on."""

    scheduler: Scheduler = "asha"
    grace_epochs: int | None = None
    """First rung; None is about 4 % of a training, but at least one epoch: ranks there often are those of the end."""
    reduction_factor: int = 3
    grace: Duration | None = None
    """Training before the first rung in steps or in shares of an epoch, in place of `grace_epochs`."""

    @property
    def looks(self) -> tuple[Duration, ...]:
        """The rungs inside the first epoch, at which a part of the development split judges."""
        if self.grace is None or self.scheduler == "none":
            return ()
        values = [self.grace.value * self.reduction_factor**place for place in range(_MOST_LOOKS)]
        if self.grace.unit == "epochs":
            values = [value for value in values if value <= _LAST_LOOK]
        return tuple(Duration(float(f"{value:.6g}"), self.grace.unit) for value in values)

    def stops(self, epochs: int, bracket: int = 0) -> list[Rung]:
        """The rungs of a trial of `epochs` in order, its end left out: looks, then whole epochs."""
        stops: list[Rung] = [*self.looks, *self._whole_epochs(epochs)]
        return stops[bracket:]

    def first_rung(self, epochs: int) -> int:
        """Epochs that every trial of `epochs` is given, where `grace` does not say it."""
        return self.grace_epochs or max(1, round(epochs * _EARLY))

    def rungs(self, epochs: int, bracket: int = 0) -> list[int]:
        """Epochs after which a trial of `epochs` is judged, the last one left out."""
        return [rung for rung in self.stops(epochs, bracket) if isinstance(rung, int)]

    def _whole_epochs(self, epochs: int) -> list[int]:
        rung: float = self.first_rung(epochs)
        if self.grace is not None:  # in steps, an epoch of the trial is what there is after its looks
            rung = self.grace.value if self.grace.unit == "epochs" else 1
        rungs = []
        while round_half_up(rung) < epochs:
            if rung > _LAST_LOOK:
                rungs.append(round_half_up(rung))
            rung *= self.reduction_factor
        return list(dict.fromkeys(rungs))

    def pauses(self, epochs: int) -> list[int]:
        """All whole epochs after which some trial may have to stop."""
        if self.scheduler == "none":
            return []
        rungs = self.rungs(epochs)
        return rungs if self.scheduler != "median" else list(range(rungs[0], epochs)) if rungs else []

    def spares(self, trial: Trial) -> bool:
        """Whether a trial at a whole epoch has trained fewer steps than `grace` says, where its epochs are short."""
        if self.grace is None or self.grace.unit != "steps" or not trial.epochs:
            return False
        return trial.epochs[-1].metrics.get("step", math.inf) < self.grace.value

    def bracket(self, number: int, epochs: int) -> int:
        """Hyperband's bracket of a trial: 0 is the most aggressive; in turns, the cheap ones more often."""
        if self.scheduler != "hyperband":
            return 0
        brackets = len(self.stops(epochs)) + 1
        turns = [bracket for bracket in range(brackets) for _ in range(brackets - bracket)]
        return turns[number % len(turns)]


@dataclass(frozen=True)
class Search:
    """The search of one study: its trials so far, and how far they may go."""

    trials: Sequence[Trial]
    epochs: int
    """Epochs of a trial that goes to its end."""
    num_points: int | None = None
    """Number of points of the space, if a grid ends the search."""
    closed: bool = False
    """Whether its search has stopped for good, as it no longer paid."""

    @property
    def all_failed(self) -> bool:
        """The first trials have all failed, so that more of them would only spend what the other studies need."""
        searched = [trial for trial in self.trials if trial.searched]
        return len(searched) >= _FIRST and all(trial.state == "failed" for trial in searched)


@dataclass(frozen=True)
class Start:
    """Begin a new trial in a study."""

    study: int


@dataclass(frozen=True)
class Resume:
    """Go on with a paused or lost trial."""

    trial: Trial


@dataclass(frozen=True)
class Confirm:
    """Repeat a trial's setting under another seed."""

    trial: Trial
    seed: int


@dataclass(frozen=True)
class Wait:
    """Running trials decide what comes next."""


@dataclass(frozen=True)
class Finish:
    """Nothing is left to do."""

    because: str


Move = Start | Resume | Confirm | Wait | Finish


@dataclass(frozen=True)
class Budget:
    """The budget and what has been spent of it; None is no limit."""

    trials: int | None = None
    device_seconds: float | None = None
    used_device_seconds: float = 0.0

    def allows(self, seconds: float) -> bool:
        """Whether as many more device-seconds are left."""
        return self.device_seconds is None or self.used_device_seconds + seconds <= self.device_seconds

    @property
    def exhausted(self) -> bool:
        """Nothing may run any further."""
        return self.device_seconds is not None and self.used_device_seconds >= self.device_seconds


def goes_on(trial: Trial, peers: Sequence[Trial], halving: Halving, epochs: int) -> bool:
    """Whether a running trial that has just reported trains on at once.

    Args:
        trial: with the look or epoch in question.
        peers: all trials of its study.
        halving: the rule.
        epochs: of a trial that goes to its end.
    """
    if not trial.searched or halving.scheduler == "none" or halving.spares(trial):
        return True
    if trial.rung is None or trial.objective_at(trial.rung) is None:  # a look without a score judges nobody
        return True
    if halving.scheduler == "median":
        return _above_median(trial, peers, halving.first_rung(epochs) if halving.grace is None else 0)
    stops = halving.stops(epochs, halving.bracket(trial.number, epochs))
    return trial.rung not in stops or trial in _promotable(peers, halving, epochs, trial.rung)


def next_move(
    searches: Sequence[Search],
    budget: Budget,
    halving: Halving,
    *,
    confirm_seeds: int = 1,
    least_gain: float | None = None,
) -> Move:
    """The next move of a free worker.

    Args:
        searches: of all studies.
        budget: of all studies.
        halving: the rule by which trials end early.
        confirm_seeds: seeds of the finalists.
        least_gain: points of the metric per device-hour that a new trial must promise; None is no limit. Trials that
            have earned a rung go on all the same.
    """
    alive = [search for search in searches if not search.all_failed]
    running = any(trial.state == "running" for search in alive for trial in search.trials)
    lost = [trial for search in alive for trial in search.trials if trial.state == "lost"]
    if lost:
        return Resume(lost[0])
    if budget.exhausted:
        return Wait() if running else Finish("the budget is spent")
    reserve_s = sum(_reserve_s(search, confirm_seeds) for search in alive)
    promoted = _next_promotion(alive, halving)
    if promoted and budget.allows(reserve_s + mean_cost_s([promoted])):
        return Resume(promoted)
    if (index := _next_study(searches, budget, reserve_s, least_gain)) is not None:
        return Start(index)
    if running:
        return Wait()
    if leader := _unfinished_leader(alive):
        return Resume(leader)
    if again := _next_confirmation(alive, confirm_seeds):
        return again
    if any(not pays(search, least_gain) for search in searches):
        return Finish("another trial no longer pays")
    return Finish("all trials have ended")


def expected_gain(trials: Sequence[Trial]) -> float:
    """Expected rise of a study's best score by one more trial.

    The next of n + 1 exchangeable trials is the best one with probability 1 / (n + 1); by how much is the mean
    excess of an exponential tail, estimated from the spacings of the top scores (Renyi: k times the k-th spacing
    has the same mean).
    """
    scores = sorted(_comparable_scores(trials), reverse=True)
    if len(scores) < 2:
        return math.inf
    spacings = [k * (scores[k - 1] - scores[k]) for k in range(1, min(_SPACINGS, len(scores)))]
    judged = sum(
        t.searched and bool(t.epochs or t.looked) for t in trials
    )  # halving lets the best have such scores
    return statistics.fmean(spacings) / (judged + 1)


def gain_per_device_hour(trials: Sequence[Trial]) -> float:
    """Points of the metric, hundredths, that another trial of the study is expected to bring per device-hour.

    Infinite while fewer trials have a score, or fewer scores can be compared, than say anything about its tail.
    """
    judged = [trial for trial in trials if trial.searched and (trial.epochs or trial.looked)]
    if len(judged) < _EVIDENCE or len(_comparable_scores(trials)) < _SPACINGS:
        return math.inf
    return _POINTS * expected_gain(trials) / max(mean_cost_s(trials) / 3600, 1e-9)


def pays(search: Search, least_gain: float | None) -> bool:
    """Whether a new trial of the study promises at least so many points per device-hour."""
    return not search.closed and (least_gain is None or gain_per_device_hour(search.trials) >= least_gain)


def to_close(searches: Sequence[Search], least_gain: float | None) -> list[int]:
    """The studies whose search stops for good: no new trial pays, and none runs that may show otherwise."""
    return [
        index
        for index, search in enumerate(searches)
        if not search.closed
        and not pays(search, least_gain)
        and not any(trial.state in ("running", "lost") for trial in search.trials)
    ]


def _comparable_scores(trials: Sequence[Trial]) -> list[float]:
    """Scores of the furthest place that enough trials share to show their tail: whole epochs, or else a look.

    Scores of looks are of a part of the development split, and are compared with nothing else.
    """
    searched = [trial for trial in trials if trial.searched]
    places = {look.at for trial in searched for look in trial.looked}
    found = [[trial.objective for trial in searched]]
    found += [[trial.objective_at(at) for trial in searched] for at in sorted(places, key=lambda at: -at.value)]
    scores = [[one for one in values if one is not None] for values in found]
    return next((one for least in (_SPACINGS, 2) for one in scores if len(one) >= least), [])


def mean_cost_s(trials: Sequence[Trial]) -> float:
    """Device-seconds that a trial of the study has cost so far, on average; 0 while unknown."""
    seconds = [trial.seconds for trial in trials if trial.searched and trial.reached]
    return statistics.fmean(seconds) if seconds else 0.0


def _reserve_s(search: Search, confirm_seeds: int) -> float:
    """Device-seconds that are kept for the end: to train the leader on, and to confirm the finalists."""
    leader = leader_of(search.trials)
    if leader is None:
        return 0.0
    epoch_s = leader.seconds / leader.reached
    confirmed = sum(not trial.searched for trial in search.trials)
    again = (confirm_seeds - 1) * len(finalists(search.trials)) - confirmed
    left = search.epochs - leader.reached if leader.state in ("paused", "running") else 0
    return epoch_s * (left + max(0, again) * search.epochs)


def _next_study(
    searches: Sequence[Search], budget: Budget, reserve_s: float, least_gain: float | None
) -> int | None:
    """The study whose next trial promises most per device-second; each gets a few trials first."""
    started = sum(trial.searched for search in searches for trial in search.trials)
    if budget.trials is not None and started >= budget.trials:
        return None
    able = [
        index
        for index, search in enumerate(searches)
        if not search.all_failed
        and pays(search, least_gain)
        and (search.num_points is None or _searched(search) < search.num_points)
        and budget.allows(reserve_s + mean_cost_s(search.trials))
    ]
    if not able:
        return None
    fewest = min(able, key=lambda index: _searched(searches[index]))
    if _searched(searches[fewest]) < _FIRST or len(able) == 1:
        return fewest

    def promise(index: int) -> float:
        trials = searches[index].trials
        waiting = sum(trial.state == "running" and trial.searched for trial in trials)
        # what is under way already counts as if it had brought its share
        return expected_gain(trials) / (1 + waiting) / max(mean_cost_s(trials), 1e-9)

    return max(able, key=promise)


def _searched(search: Search) -> int:
    return sum(trial.searched for trial in search.trials)


def _next_promotion(searches: Sequence[Search], halving: Halving) -> Trial | None:
    """A paused trial that has earned its next rung; those that are furthest first."""
    if halving.scheduler not in ("asha", "hyperband"):
        return None
    for search in searches:
        for rung in reversed(halving.stops(search.epochs)):
            for trial in _promotable(search.trials, halving, search.epochs, rung):
                if trial.state == "paused" and trial.rung == rung:
                    return trial
    return None


def _promotable(peers: Sequence[Trial], halving: Halving, epochs: int, rung: Rung) -> list[Trial]:
    """The best `1 / reduction_factor` of all that reached the rung, best first; in Hyperband those of each bracket."""
    found: list[Trial] = []
    reached = [t for t in peers if t.searched and t.state != "failed" and t.objective_at(rung) is not None]
    for bracket in sorted({halving.bracket(trial.number, epochs) for trial in reached}):
        if rung not in halving.stops(epochs, bracket):
            continue
        mine = [trial for trial in reached if halving.bracket(trial.number, epochs) == bracket]
        mine.sort(key=lambda trial: -(trial.objective_at(rung) or 0.0))  # stable: the earlier of equals first
        found += mine[: max(len(mine) // halving.reduction_factor, _tied(mine, rung))]
    return found


def _tied(best_first: Sequence[Trial], rung: Rung) -> int:
    """Number of trials whose score is no worse than one that half of them have; 0 without such a score.

    A model that has not begun to learn finds no entity, or gives all texts the commonest label. Which of those are the
    best cannot be seen yet, and the few that differ from them so early are often the ones that diverge.
    """
    scores = [trial.objective_at(rung) for trial in best_first]
    counts = Counter(scores)
    most = max(counts.values(), default=0)
    if most < max(2, len(scores) / 2):
        return 0
    return max(place for place, score in enumerate(scores, 1) if counts[score] == most)


def _above_median(trial: Trial, peers: Sequence[Trial], grace_epochs: int) -> bool:
    """Golovin et al. 2017, Google Vizier: stop what is below the median of the others at the same epoch."""
    rung = trial.rung
    if rung is None or trial.epoch < grace_epochs:
        return True
    others = [
        value
        for peer in peers
        if peer.searched and peer.number != trial.number and (value := peer.objective_at(rung)) is not None
    ]
    return len(others) < _FIRST or (trial.objective_at(rung) or 0.0) >= statistics.median(others)


def _unfinished_leader(searches: Sequence[Search]) -> Trial | None:
    """The best trial of a study, where it is only paused: a winner has been trained to its end."""
    for search in searches:
        leader = leader_of(search.trials)
        if leader and leader.state == "paused":
            return leader
    return None


def _next_confirmation(searches: Sequence[Search], seeds: int) -> Confirm | None:
    """The next seed of the winner, the runner-up or the first trial of a study."""
    for search in searches:
        for trial in finalists(search.trials) if seeds > 1 else ():
            used = {trial.seed} | {one.seed for one in search.trials if one.of == trial.number}
            if len(used) < seeds:
                return Confirm(trial, max(used) + 1)
    return None


def finalists(trials: Sequence[Trial]) -> list[Trial]:
    """The winner, the runner-up and the first trial, each once: what a confirmation compares."""
    whole = [trial for trial in trials if trial.searched and trial.objective is not None]
    scored = [trial for trial in whole if trial.state in FINAL and trial.state != "failed"]
    scored += [trial for trial in whole if trial.state == "paused"]
    ranked = sorted(scored, key=lambda trial: (-(trial.objective or 0.0), trial.number))
    first = [trial for trial in scored if trial.number == 0]
    return list({trial.number: trial for trial in [*ranked[:2], *first]}.values())


def round_half_up(value: float) -> int:
    """The nearest whole number; of two, the higher one."""
    return math.floor(value + 0.5)
