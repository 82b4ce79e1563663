"""Looks inside the first epoch: where they are, and the fixed part of the development split that judges them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clinscale.tasks import Example, TaskData, kind_of
from clinscale.units import Duration

_COST = 0.05
"""Share of the training between two looks that a look may cost."""
_TRAIN_TO_FORWARD = 2.4
"""Costs of training on an example in those of predicting it: three forward passes, less what decoding and scoring
take beside the one of a prediction."""
_LEAST_EXAMPLES = 8
"""Fewer judge nothing; where the training between two looks is too short for as many, a look costs more than its
share."""
_SEED = 0


@dataclass(frozen=True)
class Looks:
    """The places inside the first epoch at which a fine-tuning is judged on a part of the development split."""

    at: tuple[Duration, ...]
    """Steps, or shares of the epoch, in order."""
    examples: tuple[int, ...]
    """The examples that judge, by their places in the split."""
    known: int = 0
    """Number of looks at the beginning of `at` that the caller has, and that are not judged again."""

    def steps(self, steps_per_epoch: int) -> dict[int, int]:
        """Place in `at` of each look, by its step: whole steps inside the epoch, at least one; of equals the first."""
        found: dict[int, int] = {}
        for place, at in enumerate(self.at):
            share = at.value if at.unit == "steps" else at.value * steps_per_epoch
            step = max(1, round(share))
            if step < steps_per_epoch:
                found.setdefault(step, place)
        return found

    def following(self, step: int, steps_per_epoch: int) -> tuple[int, int] | None:
        """Step and place of the first look at or after `step` that is not known; None where there is none."""
        steps = sorted(self.steps(steps_per_epoch).items())
        return next(((at, place) for at, place in steps if at >= step and place >= self.known), None)


def share_of(step: int, steps_per_epoch: int) -> float:
    """Share of an epoch, as ledgers hold it."""
    return round(step / steps_per_epoch, 6)


def look_part(data: TaskData, *, trained_examples: int) -> tuple[int, ...]:
    """Places in the development split of the examples that judge a look; a function of the data and the size alone.

    Every group of examples has its share of the part, and at least one where there is room; the group of an example is
    its rarest label there.

    Args:
        data: of the task.
        trained_examples: examples of training between two looks, which bound what a look may cost.
    """
    dev = data.splits["dev"]
    size = max(_LEAST_EXAMPLES, int(_COST * _TRAIN_TO_FORWARD * trained_examples))
    if size >= len(dev):
        return tuple(range(len(dev)))
    groups = _groups(data, dev)
    counts = _allotted({name: len(places) for name, places in groups.items()}, size)
    return tuple(sorted(place for name, places in groups.items() for place in _spread(places, counts[name])))


def _groups(data: TaskData, examples: Sequence[Example]) -> dict[str, list[int]]:
    """Places of the examples by their rarest label."""
    kind = kind_of(data.task)
    labels = [sorted(set(map(str, kind.labels_of(example)))) for example in examples]
    frequency = Counter(label for found in labels for label in found)
    groups: dict[str, list[int]] = {}
    for place, found in enumerate(labels):
        groups.setdefault(min(found, key=lambda label: (frequency[label], label), default=""), []).append(place)
    return dict(sorted(groups.items()))


def _allotted(sizes: dict[str, int], size: int) -> dict[str, int]:
    """Examples of each group: one, as far as they go round the largest groups, then by largest remainders."""
    total = sum(sizes.values())
    counts = dict.fromkeys(sizes, 0)
    for name in sorted(sizes, key=lambda name: -sizes[name])[:size]:
        counts[name] = 1
    while sum(counts.values()) < size:
        name = max(sizes, key=lambda name: (counts[name] < sizes[name], size * sizes[name] / total - counts[name]))
        counts[name] += 1
    return counts


def _spread(places: Sequence[int], count: int) -> list[int]:
    """A sample of the places, the same each time."""
    import numpy as np

    chosen = np.random.default_rng([_SEED, len(places)]).permutation(len(places))[:count]
    return [places[index] for index in chosen]
