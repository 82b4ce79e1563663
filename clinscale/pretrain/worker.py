"""The pretraining loop on each rank; a pure function of the recipe, whatever the number of workers."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinscale import corpus, models
from clinscale.engine import DeepSpeedEngine, ThroughputMeter
from clinscale.errors import ConfigError
from clinscale.pretrain.config import PretrainConfig
from clinscale.runtime import WorkerContext

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Shape letters: B rows of a micro batch, L tokens of a row, V vocabulary
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class WorkerTask:
    """What the driver sends to every rank."""

    config: PretrainConfig
    shards_uri: str
    row_tokens: int
    total_steps: int


def train_worker(context: WorkerContext, task: WorkerTask) -> None:
    """Train to `total_steps`, from the newest checkpoint if there is one; logs metrics, commits checkpoints."""
    import torch

    recipe, runtime = task.config.recipe, task.config.runtime
    loop = _Loop(context, task)
    step, history = loop.resume()

    def log(metrics: dict[str, float]) -> None:
        history.append(metrics)
        context.log(metrics)

    for metrics in history:  # a driver that died, or lost its server, may not have stored them
        context.log(metrics)
    if step == 0:
        log({"step": 0, **loop.evaluate()})
    meter = ThroughputMeter()
    while step < task.total_steps:
        # dropout is a function of (seed, step, rank), so a resumed run needs no saved generator state
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, step, context.rank]).generate_state(1)[0]))
        loss = loop.step(step)
        step += 1
        meter.add(recipe.rows_per_step * task.row_tokens)
        last = step == task.total_steps
        metrics = {}
        if last or step % runtime.log_every_steps == 0:
            metrics |= {"train/loss": loss, "train/learning_rate": loop.engine.learning_rate}
            metrics["perf/tokens_per_second"] = meter.tokens_per_second()
        if last or step % runtime.evaluate_every_steps == 0:
            metrics |= loop.evaluate()
        if metrics:
            log({"step": step, **metrics})
        if last or step % runtime.checkpoint_every_steps == 0:
            context.checkpoint(loop.save(step, history))


def build_model(config: PretrainConfig, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """The model as every rank trains it."""
    recipe, runtime = config.recipe, config.runtime
    model = models.build(
        recipe.model,
        tokenizer,
        seed=recipe.seed,
        attention=runtime.attention,
        evaluation_pattern=recipe.evaluation_pattern,
    )
    models.prepare_for_mlm(model, has_global_tokens=recipe.has_global_tokens(model.config.model_type))
    if runtime.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


class _Loop:
    """Data, model and engine of one rank."""

    def __init__(self, context: WorkerContext, task: WorkerTask) -> None:
        recipe, runtime = task.config.recipe, task.config.runtime
        shards = corpus.open_shards(task.shards_uri)
        tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
        model = build_model(task.config, tokenizer)
        per_worker = recipe.rows_per_step // context.world_size
        self._context, self._task = context, task
        self._special = corpus.SpecialIds.from_tokenizer(tokenizer)
        self._train_rows = shards.rows("train", task.row_tokens)
        self._held_out_rows = shards.rows("validation", task.row_tokens)
        self._micro_rows = runtime.micro_rows_per_gpu or per_worker
        self._global_first = recipe.has_global_tokens(model.config.model_type)
        self.engine = DeepSpeedEngine(
            model,
            recipe.optimizer,
            total_steps=task.total_steps,
            zero=runtime.zero,
            precision=recipe.precision,
            micro_batch_per_gpu=self._micro_rows,
            gradient_accumulation_steps=per_worker // self._micro_rows,
        )

    def resume(self) -> tuple[int, list[dict[str, float]]]:
        """The number of steps that are done already, and what was logged in them."""
        with self._context.latest_checkpoint() as folder:
            state: dict[str, Any] = self.engine.load(folder) if folder else {"step": 0, "history": []}
        return int(state["step"]), list(state["history"])

    def save(self, step: int, history: list[dict[str, float]]) -> Callable[[Path], None]:
        """A function that writes this rank's part of the checkpoint after `step` steps."""
        return lambda folder: self.engine.save(folder, {"step": step, "history": history})

    def step(self, step: int) -> float:
        """One optimizer step; returns the mean loss over all masked tokens of all ranks."""
        recipe = self._task.config.recipe
        batch = corpus.masked_batch(
            self._train_rows,
            step=step,
            rank=self._context.rank,
            world_size=self._context.world_size,
            rows_per_step=recipe.rows_per_step,
            seed=recipe.seed,
            masking=recipe.masking,
            special=self._special,
        )
        micro_batches = _split(batch, self._micro_rows)
        masked = self._over_ranks(float((batch["labels"] != -100).sum()))
        # DeepSpeed averages over ranks and micro batches; this makes it the mean over all masked tokens, so
        # that the loss does not depend on how rows fall on workers
        scale = self._context.world_size * len(micro_batches) / masked
        total = 0.0
        self.engine.module.train()
        for micro in micro_batches:
            loss = self._summed_loss(micro) * scale
            self.engine.backward(loss)
            self.engine.step()
            total += float(loss.detach())
        mean = self._over_ranks(total) / (self._context.world_size * len(micro_batches))
        if not math.isfinite(mean):
            raise ConfigError(
                f"run {self._task.config.name}: the loss of step {step} is {mean}; lower optimizer.learning_rate "
                "or train in fp32, then resume from the last checkpoint"
            )
        return mean

    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity over the held-out rows, with masks that never change."""
        import torch

        recipe, runtime = self._task.config.recipe, self._task.config.runtime
        self.engine.module.eval()
        total, masked = 0.0, 0.0
        batches: Iterable[Arrays] = corpus.evaluation_batches(
            self._held_out_rows,
            rank=self._context.rank,
            world_size=self._context.world_size,
            rows_per_batch=self._micro_rows,
            max_rows=runtime.evaluation_rows,
            seed=recipe.seed,
            masking=recipe.masking,
            special=self._special,
        )
        with torch.no_grad():
            for batch in batches:
                masked += float((batch["labels"] != -100).sum())
                total += float(self._summed_loss(batch))
        loss = self._over_ranks(total) / max(self._over_ranks(masked), 1.0)
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}

    def _summed_loss(self, batch: Arrays) -> "torch.Tensor":
        """Cross entropy summed over the masked tokens of one micro batch."""
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if self._global_first:
            mask_BL = torch.zeros_like(tensors["input_ids"])
            mask_BL[:, 0] = 1
            tensors["global_attention_mask"] = mask_BL
        loss: torch.Tensor = self.engine.forward(tensors | {"num_items_in_batch": torch.tensor(1)}).loss
        return loss

    def _over_ranks(self, value: float) -> float:
        """Sum of a number over all ranks."""
        import torch

        if self._context.world_size == 1:
            return value
        device = "cuda" if self._task.config.runtime.gpus_per_worker else "cpu"
        total = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total)


def _split(batch: Arrays, rows: int) -> list[dict[str, Any]]:
    count = len(batch["input_ids"])
    return [
        {name: array[start : start + rows] for name, array in batch.items()} for start in range(0, count, rows)
    ]
