"""Epochs with early stopping on the development split; the best weights end in a folder.

A fine-tuning is a function of its recipe: an epoch's order and dropout follow from (seed, epoch), so that one that was
interrupted goes on from its last whole epoch and ends as if it had not been.
"""

import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinscale import models
from clinscale.engine import Engine, TorchEngine, seed_torch
from clinscale.errors import ConfigError, DataError, DivergenceError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.finetune.windows import dev_windows, train_windows
from clinscale.predict import Predictor, TaskCard, collate
from clinscale.runtime import out_of_memory_as, run_halving
from clinscale.storage import atomic_path
from clinscale.tasks import TaskConfig, TaskData, Window, kind_of, metric_of
from clinscale.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnEpoch = Callable[[dict[str, float]], None]
"""Called after each epoch with `epoch`, `step`, `train/loss`, `eval/<task>/<metric>` of the development split, and
`perf/`: `train_s`, `eval_s`, `latency_s` (of one example) and `micro_batch_size` of that epoch."""


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

    In this process alone: see `finetune_on_workers` for several. A micro batch that does not fit into memory is halved
    until it does: the step stays the same.

    Args:
        recipe: changes the numbers.
        data: of the task.
        folder: for the best epoch.
        runtime: changes only speed or place.
        on_epoch: called for every epoch; what it raises ends the fine-tuning there.
        checkpoint: file that holds the state after the last epoch. Where it exists the fine-tuning goes on from it, and
            `on_epoch` is called again for the epochs that it holds.
        until_epoch: stop after this epoch, to go on from `checkpoint` another time.

    Raises:
        ConfigError: the model cannot read `max_tokens`, or the loss is no longer a number.
        DataError: the model is not there, or a split has no examples.
        OutOfMemoryError: not even one window fits.
    """
    runtime = runtime or FinetuneRuntime()
    if runtime.num_workers != 1:
        raise ConfigError(
            f"runtime.num_workers must be 1 in finetune(), which is one process, got {runtime.num_workers}; call "
            "finetune_on_workers in a ray_session, or set runtime.num_workers=1"
        )
    loop = _OneProcess(recipe, data, Path(folder), runtime, Path(checkpoint) if checkpoint else None)
    return loop.run(on_epoch or (lambda metrics: None), until_epoch)


def seconds_per_epoch(
    recipe: FinetuneRecipe, data: TaskData, *, runtime: FinetuneRuntime | None = None, seconds: float = 3.0
) -> float:
    """Seconds that an epoch of a fine-tuning will take here, in one process, measured on some steps and examples.

    Raises:
        As `finetune`.
    """
    return _OneProcess(recipe, data, Path(), runtime or FinetuneRuntime(), None).seconds_per_epoch(seconds)


class EpochLoop(ABC):
    """Model, data and what has been reached; the subclasses say on what it runs."""

    _engine: Engine

    def __init__(
        self,
        recipe: FinetuneRecipe,
        data: TaskData,
        folder: Path,
        runtime: FinetuneRuntime,
        *,
        rank: int = 0,
        dev_share: slice = slice(None),
    ) -> None:
        """Load model and windows; `dev_share` are the examples of the development split to be predicted here."""
        import torch

        for split in ("train", "dev"):
            if not data.splits.get(split):
                raise DataError(f"task {data.task.name} has no {split} examples; check its splits")
        torch.manual_seed(recipe.seed)
        self._recipe, self._data, self._folder, self._rank = recipe, data, folder, rank
        self._predictor = _predictor(recipe, data, runtime)
        self._windows = train_windows(self._predictor, data)
        self._dev_examples = data.splits["dev"][dev_share]
        self._dev_windows = dev_windows(self._predictor, data, dev_share)
        self._family = models.family_of(self._predictor.model.config.model_type)
        self._steps_per_epoch = -(-len(self._windows) // recipe.batch_size)
        self._total_steps = self._steps_per_epoch * recipe.epochs
        self.history: list[dict[str, float]] = []
        """Reports of the epochs."""

    def run(self, on_epoch: OnEpoch, until_epoch: int | None) -> FinetuneResult:
        """Train from where `restore` is to the last epoch; `on_epoch` is called for earlier epochs as well."""
        self.restore()
        for metrics in list(self.history):
            on_epoch(metrics)
        while not self.done and len(self.history) < (until_epoch or self._recipe.epochs):
            on_epoch(self.epoch())
        return self.result

    @property
    def done(self) -> bool:
        """No epoch is left, or none can be better, or patience is at its end."""
        epoch = len(self.history)
        if not epoch:
            return False
        best = self.result
        perfect = best.value >= 1.0  # every metric ends at 1
        return perfect or epoch >= self._recipe.epochs or epoch - best.epoch >= self._recipe.patience_epochs

    @property
    def result(self) -> FinetuneResult:
        """The best epoch so far."""
        return best_of(self.history, self._data.task, self._folder)

    def epoch(self) -> dict[str, float]:
        """Train one epoch, judge it, keep it if it is the best; what it reports."""
        epoch = len(self.history) + 1
        start_s = time.perf_counter()
        loss = self._train(epoch)
        trained_s = time.perf_counter()
        scores = self._scores()
        evaluated_s = time.perf_counter()
        self.history.append(
            {
                "epoch": epoch,
                "step": epoch * self._steps_per_epoch,
                "train/loss": loss,
                **{f"eval/{self._data.task.name}/{name}": value for name, value in scores.items()},
                "perf/train_s": trained_s - start_s,
                "perf/eval_s": evaluated_s - trained_s,
                "perf/latency_s": (evaluated_s - trained_s) / len(self._data.splits["dev"]),
                "perf/micro_batch_size": self._predictor.batch_size,
            }
        )
        self._keep(best=self.result.epoch == epoch)
        return self.history[-1]

    @property
    def card(self) -> TaskCard:
        """The card of the best epoch, with the threshold that was chosen on the development split after it."""
        best = self.history[self.result.epoch - 1]
        threshold = best.get(f"eval/{self._data.task.name}/threshold", self._data.task.threshold)
        task = self._data.task.model_copy(update={"threshold": threshold})
        return self._predictor.card.model_copy(update={"task": task})

    @abstractmethod
    def restore(self) -> None:
        """Go on from what `_keep` wrote last, if it is there and whole."""

    @abstractmethod
    def _keep(self, *, best: bool) -> None:
        """Write what the next epoch needs; the weights as well if this one is the best."""

    @abstractmethod
    def _scores(self) -> dict[str, float]:
        """The task's metrics on the development split, and the threshold that is chosen there, if any."""

    @abstractmethod
    def _gradients(self, chosen: Sequence[Window]) -> float:
        """Gradients of the mean loss over the windows of one step; returns what this process has of that loss."""

    def _train(self, epoch: int) -> float:
        """One pass in an order that is a function of (seed, epoch); returns the mean loss."""
        recipe = self._recipe
        seed_torch(recipe.seed, epoch, self._rank)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self._windows))
        self._engine.module.train()
        total = 0.0
        for start in range(0, len(order), recipe.batch_size):
            chosen = [self._windows[index] for index in order[start : start + recipe.batch_size]]
            chosen.sort(key=lambda window: len(window.input_ids))  # a micro batch of like lengths pads little
            total += self._gradients(chosen) * len(chosen)
            self._engine.step()
        mean = self._engine.over_ranks(total) / len(order)
        if not math.isfinite(mean):
            raise DivergenceError(
                f"fine-tuning on {self._data.task.name}: the loss of epoch {epoch} is {mean}; lower "
                f"optimizer.learning_rate={recipe.optimizer.learning_rate:g}"
            )
        return mean

    def _loss(self, windows: Sequence[Window], *, least_length: int = 0) -> "torch.Tensor":
        """Mean loss of one forward pass."""
        batch = collate(
            windows,
            pad_token_id=self._predictor.tokenizer.pad_token_id,
            family=self._family,
            least_length=least_length,
        )
        loss: torch.Tensor = self._engine.forward(batch).loss
        return loss


