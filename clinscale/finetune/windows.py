"""Windows of a fine-tuning's examples; a process makes them once for all fine-tunings on the same data."""

from collections.abc import Callable
from typing import Any, TypeVar

from clinscale.predict import Predictor
from clinscale.tasks import Example, TaskData, Window
from clinscale.tokenizers import tokenizer_fingerprint

_CACHED_SPLITS = 6
"""Splits whose windows a process keeps, so that the next fine-tuning on the same data tokenises nothing."""

_DEV_TOKENS = 2_000_000
"""A development split of more tokens is read anew each epoch: its windows carry offsets, 160 bytes a token."""

_kept: dict[Any, Any] = {}
"""Windows of the last few (data, split, tokenizer, card); hyperparameters of a search leave them as they are."""

_Made = TypeVar("_Made")


def _once(key: Any, make: Callable[[], _Made]) -> _Made:
    """The result of `make`, made once while the key is among the last used."""
    if key in _kept:
        made: _Made = _kept.pop(key)
    else:
        while len(_kept) >= _CACHED_SPLITS:
            del _kept[next(iter(_kept))]
        made = make()
    _kept[key] = made
    return made


def train_windows(predictor: Predictor, data: TaskData) -> list[Window]:
    """All windows of the training split, without what only a prediction needs."""
    examples = data.splits["train"]
    return _once(
        ("train", *_seen_by(predictor, data, examples)),
        lambda: [window.packed() for example in examples for window in predictor.windows(example, train=True)],
    )


def dev_windows(predictor: Predictor, data: TaskData, examples: tuple[Example, ...]) -> list[list[Window]] | None:
    """Windows of each of these examples of the development split; None where there are too many to keep."""

    def make() -> list[list[Window]] | None:
        made, tokens = [], 0
        for example in examples:
            made.append(predictor.windows(example))
            tokens += sum(len(window.input_ids) for window in made[-1])
            if tokens > _DEV_TOKENS:
                return None
        return made

    return _once(("dev", *_seen_by(predictor, data, examples)), make)


def _seen_by(predictor: Predictor, data: TaskData, examples: tuple[Example, ...]) -> tuple[str | int, ...]:
    """All that windows are made from.

    The fingerprint is of the data as read, of which `examples` may be a part only.
    """
    tokenizer = tokenizer_fingerprint(predictor.tokenizer)
    return data.fingerprint, hash(examples), tokenizer, predictor.card.model_dump_json()
