"""The pretraining loop on each rank; a pure function of the recipe, whatever the number of workers."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clinscale import corpus, models
from clinscale.engine import CheckpointStore, DeepSpeedEngine, ThroughputMeter, peak_flops, seed_torch
from clinscale.errors import DataError
from clinscale.held import hold
from clinscale.pretrain.config import PretrainConfig
from clinscale.pretrain.guard import SpikeGuard

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Shape letters: B rows of a micro batch, L tokens of a row, V vocabulary
Arrays = Mapping[str, np.ndarray[Any, Any]]
Metrics = dict[str, float]

log = logging.getLogger(__name__)

_TRAINING_S = "perf/training_s"


@dataclass(frozen=True)
class WorkerTask:
    """The message from the driver to every rank."""

    config: PretrainConfig
    shards_uri: str
    shards_fingerprint: str
    """Fingerprint of the shards as the driver found them; every rank must find the same, after a restart too."""
    row_tokens: int
    total_steps: int
    checkpoint_dir: str
    """Folder of the checkpoints, on a file system that all workers share."""
    micro_rows_per_gpu: int | None
    """Rows of one forward pass at most, as far as memory is known to allow."""


class Context(Protocol):
    """The part of its group that the loop needs: `runtime.WorkerContext`, or anything that starts it elsewhere."""

    rank: int
    world_size: int

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send rank 0's metrics to the driver without waiting."""

    def preempted(self) -> bool:
        """Whether a node of the group is about to be taken away; the same answer on all ranks."""


def train_worker(context: Context, task: WorkerTask) -> None:
    """Train to `total_steps`, from the newest whole checkpoint if there is one; logs metrics, saves checkpoints."""
    config = task.config
    with hold(task.checkpoint_dir, f"run {config.name}", patience_s=config.runtime.storage_patience_s):
        loop = _Loop(context, task)
        try:
            _steps(loop, context, task)
        finally:  # what was saved before an error is worth as much as ever
            loop.checkpoints.close()


def _steps(loop: "_Loop", context: Context, task: WorkerTask) -> None:
    runtime = task.config.runtime
    step = loop.restore()
    if step == 0:
        loop.log(0, loop.evaluate())
    rescued = False
    while step < task.total_steps:
        metrics = loop.train(step)
        step += 1
        last = step == task.total_steps
        if not (last or step % runtime.log_every_steps == 0 or "train/skipped_loss" in metrics):
            metrics = {}
        elif "train/loss" in metrics:
            metrics |= loop.speed()
        if last or step % runtime.evaluate_every_steps == 0:
            metrics |= loop.evaluate()
        if metrics:
            loop.log(step, metrics)
        rescue = context.preempted() and not rescued
        if last or rescue or step % runtime.checkpoint_every_steps == 0:
            loop.save(step, metrics.get("eval/loss"))
        if rescue:  # training goes on for as long as the node lives, its work is safe
            loop.checkpoints.wait()
            rescued = True


