"""Epochs with early stopping on the development split; the best weights end in a folder.

A fine-tuning is a function of its recipe: an epoch's order and dropout follow from (seed, epoch), so that one that was
interrupted goes on from its last whole epoch and ends as if it had not been.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinscale import corpus, models
from clinscale.engine import TorchEngine
from clinscale.errors import ConfigError, DataError, OutOfMemoryError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.predict import Predictor, TaskCard, collate
from clinscale.runtime import exhausted_memory
from clinscale.storage import atomic_path
from clinscale.tasks import TaskData, Window, kind_of, metric_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnEpoch = Callable[[dict[str, float]], None]
"""Called after each epoch with `epoch`, `step`, `train/loss`, `eval/<task>/<metric>` of the development split, and
`perf/`: `train_s`, `eval_s` and `micro_batch_size` of that epoch."""

_CACHED_SPLITS = 4
"""Splits whose windows a process keeps, so that the next fine-tuning on the same data tokenises nothing."""

_DEV_TOKENS = 2_000_000
"""A development split of more tokens is read anew each epoch: its windows carry offsets, 160 bytes a token."""


@dataclass(frozen=True)
class FinetuneResult:
    """The best epoch of one fine-tuning."""

    folder: Path
    """HF folder with task card: loads in plain `transformers` and in `clinscale predict`."""
    value: float
    """The task's metric on the development split at the best epoch."""
    epoch: int


def finetune(
    recipe: FinetuneRecipe,
    data: TaskData,
    folder: str | Path,
    *,
    runtime: FinetuneRuntime | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: str | Path | None = None,
    until_epoch: int | None = None,
) -> FinetuneResult:
    """Train on `train`, judge each epoch on `dev`, keep the best epoch in `folder`; never looks at `test`.

    A micro batch that does not fit into memory is halved until it does: the step stays the same.

    Args:
        recipe: changes the numbers.
        data: of the task.
        folder: for the best epoch.
        runtime: changes only speed or place.
        on_epoch: told of every epoch; what it raises ends the fine-tuning there.
        checkpoint: file that holds the state after the last epoch. Where it exists the fine-tuning goes on from it, and
            `on_epoch` is told again of the epochs that it holds.
        until_epoch: stop after this epoch, to go on from `checkpoint` another time.

    Raises:
        ConfigError: the model cannot read `max_tokens`, or the loss is no longer a number.
        DataError: the model is not there, or a split has no examples.
        OutOfMemoryError: not even one window fits.
    """
    for split in ("train", "dev"):
        if not data.splits.get(split):
            raise DataError(f"task {data.task.name} has no {split} examples; check its splits")
    loop = _Loop(recipe, data, Path(folder), runtime or FinetuneRuntime())
    state = Path(checkpoint) if checkpoint else None
    if state and state.exists():
        loop.restore(state)
    for metrics in list(loop.history):
        if on_epoch:
            on_epoch(metrics)
    while not loop.done and len(loop.history) < (until_epoch or recipe.epochs):
        metrics = loop.epoch()
        if state:
            loop.save(state)
        if on_epoch:
            on_epoch(metrics)
    return loop.result


