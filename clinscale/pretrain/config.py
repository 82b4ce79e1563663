"""Definition of a pretraining run: the recipe that makes its numbers, the runtime that makes its speed."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from clinscale.config import Config, Seed, nearest
from clinscale.corpus import CanaryConfig, MaskingConfig
from clinscale.engine import MemoryConfig, OptimizerConfig, Precision, RetentionConfig
from clinscale.errors import ConfigError
from clinscale.models import AttentionConfig, EvaluationPattern, ModelConfig, PretrainableFamily, family_named
from clinscale.pretrain.batches import BatchSchedule, SmallBatchesConfig, rows_of_batch
from clinscale.pretrain.guard import SpikeGuardConfig
from clinscale.runtime import GroupConfig
from clinscale.units import Duration

_RECIPES = files("clinscale.pretrain") / "recipes"


class ShortRowsConfig(Config):
    """Shorter rows at the start of a training; each training row is cut into rows of `row_tokens`, end to end.

    A step reads the same rows with the same masks as without, so it counts the same tokens, and so does an epoch; only
    attention ends, and positions restart, where a row is cut.
    """

    row_tokens: int = Field(default=512, ge=16)
    """Length of a short row, which must divide `recipe.row_tokens`."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the steps that have short rows; with one global batch throughout, also of the tokens."""


