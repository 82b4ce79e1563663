"""Epochs with early stopping on the development split; the best weights end in a folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clinscale import corpus, models
from clinscale.engine import TorchEngine
from clinscale.errors import ConfigError, DataError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.predict import Predictor, TaskCard, collate
from clinscale.tasks import TaskData, Window, kind_of, metric_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnEpoch = Callable[[dict[str, float]], None]
"""Called after each epoch with `epoch`, `step`, `train/loss` and `eval/<task>/<metric>` of the development split."""


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
) -> FinetuneResult:
    """Train on `train`, judge each epoch on `dev`, keep the best epoch in `folder`; never looks at `test`.

    Raises:
        ConfigError: the model cannot read `max_tokens`, or the loss is no longer a number.
        DataError: the model is not there, or a split has no examples.
    """
    import torch

    runtime = runtime or FinetuneRuntime()
    device = runtime.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for split in ("train", "dev"):
        if not data.splits.get(split):
            raise DataError(f"task {data.task.name} has no {split} examples; check its splits")
    torch.manual_seed(recipe.seed)
    predictor = _predictor(recipe, data, device, runtime)
    train = data.splits["train"]
    windows = [window.packed() for example in train for window in predictor.windows(example, train=True)]
    steps_per_epoch = -(-len(windows) // recipe.batch_size)
    engine = TorchEngine(
        predictor.model,
        recipe.optimizer,
        total_steps=steps_per_epoch * recipe.epochs,
        precision=recipe.precision,
        device=device,
    )
    metric = metric_of(data.task)
    best: FinetuneResult | None = None
    for epoch in range(1, recipe.epochs + 1):
        loss = _train_epoch(engine, predictor, windows, recipe, epoch)
        scores = predictor.score(data.splits["dev"])
        if best is None or scores[metric] > best.value:
            _save(predictor, Path(folder))
            best = FinetuneResult(Path(folder), scores[metric], epoch)
        if on_epoch:
            named = {f"eval/{data.task.name}/{name}": value for name, value in scores.items()}
            on_epoch({"epoch": epoch, "step": epoch * steps_per_epoch, "train/loss": loss, **named})
        if best.value >= 1.0 or epoch - best.epoch >= recipe.patience_epochs:
            break  # every metric ends at 1
    assert best is not None
    return best


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
    tokenizer: PreTrainedTokenizerBase = corpus.load_tokenizer(recipe.model)
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
    return Predictor(model.to(device), tokenizer, card, batch_size=recipe.micro_batch_size or recipe.batch_size)


def _train_epoch(
    engine: TorchEngine, predictor: Predictor, windows: Sequence[Window], recipe: FinetuneRecipe, epoch: int
) -> float:
    """One pass in an order that is a function of (seed, epoch); returns the mean loss."""
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(windows))
    micro = recipe.micro_batch_size or recipe.batch_size
    family = models.family_of(predictor.model.config.model_type)
    engine.module.train()
    total = 0.0
    for start in range(0, len(order), recipe.batch_size):
        chosen = [windows[index] for index in order[start : start + recipe.batch_size]]
        chosen.sort(key=lambda window: len(window.input_ids))  # a micro batch of like lengths pads little
        for first in range(0, len(chosen), micro):
            part = chosen[first : first + micro]
            batch = collate(part, pad_token_id=predictor.tokenizer.pad_token_id, family=family)
            loss = engine.forward(batch).loss * (len(part) / len(chosen))
            engine.backward(loss)
            total += float(loss.detach()) * len(chosen)
        engine.step()
    mean = total / len(order)
    if not math.isfinite(mean):
        raise ConfigError(
            f"fine-tuning on {predictor.card.task.name}: the loss of epoch {epoch} is {mean}; lower "
            f"optimizer.learning_rate={recipe.optimizer.learning_rate:g}"
        )
    return mean


def _save(predictor: Predictor, folder: Path) -> None:
    models.save_hf(predictor.model, predictor.tokenizer, folder)
    predictor.card.write(folder)