class _Loop:
    """Model, data and what has been reached."""

    def __init__(self, recipe: FinetuneRecipe, data: TaskData, folder: Path, runtime: FinetuneRuntime) -> None:
        import torch

        device = runtime.device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self._recipe, self._data, self._folder = recipe, data, folder
        self._predictor = _predictor(recipe, data, device, runtime)
        self._windows = _train_windows(self._predictor, data)
        self._dev_windows = _dev_windows(self._predictor, data)
        self._family = models.family_of(self._predictor.model.config.model_type)
        self._steps_per_epoch = -(-len(self._windows) // recipe.batch_size)
        self._engine = TorchEngine(
            self._predictor.model,
            recipe.optimizer,
            total_steps=self._steps_per_epoch * recipe.epochs,
            precision=recipe.precision,
            device=device,
        )
        self._metric = metric_of(data.task)
        self._best: FinetuneResult | None = None
        self.history: list[dict[str, float]] = []
        """What each epoch reported."""

    @property
    def done(self) -> bool:
        """No epoch is left, or none can be better, or patience is at its end."""
        epoch, best = len(self.history), self._best
        if best is None:
            return False
        perfect = best.value >= 1.0  # every metric ends at 1
        return perfect or epoch >= self._recipe.epochs or epoch - best.epoch >= self._recipe.patience_epochs

    @property
    def result(self) -> FinetuneResult:
        """The best epoch so far."""
        assert self._best is not None
        return self._best

    def epoch(self) -> dict[str, float]:
        """Train one epoch, judge it, keep it if it is the best; what it reports."""
        epoch = len(self.history) + 1
        start_s = time.perf_counter()
        loss = self._train(epoch)
        trained_s = time.perf_counter()
        scores = self._predictor.score(self._data.splits["dev"], windows=self._dev_windows)
        evaluated_s = time.perf_counter()
        if self._best is None or scores[self._metric] > self._best.value:
            models.save_hf(self._predictor.model, self._predictor.tokenizer, self._folder)
            self._predictor.card.write(self._folder)
            self._best = FinetuneResult(self._folder, scores[self._metric], epoch)
        self.history.append(
            {
                "epoch": epoch,
                "step": epoch * self._steps_per_epoch,
                "train/loss": loss,
                **{f"eval/{self._data.task.name}/{name}": value for name, value in scores.items()},
                "perf/train_s": trained_s - start_s,
                "perf/eval_s": evaluated_s - trained_s,
                "perf/micro_batch_size": self._predictor.batch_size,
            }
        )
        return self.history[-1]

    def save(self, path: Path) -> None:
        """Write all that the next epoch needs; a reader sees the old file or the new one."""
        import torch

        best = {"value": self.result.value, "epoch": self.result.epoch}
        state = {"engine": self._engine.state_dict(), "history": self.history, "best": best}
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote; a damaged file, or one whose best weights are gone, counts as none."""
        import pickle

        import torch

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            models.check_hf_folder(self._folder)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, DataError):
            return
        self._engine.load_state_dict(state["engine"])
        self.history = list(state["history"])
        self._best = FinetuneResult(self._folder, state["best"]["value"], state["best"]["epoch"])

    def _train(self, epoch: int) -> float:
        """One pass in an order that is a function of (seed, epoch); returns the mean loss."""
        import torch

        recipe = self._recipe
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, epoch]).generate_state(1)[0]))
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self._windows))
        self._engine.module.train()
        total = 0.0
        for start in range(0, len(order), recipe.batch_size):
            chosen = [self._windows[index] for index in order[start : start + recipe.batch_size]]
            chosen.sort(key=lambda window: len(window.input_ids))  # a micro batch of like lengths pads little
            total += self._gradients(chosen) * len(chosen)
            self._engine.step()
        mean = total / len(order)
        if not math.isfinite(mean):
            raise ConfigError(
                f"fine-tuning on {self._data.task.name}: the loss of epoch {epoch} is {mean}; lower "
                f"optimizer.learning_rate={recipe.optimizer.learning_rate:g}"
            )
        return mean

    def _gradients(self, chosen: Sequence[Window]) -> float:
        """Gradients of the mean loss over the windows of one step; returns that loss."""
        while True:
            try:
                return self._accumulate(chosen, self._predictor.batch_size)
            except (MemoryError, RuntimeError, OSError) as error:
                memory = exhausted_memory(error)
                if not memory:
                    raise
                if self._predictor.batch_size == 1:
                    raise OutOfMemoryError(
                        f"fine-tuning on {self._data.task.name}: one window of {self._predictor.card.max_tokens} tokens "
                        f"does not fit into {memory} memory; lower recipe.max_tokens or use "
                        "runtime.activation_checkpointing=true"
                    ) from None
            self._engine.forget_gradients()
            self._predictor.batch_size = -(-self._predictor.batch_size // 2)

    def _accumulate(self, chosen: Sequence[Window], micro: int) -> float:
        total = 0.0
        for first in range(0, len(chosen), micro):
            part = chosen[first : first + micro]
            batch = collate(part, pad_token_id=self._predictor.tokenizer.pad_token_id, family=self._family)
            loss = self._engine.forward(batch).loss * (len(part) / len(chosen))
            self._engine.backward(loss)
            total += float(loss.detach())
        return total


def _predictor(recipe: FinetuneRecipe, data: TaskData, device: str, runtime: FinetuneRuntime) -> Predictor:
    """The encoder with a new head for the task, and the card that will be saved with it."""
    kind = kind_of(data.task)
    model: PreTrainedModel = models.load_hf(
        recipe.model,
        head=kind.head,
        labels=kind.output_names(data.labels),
        problem_type=kind.problem_type(data.task),
        dropout=recipe.dropout,
        seed=recipe.seed,
        attention=runtime.attention,
        unpad=True,
        evaluation_pattern=recipe.evaluation_pattern,
    )
    if runtime.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    limit = models.max_tokens_of(model.config)
    max_tokens = recipe.max_tokens or limit
    if max_tokens > limit:
        raise ConfigError(f"recipe.max_tokens={max_tokens} is longer than the model's {limit} positions; lower it")
    card = TaskCard(
        task=data.task,
        labels=data.labels,
        max_tokens=max_tokens,
        stride_tokens=min(recipe.stride_tokens, max_tokens // 4),
        long_documents=recipe.long_documents,
    )
    micro = min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
    return Predictor(model.to(device), _tokenizer(recipe.model), card, batch_size=micro)


@functools.lru_cache(maxsize=2)
def _tokenizer(model: str) -> "PreTrainedTokenizerBase":
    return corpus.load_tokenizer(model)


class _Cache:
    """The windows of the last few (data, split, tokenizer, card); hyperparameters of a search leave them as they are."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once while the key is among the last used."""
        if key not in self._kept:
            while len(self._kept) >= _CACHED_SPLITS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = make()
        return self._kept[key]


_cache = _Cache()


def _train_windows(predictor: Predictor, data: TaskData) -> list[Window]:
    return _cache.get(  # type: ignore[no-any-return]
        ("train", *_seen_by(predictor, data)),
        lambda: [
            window.packed()
            for example in data.splits["train"]
            for window in predictor.windows(example, train=True)
        ],
    )


def _dev_windows(predictor: Predictor, data: TaskData) -> list[list[Window]] | None:
    def make() -> list[list[Window]] | None:
        made, tokens = [], 0
        for example in data.splits["dev"]:
            made.append(predictor.windows(example))
            tokens += sum(len(window.input_ids) for window in made[-1])
            if tokens > _DEV_TOKENS:
                return None
        return made

    return _cache.get(("dev", *_seen_by(predictor, data)), make)  # type: ignore[no-any-return]


def _seen_by(predictor: Predictor, data: TaskData) -> tuple[str, ...]:
    """All that windows are made from; the tokenizer by where it came from."""
    return data.fingerprint, predictor.tokenizer.name_or_path, predictor.card.model_dump_json()