class CausalPhaseConfig(Config):
    """A phase of next-token prediction under a causal mask, before masked-language modelling.

    The encoder's sparse pattern stays, less all that comes after each token, and so does its head, which answers for
    the next token in place of a masked one. The phase reads the rows that masked steps would read.
    """

    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the steps, at the start."""


class PretrainRecipe(Config):
    """All that changes the numbers."""

    shards: str
    """Folder or URI of a ShardSet; the run records its fingerprint, not its place."""

    model: ModelConfig = ModelConfig()
    """The encoder, from published weights or from scratch."""

    row_tokens: int | None = Field(default=None, ge=8)
    """Length of each training row; None is all that the model can read."""

    # left out of `plain` where there are none, so that runs from before there were any keep their fingerprint
    short_rows: ShortRowsConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """The length of rows as a schedule: short ones first, then `row_tokens`. Held-out rows have `row_tokens`
    throughout. `short_rows.row_tokens=512` is enough to ask for them; null reads long rows throughout."""

    # left out of `plain` where there is none, so that runs from before there was any keep their fingerprint
    causal: CausalPhaseConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Next-token prediction first, under a causal mask, then masking; needs `runtime.attention=exact`. Held-out rows
    are masked throughout. `causal.share=0.25` is enough to ask for it; null masks throughout."""

    documents_apart: bool = False
    """No token attends across notes and positions restart with each, as when the model is used; needs
    `runtime.attention=exact`. Off: notes follow each other as in the paper and in RoBERTa's full-sentences packing."""

    rows_per_step: int = Field(default=18, ge=1)
    """Global batch over all workers, however many there are; Clinical-Longformer's was 6 GPUs x 3."""

    tokens_per_step: int | None = Field(default=None, ge=1)
    """Global batch in tokens, in place of `rows_per_step`: as many rows as fit, at least one."""

    # left out of `plain` where there are none, so that runs from before there were any keep their fingerprint
    small_batches: SmallBatchesConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """The global batch as a schedule by tokens: small ones first, then that of `rows_per_step` or `tokens_per_step`.
    `small_batches.rows_per_step=6` is enough to ask for them; `optimizer.schedule_unit=tokens` keeps the shape of the
    learning rate over the tokens. Null is one global batch throughout."""

    duration: Duration = Duration(1, "epochs")
    """Length of the training, as `200steps`, `1e9tokens` or `2epochs`."""

    masking: MaskingConfig = MaskingConfig()
    """The rule by which tokens are masked for the encoder to recover."""

    # left out of `plain` where there are none, so that runs from before there were any keep their fingerprint
    canaries: CanaryConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Invented phrases planted in training rows, of which the finished model is asked what it remembers; null plants
    none. `canaries.count=8` is enough to ask for them."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser and its schedule."""

    spike_guard: SpikeGuardConfig | None = SpikeGuardConfig()
    """Leaves out the update of a step whose loss is far above the last ones, and logs it; null trains through."""

    precision: Precision = "fp32"
    """`bf16` halves the memory of activations; needs hardware that has it to be fast. `fp16` is for GPUs without bf16,
    such as the paper's V100."""

    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout of attention probabilities; None is the model's own, 0.1 as published.

    FlexAttention, which makes a GPU fast, has none: with 0 it is used, with more Hugging Face's own attention.
    """

    global_first_token: bool = False
    """Give Longformer's first token global attention. The paper did not, so its global projections never trained."""

    evaluation_pattern: EvaluationPattern = "training"
    """The blocks that BigBird sees in evaluation: those it trains on, or plain `transformers`' (`hf`)."""

    seed: Seed = 0
    """Seed of initialisation, order, masks and dropout."""

    def check(self) -> None:
        """The guard lets the loss follow the masks."""
        masking = self.masking
        if self.spike_guard and masking.schedule == "steps" and masking.mean_fraction > masking.mask_fraction:
            raise ConfigError(
                "recipe.masking.schedule=steps must fall where recipe.spike_guard is on, which would take each rise of "
                "the loss for a spike and leave out every update behind it; set schedule=linear or spike_guard=null"
            )

    def row_tokens_at(self, step: int, *, row_tokens: int, total_steps: int) -> int:
        """Length of the rows of a training step, numbered from 0, where the last ones have `row_tokens`.

        Raises:
            ConfigError: rows of that length cannot be cut into short ones without rest.
        """
        short = self.short_rows
        if short is None:
            return row_tokens
        if short.row_tokens >= row_tokens or row_tokens % short.row_tokens:
            raise ConfigError(
                f"recipe.short_rows.row_tokens must divide rows of {row_tokens} tokens, got {short.row_tokens}; "
                "512 divides 4096"
            )
        # however few steps there are, the last one is as the model will be used
        return short.row_tokens if step < min(round(short.share * total_steps), total_steps - 1) else row_tokens

    def is_causal(self, step: int, total_steps: int) -> bool:
        """Whether a training step, numbered from 0, predicts next tokens; the last one always masks."""
        return self.causal is not None and step < min(round(self.causal.share * total_steps), total_steps - 1)

    def rows_of_step(self, row_tokens: int) -> int:
        """The global batch in rows of `row_tokens`; the largest one where it has a schedule."""
        return rows_of_batch(self.rows_per_step, self.tokens_per_step, row_tokens)

    def batches(self, row_tokens: int) -> BatchSchedule:
        """The schedule of global batches of rows of `row_tokens`.

        Raises:
            ConfigError: small batches are not smaller.
        """
        rows, small = self.rows_of_step(row_tokens), self.small_batches
        if small is None:
            return BatchSchedule(rows, rows, 0.0)
        small_rows = rows_of_batch(small.rows_per_step, small.tokens_per_step, row_tokens)
        if small_rows >= rows:
            raise ConfigError(
                f"recipe.small_batches must be smaller than the global batch of {rows} rows of {row_tokens} tokens, "
                f"got {small_rows} rows; lower it or leave recipe.small_batches out"
            )
        return BatchSchedule(rows, small_rows, small.share)

    def steps(self, *, rows: int, row_tokens: int) -> int:
        """Number of optimiser steps of the training, over a split of `rows` rows of `row_tokens`; at least one."""
        batches = self.batches(row_tokens)
        return self.duration.steps(rows=rows, rows_per_step=batches.mean_rows, tokens_per_row=row_tokens)

    def check_duration(self, *, rows: int | None, steps: int, rows_read: int, row_tokens: int) -> None:
        """ConfigError for a part of a step, a warm-up of the whole, and one step that reads twice what is asked for.

        Args:
            rows: of the training split; None where nobody knows.
            steps: of the training.
            rows_read: by all steps.
            row_tokens: length of the rows.
        """
        duration = self.duration
        asked = {"steps": float(rows_read), "tokens": duration.value / row_tokens}
        asked["epochs"] = rows_read if rows is None else duration.value * rows
        if rows_read > 2 * asked[duration.unit] or (duration.unit == "steps" and duration.value % 1):
            split = "" if rows is None else f", and the training split has {rows}"
            raise ConfigError(
                f"recipe.duration={duration} must be whole steps, and no less than half of one: a step reads "
                f"{self.rows_of_step(row_tokens)} rows of {row_tokens} tokens{split}; raise it, or lower "
                "recipe.rows_per_step"
            )
        self.optimizer.warmup_of(rows_read * row_tokens if self.optimizer.schedule_unit == "tokens" else steps)

    def has_global_tokens(self, model_type: str) -> bool:
        """Whether any token of a row has global attention."""
        return self.global_first_token and family_named(model_type).uses_global_mask


