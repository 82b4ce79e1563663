"""Settings of a space with which trials would fail whatever they learn: found before any is started, not one by one."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe, card_of
from clinscale.predict import TaskCard, windows_of
from clinscale.sweep.config import SweepRuntime
from clinscale.sweep.space import SearchSpace
from clinscale.tasks import Example, TaskData
from clinscale.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WARMUP = "optimizer.warmup_steps"
_OF_STEPS = frozenset(
    {
        *(_WARMUP, "optimizer.schedule", "optimizer.decay_ratio"),
        *("batch_size", "epochs", "max_tokens", "stride_tokens", "long_documents"),
    }
)
"""Fields of the recipe on which it depends whether the steps of a training are more than those of its warm-up."""


@dataclass(frozen=True)
class Base:
    """A base model of a study."""

    path: str
    """Folder or hub name."""
    label: str
    max_tokens: int
    """Tokens that it reads at once."""


def check_settings(
    study: str, space: SearchSpace, bases: Sequence[Base], data: TaskData, runtime: SweepRuntime
) -> None:
    """Refuse a space with a value that no trial of some base could train with.

    Args:
        study: its name.
        space: of the study.
        bases: which each of its values may meet.
        data: of the task.
        runtime: of the trials.

    Raises:
        ConfigError: a window is longer than a base reads, the trials' devices cannot do it, or a warm-up leaves nothing
            of the shortest training.
    """
    values = {key: dimension.examples() for key, dimension in space.parameters.items()}
    first = {key: some[0] for key, some in values.items()}
    changes: list[dict[str, Any]] = [{}, *({key: value} for key, some in values.items() for value in some)]
    for base, change in itertools.product(bases, changes):
        recipe = space.recipe(base.path, first | change)
        try:
            card_of(recipe, data, base.max_tokens)
            runtime.check_recipe(recipe)
        except ConfigError as error:
            which = "".join(f" with {key}={value!r}" for key, value in change.items())
            raise ConfigError(f"study {study}: every trial of {base.label}{which} would fail: {error}") from None
    if space.recipe("-", first).optimizer.warmup_steps is not None or _WARMUP in space.parameters:
        for base in bases:
            _check_warmup(study, space, base, data)


def _check_warmup(study: str, space: SearchSpace, base: Base, data: TaskData) -> None:
    """ConfigError where the warm-up of some trial leaves nothing of it."""
    tokenizer, counts = load_tokenizer(base.path), dict[tuple[Any, ...], _Windows]()
    for point in _points_of_steps(space):
        recipe = space.recipe(base.path, point)
        card = card_of(recipe, data, base.max_tokens)
        reading = (card.max_tokens, card.stride_tokens, card.long_documents)
        count = counts.setdefault(reading, _Windows(card, tokenizer, data.splits["train"]))
        if fault := _fault_of_warmup(recipe, count):
            searched = space.parameters.get(_WARMUP)
            values = f"is {searched.description()}" if searched else f"is {recipe.optimizer.warmup_steps}"
            raise ConfigError(
                f"study {study}: {_WARMUP} {values}, and the {count.number} training windows of {base.label} make "
                f"short trainings with batch_size={recipe.batch_size} and epochs={recipe.epochs}: {fault}"
            )


def _fault_of_warmup(recipe: FinetuneRecipe, windows: "_Windows") -> str:
    """The error of a training whose warm-up is too long; empty as soon as there are windows enough."""
    while True:
        try:
            recipe.optimizer.warmup_of(-(-windows.number // recipe.batch_size) * recipe.epochs)
            return ""
        except ConfigError as error:
            if not windows.count_more():
                return str(error)


class _Windows:
    """The windows of a training split, counted as far as anybody asked."""

    def __init__(self, card: TaskCard, tokenizer: "PreTrainedTokenizerBase", examples: Sequence[Example]) -> None:
        self.number = 0
        self._left = iter(examples)
        self._card, self._tokenizer = card, tokenizer

    def count_more(self) -> bool:
        """Count those of the next example; whether there was one."""
        example = next(self._left, None)
        if example is None:
            return False
        self.number += len(windows_of(self._card, self._tokenizer, example, train=True))
        return True


def _points_of_steps(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Points at all ends of what the steps depend on, and at each value that a condition of it names."""
    wanted = set(_OF_STEPS)
    for key, dimension in reversed(space.parameters.items()):
        wanted |= dimension.when.keys() if key in wanted else set()
    values = {
        key: [
            *dimension.examples(),
            *(one for other in space.parameters.values() for one in other.when.get(key, ())),
        ]
        for key, dimension in space.parameters.items()
        if key in wanted
    }
    for point in itertools.product(*values.values()):
        yield space.active(dict(zip(values, point, strict=True)))
