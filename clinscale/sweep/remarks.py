"""Remarks on how the search of a study went, as pure functions of its ledger."""

from collections.abc import Sequence

from clinscale.sweep.ledger import Closed, Trial
from clinscale.sweep.policy import Halving

_COST = 0.05
_OFF = 1.5
"""Factor by which a look in whole steps may miss the place that was asked for."""


def search_remarks(trials: Sequence[Trial], halving: Halving, closed: Closed | None, metric: str) -> list[str]:
    """Sentences on why a search stopped before its budget was spent, and on its looks; usually none.

    Args:
        trials: of one study.
        halving: the rule by which its trials end early.
        closed: why its search has stopped, if it has.
        metric: of its task.
    """
    found = look_remarks(trials, halving)
    if closed:
        found.append(
            f"the search stopped after {closed.trials} trials, as another one is expected to bring {closed.gain:.2g} "
            f"points of {metric} per device-hour, below recipe.stop_when_gain_below={closed.limit:g}"
        )
    return found


def look_remarks(trials: Sequence[Trial], halving: Halving) -> list[str]:
    """Sentences on looks that are not what was asked for; usually none.

    Args:
        trials: of one study.
        halving: the rule by which its trials end early.
    """
    if not halving.looks:
        return []
    looks = [look for trial in trials for look in trial.looks]
    found = []
    if not looks and any(trial.epochs for trial in trials):
        found.append(
            f"no trial has a look, as its first epoch ends before {halving.looks[0]}: the first rung is a whole epoch"
        )
    if failed := [look for look in looks if look.objective is None]:
        found.append(
            f"{failed[0].message}, so that trials are not compared there; raise recipe.grace for a larger part"
        )
    shares = [(look, look.epoch / look.at.value) for look in looks if look.at.unit == "epochs"]
    if moved := [look for look, ratio in shares if not 1 / _OFF <= ratio <= _OFF]:
        steps = moved[0].metrics.get("step", 0.0)
        found.append(
            f"the look at {moved[0].at} comes after {steps:.0f} whole step{'' if steps == 1 else 's'}, which "
            f"{'is' if steps == 1 else 'are'} {moved[0].epoch:.2g} of an epoch"
        )
    judged_s = sum(
        look.metrics.get("perf/look_s", 0.0) + look.metrics.get("perf/checkpoint_s", 0.0) for look in looks
    )
    if judged_s > _COST * sum(look.metrics.get("perf/train_s", 0.0) for look in looks):
        found.append(
            f"looks cost more than {_COST:.0%} of the training between them, as it is short; raise recipe.grace"
        )
    return found
