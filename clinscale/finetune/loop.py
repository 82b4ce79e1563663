"""Epochs with early stopping on the development split; the best weights end in a folder.

A fine-tuning is a function of its recipe: an epoch's order and dropout follow from (seed, epoch), so that one that was
interrupted goes on from its last whole epoch, or its last look inside the first one, and ends as if it had not been.
Looks change nothing in it.
"""

import contextlib
import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clinscale import models
from clinscale.engine import Engine, generator_states, seed_torch, set_generator_states
from clinscale.errors import ConfigError, DataError, DivergenceError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.finetune.looks import Looks, share_of
from clinscale.finetune.windows import dev_windows, train_windows
from clinscale.predict import Predictor, TaskCard, collate
from clinscale.runtime import beat
from clinscale.tasks import Example, TaskConfig, TaskData, Window, check_use, kind_of, metric_of
from clinscale.tokenizers import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnEpoch = Callable[[dict[str, float]], None]
"""Called after each look with `look` (its place among the looks), `epoch` (the share of the first one), `step`,
`train/loss` so far, `look/<task>/<metric>` of a part of the development split where they are defined on it,
`look/examples` of it, and `perf/`: `train_s`, `look_s`, `checkpoint_s` (the wait for the checkpoint alone) and
`micro_batch_size`. Called after each epoch with `epoch`, `step`, `train/loss`, `eval/<task>/<metric>` of the
development split, and `perf/`: `train_s`, `eval_s`, `latency_s` (of one example) and `micro_batch_size` of that
epoch."""


@dataclass(frozen=True)
class FinetuneResult:
    """The best epoch of one fine-tuning."""

    folder: Path
    """HF folder with task card: loads in plain `transformers` and in `clinscale predict`."""
    value: float
    """The task's metric on the development split at the best epoch."""
    epoch: int
    """0 before the first, when `folder` holds nothing and `value` is minus infinity."""


@dataclass(frozen=True)
class Judges:
    """Examples of the development split that judge together."""

    examples: tuple[Example, ...]
    mine: tuple[Example, ...]
    """The examples that are predicted in this process."""
    windows: list[list[Window]] | None
    """Windows of `mine`; None where there are too many to keep."""


