"""Averages of trials that a study offers beside its winner, judged on the development split alone."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import DataError
from clinscale.finetune import dev_scores, first_averaged, greedy_soup, load_for, write_judged
from clinscale.models import Attention
from clinscale.sweep.ledger import Trial
from clinscale.sweep.space import MODEL
from clinscale.sweep.trial import average_folder, trial_folder
from clinscale.tasks import TaskData, metric_of

OFFERS_FILE = "offers.json"
"""File of a study, and artifact of its run: averages of trials by their scores on the development split."""

_MOST = 6
"""Trials that a soup is made from at most."""


@dataclass(frozen=True)
class Offer:
    """An average of weights that may be taken in place of the winner."""

    id: str
    """`soup` or `average`, the folder in the study's that holds it."""
    what: str
    """Description of what was averaged."""
    dev: float
    """Metric on the development split."""
    winner_dev: float
    """Metric of the winner there."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def sentence(self, metric: str) -> str:
        """The offer for a reader; `metric` names the score."""
        return (
            f"the average of {self.what} has dev {metric} {self.dev:.4f}, the winner alone {self.winner_dev:.4f}"
        )


def make_offers(
    folder: Path, trials: Sequence[Trial], kept: Trial, data: TaskData, *, epochs: int, attention: Attention
) -> list[Offer]:
    """The averages that a study can offer: a greedy soup of its best trials, and the winner's last epochs.

    Args:
        folder: of the study.
        trials: of the study.
        kept: the winner's trial, whose weights would be taken.
        data: of the task.
        epochs: of the winner's recipe.
        attention: as trials are judged.
    """
    found = [_soup(folder, trials, kept, data, attention), _average(folder, kept, data, epochs, attention)]
    return [offer for offer in found if offer]


def best_offer(offers: Sequence[Offer]) -> Offer | None:
    """The best of those that are better than the winner on the development split; None where none is."""
    better = [offer for offer in offers if offer.dev > offer.winner_dev]
    return max(better, key=lambda offer: offer.dev, default=None)


def soup_candidates(trials: Sequence[Trial], kept: Trial) -> list[Trial]:
    """The kept trial, then the best others that began from the same weights: of its base, under its seed."""
    base = kept.params.get(MODEL, 0)
    others = [
        trial
        for trial in trials
        if trial.number != kept.number
        and trial.objective is not None
        and trial.state != "failed"
        and trial.seed == kept.seed
        and trial.params.get(MODEL, 0) == base
    ]
    others.sort(key=lambda trial: (-(trial.objective or 0.0), trial.number))
    return [kept, *others][:_MOST]


def _soup(
    folder: Path, trials: Sequence[Trial], kept: Trial, data: TaskData, attention: Attention
) -> Offer | None:
    asked = {trial_folder(folder, trial.id): trial for trial in soup_candidates(trials, kept)}
    soup = greedy_soup(list(asked), data, trial_folder(folder, "soup"), attention=attention)
    if soup is None:
        return None
    numbers = [asked[member].number for member in soup.members]
    return Offer("soup", f"trials {', '.join(map(str, numbers))}", soup.dev, soup.alone)


def _average(folder: Path, kept: Trial, data: TaskData, epochs: int, attention: Attention) -> Offer | None:
    averaged = [one.epoch for one in kept.epochs if one.epoch >= first_averaged(epochs)]
    out = trial_folder(folder, "average")
    try:
        predictor = load_for(data, average_folder(folder, kept.id), attention)
    except DataError:  # it ended before there was more than one epoch to average
        return None
    metric, scores = metric_of(data.task), dev_scores(predictor, data)
    alone = dev_scores(load_for(data, trial_folder(folder, kept.id), attention), data)
    shutil.rmtree(out, ignore_errors=True)
    write_judged(predictor, data, out, scores)
    what = f"epochs {averaged[0]} to {averaged[-1]} of trial {kept.number}"
    return Offer("average", what, scores[metric], alone[metric])