class _OneProcess(EpochLoop):
    """Plain torch on one device."""

    _engine: TorchEngine

    def __init__(
        self,
        recipe: FinetuneRecipe,
        data: TaskData,
        folder: Path,
        runtime: FinetuneRuntime,
        checkpoint: Path | None,
    ) -> None:
        import torch

        super().__init__(recipe, data, folder, runtime)
        self._checkpoint = checkpoint
        self._engine = TorchEngine(
            self._predictor.model,
            recipe.optimizer,
            total_steps=self._total_steps,
            precision=recipe.precision,
            device=runtime.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )

    def restore(self) -> None:
        """A damaged file, or one whose best weights are gone, counts as none."""
        import pickle

        import torch

        if not self._checkpoint or not self._checkpoint.exists():
            return
        try:
            state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            models.check_hf_folder(self._folder)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, DataError):
            return
        self._engine.load_state_dict(state["engine"])
        self.history = list(state["history"])

    def _keep(self, *, best: bool) -> None:
        """A reader of the checkpoint sees the old file or the new one."""
        import torch

        if best:
            models.save_hf(self._predictor.model, self._predictor.tokenizer, self._folder)
            self.card.write(self._folder)
        if self._checkpoint:
            with atomic_path(self._checkpoint) as temporary:
                torch.save({"engine": self._engine.state_dict(), "history": self.history}, temporary)

    def _scores(self) -> dict[str, float]:
        predictor, examples = self._predictor, self._dev_examples
        predictions = predictor.predict(examples, windows=self._dev_windows)
        return predictor.kind.dev_scores(examples, predictions, predictor.card.labels)

    def _gradients(self, chosen: Sequence[Window]) -> float:
        return run_halving(
            lambda size: self._accumulate(chosen, size), self._predictor.batch_size, on_halved=self._begin_again
        )

    def _begin_again(self, micro_batch_size: int) -> None:
        self._engine.forget_gradients()
        self._predictor.batch_size = micro_batch_size

    def _too_large(self, memory: str) -> str:
        """The sentence for the user, once not even one window fits."""
        return (
            f"fine-tuning on {self._data.task.name}: one window of {self._predictor.card.max_tokens} tokens does not "
            f"fit into {memory} memory; lower recipe.max_tokens or use runtime.activation_checkpointing=true"
        )

    def seconds_per_epoch(self, seconds: float) -> float:
        """Seconds of training and judging one epoch, from as many steps and examples as take about `seconds` each."""
        order = np.random.default_rng(self._recipe.seed).permutation(len(self._windows))
        self._engine.module.train()

        def train(count: int) -> None:
            for start in range(0, count, self._recipe.batch_size):
                self._gradients([self._windows[index] for index in order[start : start + self._recipe.batch_size]])
                self._engine.step()

        train(min(len(order), self._recipe.batch_size))  # the first step is slower than the others
        dev = self._dev_examples
        return _extrapolate(train, len(order), self._recipe.batch_size, seconds) + _extrapolate(
            lambda count: self._predictor.predict(dev[:count]), len(dev), 8, seconds
        )

    def _accumulate(self, chosen: Sequence[Window], micro: int) -> float:
        whole, total = self._predictor.kind.loss_terms(chosen), 0.0
        for first in range(0, len(chosen), micro):
            part = chosen[first : first + micro]
            if not (terms := self._predictor.kind.loss_terms(part)):
                continue  # the mean of no terms is no number
            with out_of_memory_as(self._too_large):
                # HF's loss of an answer, and BigBird's last block, depend on padding: it is that of the whole step
                loss = self._loss(part, least_length=len(chosen[-1].input_ids)) * (terms / whole)
                self._engine.backward(loss)
                total += float(loss.detach())
        return total