class PretrainRuntime(GroupConfig, MemoryConfig, AttentionConfig):
    """All that changes only speed, place or cost."""

    micro_rows_per_gpu: int | None = Field(default=None, ge=1)
    """Rows of one forward pass; None begins with a worker's whole share of the global batch. Where it does not fit
    into memory it is halved, and the global batch stays."""

    log_every_steps: int = Field(default=10, ge=1)
    """Training loss, learning rate and throughput."""

    checkpoint_every_steps: int = Field(default=500, ge=1)
    """A killed run loses at most this many steps; training goes on while a checkpoint is written."""

    retention: RetentionConfig = RetentionConfig()
    """The rule by which checkpoints stay on disk."""

    evaluate_every_steps: int = Field(default=1000, ge=1)
    """Validation loss and perplexity on held-out rows, besides before the first and after the last step."""

    evaluation_rows: int = Field(default=256, ge=1)
    """Held-out rows that one evaluation reads at most."""

    # left out of `plain` where it is not set, as before there was a plan
    ignore_plan: bool = Field(default=False, exclude_if=lambda value: not value)
    """Start although the plan says that not even one row fits into the memory of this machine's workers."""

    storage_patience_s: float = Field(default=300, ge=0)
    """Seconds in which a checkpoint that cannot be written is tried again, while training goes on, before the run
    stops."""


class PretrainConfig(Config):
    """One pretraining run under one name."""

    name: str
    """Run name and name of the registered base model; the same name resumes."""

    recipe: PretrainRecipe
    """Changes the numbers."""

    runtime: PretrainRuntime = PretrainRuntime()
    """Changes speed, place or cost."""

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = (), *, base: Any = None) -> Self:
        """Load a config as `Config.load` does.

        A `path` without a suffix is the name of a recipe of the package, see `recipes`.
        """
        if path is not None and not Path(path).suffix and not Path(path).is_file():
            if str(path) not in recipes():
                raise ConfigError(
                    f"{path} is neither a YAML file nor a recipe of the package; {nearest(str(path), recipes())}"
                )
            path = Path(str(_RECIPES / f"{path}.yaml"))
        return super().load(path, overrides, base=base)

    def check(self) -> None:
        """The settings fit each other; what only workers can know is checked there."""
        recipe, runtime = self.recipe, self.runtime
        runtime.check_precision(recipe.precision)
        recipe.optimizer.check_stage(runtime.zero.stage)
        if recipe.documents_apart or recipe.causal:
            self.check_family(recipe.model.family_to_train)

    def check_family(self, family: PretrainableFamily) -> None:
        """ConfigError where a model of that family, set up so, has no attention that the recipe asks for."""
        recipe, runtime = self.recipe, self.runtime
        asked = [family.why_not_apart] if recipe.documents_apart else []
        asked += [family.why_not_causal] if recipe.causal else []
        for why_not in asked:
            on_gpu = runtime.gpus_per_worker > 0
            reason = why_not(runtime.attention, on_gpu=on_gpu, attention_dropout=recipe.attention_dropout)
            if reason:
                raise ConfigError(reason)

    def batches(self, row_tokens: int) -> BatchSchedule:
        """The recipe's schedule of global batches, for the workers that it has.

        Raises:
            ConfigError: small batches are not smaller, or do not divide into the workers' micro batches.
        """
        recipe, runtime = self.recipe, self.runtime
        found = recipe.batches(row_tokens)
        micro = runtime.micro_rows_per_gpu or 1
        for workers in (runtime.least_workers, runtime.most_workers):
            if recipe.small_batches and found.small_rows % (workers * micro):
                raise ConfigError(
                    f"recipe.small_batches must divide by runtime.num_workers={workers} times "
                    f"runtime.micro_rows_per_gpu={micro}, got {found.small_rows} rows; take a multiple of "
                    f"{workers * micro} rows, or a smaller micro batch"
                )
        return found


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _RECIPES.iterdir())