@dataclass
class Underway:
    """The part of an epoch that has been trained."""

    steps: int = 0
    loss: float = 0.0
    """Sum of the losses of its windows."""
    generators: list[str] = field(default_factory=list)
    """States of torch's generators after it."""


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
        looks: Looks | None = None,
        rank: int = 0,
        dev_share: slice = slice(None),
    ) -> None:
        """Load model and windows; `dev_share` are the examples of a split to be predicted here."""
        import torch

        for split in ("train", "dev"):
            if not data.splits.get(split):
                raise DataError(f"task {data.task.name} has no {split} examples; check its splits")
        check_use(data)
        torch.manual_seed(recipe.seed)
        self._recipe, self._data, self._folder, self._rank = recipe, data, folder, rank
        self._predictor = _predictor(recipe, data, runtime)
        self._windows = train_windows(self._predictor, data)
        self._dev = self._judges(data.splits["dev"], dev_share)
        self._looks = looks
        self._look_part: Judges | None = None
        if looks:
            part = tuple(data.splits["dev"][place] for place in looks.examples)
            self._look_part = self._judges(part, dev_share)
        self._underway = Underway()
        self._judged_step = 0
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
        while not self.done and (look := self._next_look()):
            on_epoch(self.look(*look))
        last = self._recipe.epochs if until_epoch is None else until_epoch
        while not self.done and len(self.history) < last:
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
        loss = self._train(epoch, self._steps_per_epoch)
        self._underway = Underway()
        trained_s = time.perf_counter()
        scores = self._finite(self._scores(self._dev), f"epoch {epoch}")
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

    def look(self, step: int, place: int) -> dict[str, float]:
        """Train to a step of the first epoch and judge it on a part of the development split; what it reports.

        The checkpoint is written meanwhile, as both only read the weights.
        """
        assert self._look_part
        start_s = time.perf_counter()
        loss = self._train(1, step)
        trained_s = time.perf_counter()
        scores: dict[str, float] = {}
        with self._keeping():
            with contextlib.suppress(DataError):  # no metric there, whatever the trial: the report has none
                scores = self._finite(self._scores(self._look_part), f"step {step}")
            judged_s = time.perf_counter()
        self._judged_step = step
        return {
            "look": place,
            "epoch": share_of(step, self._steps_per_epoch),
            "step": step,
            "train/loss": loss,
            **{f"look/{self._data.task.name}/{name}": value for name, value in scores.items()},
            "look/examples": len(self._look_part.examples),
            "perf/train_s": trained_s - start_s,
            "perf/look_s": judged_s - trained_s,
            "perf/checkpoint_s": time.perf_counter() - judged_s,
            "perf/micro_batch_size": self._predictor.batch_size,
        }

    def _next_look(self) -> tuple[int, int] | None:
        """Step and place of the look that comes next; None where only whole epochs do."""
        if not self._looks or self.history:
            return None
        return self._looks.following(max(self._underway.steps, self._judged_step + 1), self._steps_per_epoch)

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
    def _keeping(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the next step needs is written, and the weights stay as they are."""

    @abstractmethod
    def _scores(self, judges: Judges) -> dict[str, float]:
        """The task's metrics on these examples, and the threshold that is chosen there, if any.

        Raises:
            DataError: the metric that decides is not defined on them.
        """

    @abstractmethod
    def _gradients(self, chosen: Sequence[Window]) -> float:
        """Gradients of the mean loss over the windows of one step; returns what this process has of that loss."""

    def _train(self, epoch: int, until_step: int) -> float:
        """Go on in the epoch to a step, in an order that is a function of (seed, epoch); its mean loss so far."""
        recipe, done = self._recipe, self._underway
        if not (done.steps and set_generator_states(done.generators)):
            seed_torch(recipe.seed, epoch, self._rank, *([done.steps] if done.steps else []))
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self._windows))
        self._engine.module.train()
        total = done.loss if self._rank == 0 else 0.0
        for start in range(done.steps * recipe.batch_size, until_step * recipe.batch_size, recipe.batch_size):
            chosen = [self._windows[index] for index in order[start : start + recipe.batch_size]]
            chosen.sort(key=lambda window: len(window.input_ids))  # a micro batch of like lengths pads little
            total += self._gradients(chosen) * len(chosen)
            self._engine.step()
            beat()
        total = self._engine.over_ranks(total)
        self._underway = Underway(until_step, total, generator_states())
        mean = total / min(len(order), until_step * recipe.batch_size)
        if not math.isfinite(mean):
            raise self._diverged(f"the loss of epoch {epoch} is {mean}")
        return mean

    def _finite(self, scores: dict[str, float], when: str) -> dict[str, float]:
        """The scores; DivergenceError where the one that decides is no number."""
        name = self._predictor.kind.metric
        if not math.isfinite(scores[name]):
            raise self._diverged(f"{name} at {when} is {scores[name]}")
        return scores

    def _diverged(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"fine-tuning on {self._data.task.name}: {what}; lower "
            f"optimizer.learning_rate={self._recipe.optimizer.learning_rate:g}"
        )

    def _judges(self, examples: tuple[Example, ...], share: slice) -> Judges:
        mine = examples[share]
        return Judges(examples, mine, dev_windows(self._predictor, self._data, mine))

    def _loss(self, windows: Sequence[Window], *, least_length: int = 0) -> "torch.Tensor":
        """Mean loss of one forward pass."""
        batch = collate(
            windows,
            pad_token_id=self._predictor.tokenizer.pad_token_id,
            family=self._family,
            least_length=least_length,
            token_types=self._predictor.card.token_types,
        )
        loss: torch.Tensor = self._engine.forward(batch).loss
        return loss


def best_of(history: Sequence[Mapping[str, float]], task: TaskConfig, folder: Path) -> FinetuneResult:
    """The first of the epochs with the highest score on the development split."""
    if not history:
        return FinetuneResult(folder, -math.inf, 0)
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
        attention_dropout=recipe.attention_dropout,
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
    micro = min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
    folder = Path(recipe.model)
    beside = sorted(folder.iterdir()) if folder.is_dir() else []
    state = tuple(
        (file.name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for file in beside for stat in [file.stat()]
    )
    tokenizer = _tokenizer(recipe.model, state)
    card = card_of(recipe, data, models.max_tokens_of(model.config))
    told = models.has_token_types(model.config) and "token_type_ids" in tokenizer.model_input_names
    if told and kind_of(data.task).second_text_column:
        card = card.model_copy(update={"token_types": True})
    return Predictor(model, tokenizer, card, batch_size=micro)


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
def _tokenizer(model: str, state: tuple[tuple[str, int, int, int], ...]) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, loaded once while the `state` of its files is the same."""
    return load_tokenizer(model)