def _extrapolate(work: Callable[[int], Any], total: int, least: int, seconds: float) -> float:
    """Seconds that `work(total)` will take, from the largest part of it that takes about `seconds`."""
    count = min(total, least)
    while True:
        start_s = time.perf_counter()
        work(count)
        taken_s = time.perf_counter() - start_s
        if count >= total or taken_s >= seconds / 2:
            return taken_s * total / count
        count = min(total, count * 2)


def best_of(history: Sequence[Mapping[str, float]], task: TaskConfig, folder: Path) -> FinetuneResult:
    """The first of the epochs with the highest score on the development split."""
    key = f"eval/{task.name}/{metric_of(task)}"
    best = max(history, key=lambda metrics: metrics[key])
    return FinetuneResult(folder, best[key], int(best["epoch"]))


def build_model(recipe: FinetuneRecipe, data: TaskData, runtime: FinetuneRuntime) -> "PreTrainedModel":
    """The encoder with a new head for the task, on the CPU."""
    kind = kind_of(data.task)
    model = models.load_hf(
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
    return model


def _predictor(recipe: FinetuneRecipe, data: TaskData, runtime: FinetuneRuntime) -> Predictor:
    """The model, and the card that will be saved with it."""
    model = build_model(recipe, data, runtime)
    card = card_of(recipe, data, models.max_tokens_of(model.config))
    micro = min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
    return Predictor(model, _tokenizer(recipe.model), card, batch_size=micro)


def card_of(recipe: FinetuneRecipe, data: TaskData, limit: int) -> TaskCard:
    """The card of a fine-tuning of a model that reads `limit` tokens; ConfigError for a longer window."""
    max_tokens = recipe.max_tokens or limit
    if max_tokens > limit:
        raise ConfigError(
            f"recipe.max_tokens must be at most the model's {limit} positions, got {max_tokens}; lower it"
        )
    return TaskCard(
        task=data.task,
        labels=data.labels,
        max_tokens=max_tokens,
        stride_tokens=min(recipe.stride_tokens, max_tokens // 4),
        long_documents=recipe.long_documents,
    )


@functools.lru_cache(maxsize=2)
def _tokenizer(model: str) -> "PreTrainedTokenizerBase":
    return load_tokenizer(model)
