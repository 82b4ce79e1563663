"""Averages of weights: over the last epochs of one fine-tuning, and over several fine-tunings of one base."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale import models
from clinscale.errors import ClinscaleError
from clinscale.predict import Predictor, load_predictor
from clinscale.tasks import TaskData, metric_of

if TYPE_CHECKING:
    import torch


@dataclass
class Mean:
    """The mean of weights of one shape, which grows by one at a time."""

    count: int = 0
    weights: "dict[str, torch.Tensor]" = field(default_factory=dict)

    def plus(self, weights: "Mapping[str, torch.Tensor]") -> "Mean":
        """The mean with one more; numbers that are not floating, as positions, are those of the last."""
        mean = {}
        for name, value in weights.items():
            before = self.weights.get(name)
            mean[name] = value.detach().to("cpu", copy=True)
            if before is not None and value.is_floating_point():
                mean[name] = before + (mean[name] - before) / (self.count + 1)
        return Mean(self.count + 1, mean)


@dataclass(frozen=True)
class Soup:
    """Weights that were averaged, judged on the development split."""

    folder: Path
    """HF folder with task card."""
    members: tuple[Path, ...]
    """HF folders that were averaged, the best first."""
    dev: float
    """The task's metric on the development split."""
    alone: float
    """The metric of the first member there."""


def first_averaged(epochs: int) -> int:
    """The first of the epochs whose average is kept: those of the second half."""
    return epochs // 2 + 1


def greedy_soup(
    folders: Sequence[Path], data: TaskData, out: Path, *, attention: models.Attention = "exact"
) -> Soup | None:
    """The average of fine-tunings of one base, written to `out`; None where no other one makes the first no worse.

    Each folder joins in turn, and stays where the development split is judged no worse (Wortsman et al. 2022, Model
    soups). Folders that answer otherwise, or that cannot be read, are left out.

    Raises:
        DataError: the first folder is no fine-tuned model.
    """
    predictor = load_for(data, folders[0], attention)
    dev = alone = dev_scores(predictor, data)
    mean, members = Mean().plus(predictor.model.state_dict()), [folders[0]]
    metric = metric_of(data.task)
    for folder, weights in _alike(folders[1:], data, predictor, attention):
        tried = mean.plus(weights)
        predictor.model.load_state_dict(tried.weights)
        scores = dev_scores(predictor, data)
        if scores[metric] >= dev[metric]:
            mean, dev = tried, scores
            members.append(folder)
    if len(members) == 1:
        return None
    predictor.model.load_state_dict(mean.weights)
    write_judged(predictor, data, out, dev)
    return Soup(out, tuple(members), dev[metric], alone[metric])


def load_for(data: TaskData, folder: Path, attention: models.Attention) -> Predictor:
    """The predictor of a folder as training has it: without the threshold that was chosen after it."""
    loaded = load_predictor(folder, attention=attention)
    return Predictor(loaded.model, loaded.tokenizer, loaded.card.model_copy(update={"task": data.task}))


def dev_scores(predictor: Predictor, data: TaskData) -> dict[str, float]:
    """The metrics on the development split, with the threshold that is chosen there, if any."""
    examples = data.splits["dev"]
    return predictor.kind.dev_scores(examples, predictor.predict(examples), predictor.card.labels)


def write_judged(predictor: Predictor, data: TaskData, out: Path, scores: Mapping[str, float]) -> None:
    """Write the HF folder of a predictor, whose card has the threshold among its scores."""
    models.save_hf(predictor.model, predictor.tokenizer, out)
    task = data.task.model_copy(update={"threshold": scores.get("threshold", data.task.threshold)})
    predictor.card.model_copy(update={"task": task}).write(out)


def _alike(
    folders: Sequence[Path], data: TaskData, first: Predictor, attention: models.Attention
) -> "Iterator[tuple[Path, Mapping[str, torch.Tensor]]]":
    """Folders with the card and the shapes of the first, and their weights."""
    shapes = {name: value.shape for name, value in first.model.state_dict().items()}
    for folder in folders:
        try:
            other = load_for(data, folder, attention)
        except ClinscaleError:  # removed for want of room, or damaged: it was no winner
            continue
        weights = other.model.state_dict()
        if other.card == first.card and {name: value.shape for name, value in weights.items()} == shapes:
            yield folder, weights