def build_model(config: PretrainConfig, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """The model as every rank trains it."""
    recipe, runtime = config.recipe, config.runtime
    model = models.build(
        recipe.model,
        tokenizer,
        seed=recipe.seed,
        attention=runtime.attention,
        attention_dropout=recipe.attention_dropout,
        evaluation_pattern=recipe.evaluation_pattern,
    )
    models.prepare_for_mlm(model, has_global_tokens=recipe.has_global_tokens(model.config.model_type))
    if runtime.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


class _Loop:
    """Data, model, engine and checkpoints of one rank."""

    def __init__(self, context: Context, task: WorkerTask) -> None:
        recipe, runtime = task.config.recipe, task.config.runtime
        shards = corpus.open_shards(task.shards_uri, expected=task.shards_fingerprint)
        tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
        model = build_model(task.config, tokenizer)
        self._context, self._task, self._model, self._shards = context, task, model, shards
        self._special = corpus.SpecialIds.from_tokenizer(tokenizer)
        self._word_starts = corpus.word_starts(tokenizer) if recipe.masking.whole_words else None
        self._train_rows, self._held_out_rows = (
            shards.rows(split, task.row_tokens, documents_apart=recipe.documents_apart)
            for split in ("train", "validation")
        )
        self._batches = recipe.batches(task.row_tokens)
        if recipe.canaries:
            self._train_rows = corpus.plant_canaries(
                self._train_rows,
                recipe.canaries,
                seed=recipe.seed,
                rows_read=self._rows_before(task.total_steps),
            )
        share = -(-self._batches.rows // context.world_size)
        self._micro_rows = min(task.micro_rows_per_gpu or share, share)
        self._global_first = recipe.has_global_tokens(model.config.model_type)
        self.engine = DeepSpeedEngine(
            model,
            recipe.optimizer,
            total_steps=task.total_steps,
            zero=runtime.zero,
            precision=recipe.precision,
            micro_batch_per_gpu=self._micro_rows,
            gradient_accumulation_steps=-(-share // self._micro_rows),
            tokens_before=lambda done: self._rows_before(done) * task.row_tokens,
        )
        self.checkpoints = CheckpointStore(
            Path(task.checkpoint_dir),
            rank=context.rank,
            world_size=context.world_size,
            retention=runtime.retention,
            patience_s=runtime.storage_patience_s,
        )
        self._history: list[Metrics] = []
        self._guard = SpikeGuard(recipe.spike_guard)
        self._prefetch = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[Arrays]] | None = None
        self._meter, self._stall_s, self._training_s = ThroughputMeter(), 0.0, 0.0
        device = "cuda" if runtime.gpus_per_worker else "cpu"
        self._flops_per_token = {
            (row_tokens, is_causal): models.train_flops_per_token(
                model.config, row_tokens, head_share=1.0 if is_causal else recipe.masking.mean_fraction
            )
            for row_tokens in {self._row_tokens_at(0), task.row_tokens}
            for is_causal in (False, True)
        }
        """Pairs ahead of a token, which no causal step needs, are counted all the same."""
        self._tokens_by_kind = Counter[tuple[int, bool]]()
        self._peak_flops = peak_flops(device, recipe.precision) * context.world_size

    def restore(self) -> int:
        """Go on from the newest whole checkpoint; returns the number of steps that are done already."""
        state = self.checkpoints.restore(self.engine)
        if state is None:
            return 0
        self._history = list(state["history"])
        self._training_s = max((metrics.get(_TRAINING_S, 0.0) for metrics in self._history), default=0.0)
        self._guard = SpikeGuard(self._task.config.recipe.spike_guard, state["guarded_losses"])
        for metrics in self._history:  # a driver that died may not have stored them
            self._context.log(metrics)
        return int(state["step"])

    def save(self, step: int, validation_loss: float | None) -> None:
        """Take a snapshot after `step` steps, if all of them read the shards; it is written while training goes on."""
        self._shards.check_unchanged()
        state = {"step": step, "history": list(self._history), "guarded_losses": self._guard.losses}
        self._stall_s += self.checkpoints.save(self.engine, step, state, metric=validation_loss)

    def log(self, step: int, metrics: Metrics) -> None:
        """Report to the driver, and remember for one that comes later."""
        self._history.append({"step": step, **metrics})
        self._context.log(self._history[-1])

    def train(self, step: int) -> Metrics:
        """One optimizer step; `train/loss` is the mean over all masked tokens of all ranks."""
        recipe, engine = self._task.config.recipe, self.engine
        self._meter.run()
        seed_torch(recipe.seed, step, self._context.rank)
        kind = row_tokens, is_causal = self._kind_at(step)
        if step > 0 and kind != self._kind_at(step - 1):
            # losses of rows of another length, or of another task, are no measure
            self._guard = SpikeGuard(recipe.spike_guard)
        batch = self._batch(step)
        # as many tokens whatever their length, so that memory stays, and the number of micro batches but for the batch
        micro_batches = _split(batch, self._micro_rows * (self._task.row_tokens // row_tokens))
        engine.accumulate(len(micro_batches))
        masked = engine.over_ranks(float((batch["labels"] != -100).sum()))
        # DeepSpeed averages over ranks and micro batches; this makes it the mean over all masked tokens, so
        # that the loss does not depend on how rows fall on workers
        scale = self._context.world_size * len(micro_batches) / masked
        total = 0.0
        engine.module.train()
        for micro in micro_batches:
            if micro is not micro_batches[0]:
                engine.step()  # no update before the last micro batch
            loss = self._summed_loss(micro, is_causal=is_causal) * scale
            engine.backward(loss)
            total += float(loss.detach())
        mean = engine.over_ranks(total) / (self._context.world_size * len(micro_batches))
        if not math.isfinite(mean):
            raise self._not_a_number(step, mean)
        skip = self._guard.is_spike(mean)
        engine.step(update=not skip)
        tokens = self._rows_at(step) * self._task.row_tokens
        self._meter.add(tokens)
        self._tokens_by_kind[kind] += tokens
        if skip:
            log.warning("run %s: step %d skipped, its loss of %.4g is a spike", self._task.config.name, step, mean)
            return {"train/skipped_loss": mean}
        norm = {} if engine.grad_norm is None else {"train/grad_norm": engine.grad_norm}
        scheduled: Metrics = {}
        if recipe.causal:
            scheduled["train/causal"] = float(is_causal)
        if recipe.masking.schedule != "constant" and not is_causal:
            scheduled["train/mask_fraction"] = recipe.masking.fraction_at(step, self._task.total_steps)
        if recipe.short_rows:
            scheduled["train/row_tokens"] = row_tokens
        if recipe.small_batches:
            scheduled["train/rows_per_step"] = self._rows_at(step)
        return {"train/loss": mean, "train/learning_rate": engine.learning_rate, **norm, **scheduled}

    def evaluate(self) -> Metrics:
        """Loss and perplexity over the held-out rows, with masks that never change and are the same for all recipes."""
        import torch

        recipe, runtime = self._task.config.recipe, self._task.config.runtime
        self._meter.pause()
        self.engine.module.eval()
        total, masked = 0.0, 0.0
        batches: Iterable[Arrays] = corpus.evaluation_batches(
            self._held_out_rows,
            rank=self._context.rank,
            world_size=self._context.world_size,
            rows_per_batch=self._micro_rows,
            max_rows=runtime.evaluation_rows,
            seed=recipe.seed,
            masking=corpus.HELD_OUT_MASKING,
            special=self._special,
        )
        with self.engine.averaged(), torch.no_grad():
            for batch in batches:
                masked += float((batch["labels"] != -100).sum())
                total += float(self._summed_loss(batch))
        loss = self.engine.over_ranks(total) / max(self.engine.over_ranks(masked), 1.0)
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}

    def speed(self) -> Metrics:
        """Tokens per second of all workers, share of their peak and wait for checkpoints, since the last reading.

        And the seconds of all training steps of the run, without pauses and what was lost in them.
        """
        tokens_per_second = self._meter.tokens_per_second()
        stall_s, self._stall_s = self._stall_s, 0.0
        read, self._tokens_by_kind = self._tokens_by_kind, Counter()
        flops = sum(self._flops_per_token[kind] * tokens for kind, tokens in read.items())
        self._training_s += read.total() / tokens_per_second
        return {
            "perf/tokens_per_second": tokens_per_second,
            "perf/mfu": tokens_per_second * flops / read.total() / self._peak_flops,
            "perf/checkpoint_stall_s": stall_s,
            _TRAINING_S: self._training_s,
        }

    def _batch(self, step: int) -> Arrays:
        """Rows of this rank in a step; those of the next one are masked while the device works on these."""
        ready = self._next[1] if self._next and self._next[0] == step else None
        batch = ready.result() if ready else self._masked(step)
        self._next = (step + 1, self._prefetch.submit(self._masked, step + 1))
        return batch

    def _row_tokens_at(self, step: int) -> int:
        task = self._task
        return task.config.recipe.row_tokens_at(step, row_tokens=task.row_tokens, total_steps=task.total_steps)

    def _kind_at(self, step: int) -> tuple[int, bool]:
        """Length of a step's rows, and whether it predicts next tokens."""
        return self._row_tokens_at(step), self._task.config.recipe.is_causal(step, self._task.total_steps)

    def _rows_at(self, step: int) -> int:
        return self._batches.rows_at(step, self._task.total_steps)

    def _rows_before(self, step: int) -> int:
        return self._batches.rows_before(step, self._task.total_steps)

    def _masked(self, step: int) -> Arrays:
        recipe, (row_tokens, is_causal) = self._task.config.recipe, self._kind_at(step)
        batch = corpus.masked_batch(
            self._train_rows,
            step=step,
            rank=self._context.rank,
            world_size=self._context.world_size,
            rows_per_step=self._rows_at(step),
            rows_before=self._rows_before(step),
            seed=recipe.seed,
            masking=recipe.masking,
            special=self._special,
            word_starts=self._word_starts,
            total_steps=self._task.total_steps,
            asks_next=is_causal,
        )
        return batch if row_tokens == self._task.row_tokens else corpus.cut_rows(batch, row_tokens, self._special)

    def _summed_loss(self, batch: Arrays, *, is_causal: bool = False) -> "torch.Tensor":
        """Cross entropy summed over the tokens of one micro batch that are asked for."""
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if self._global_first:
            tensors["global_attention_mask"] = _first_tokens(tensors)
        with models.looking_back(self._model) if is_causal else nullcontext():
            loss: torch.Tensor = self.engine.forward(tensors | {"num_items_in_batch": torch.tensor(1)}).loss
        return loss

    def _not_a_number(self, step: int, loss: float) -> DataError:
        rows = corpus.rows_of_step(
            len(self._train_rows),
            step=step,
            rows_per_step=self._rows_at(step),
            rows_before=self._rows_before(step),
            seed=self._task.config.recipe.seed,
        )
        return DataError(
            f"run {self._task.config.name}: the loss of step {step} is {loss}, before its update; the step read rows "
            f"{', '.join(str(row) for _, row in rows)} of the training split. Lower recipe.optimizer.learning_rate or "
            "use recipe.precision=fp32 under another name"
        )


def _first_tokens(tensors: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """1 at the first token of each row, or of each note of a row where notes are kept apart; (B, L)."""
    import torch

    first_BL = torch.zeros_like(tensors["input_ids"])
    first_BL[:, 0] = 1
    if (segments_BL := tensors.get("segment_ids")) is not None:
        first_BL[:, 1:] = (segments_BL[:, 1:] != segments_BL[:, :-1]) & (segments_BL[:, 1:] != 0)
    return first_BL


def _split(batch: Arrays, rows: int) -> list[dict[str, Any]]:
    count = len(batch["input_ids"])
    return [
        {name: array[start : start + rows] for name, array in batch.items()} for start in range(0, count, rows)
    ]
