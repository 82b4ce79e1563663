"""The hyperparameters of one fine-tuning; every field of the recipe can be a dimension of a search space."""

from typing import Any, Literal

from pydantic import Field

from clinscale.config import Config, Seed, check_last_seed
from clinscale.engine import MemoryConfig, OptimizerConfig, Precision, ZeroConfig
from clinscale.errors import ConfigError
from clinscale.models import AttentionConfig, EvaluationPattern
from clinscale.runfolder import check_plain_name
from clinscale.runtime import GroupConfig
from clinscale.tasks import LongDocuments


class FinetuneRecipe(Config):
    """All that changes the numbers."""

    model: str
    """HF folder or hub name of the encoder to start from."""

    max_tokens: int | None = Field(default=None, ge=8)
    """Window that the model reads; None is all that it can. 512 makes the short baseline."""

    stride_tokens: int = Field(default=64, ge=0)
    """Overlap of neighbouring windows of longer documents (entities and answers only)."""

    long_documents: LongDocuments = "truncate"
    """The reading of a text to classify that is longer than the window: `truncate`, `head_tail`, or `pool` windows."""

    epochs: int = 6
    """Passes over the training split at most; early stopping may end sooner."""

    patience_epochs: int = 3
    """Stop after this many epochs without a better score on the development split."""

    batch_size: int = 16
    """Windows per optimizer step; the paper's public example of entities has 16, over four GPUs."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Windows of one forward pass; None is the whole batch, or the whole share of each of several workers."""

    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.01, warmup_ratio=0.1)
    """The optimiser and its schedule."""

    dropout: float | None = None
    """Hidden and attention dropout; None keeps the checkpoint's."""

    # left out of `plain` where it is not set, so that runs from before there was any keep their fingerprint
    attention_dropout: float | None = Field(default=None, ge=0, lt=1, exclude_if=lambda value: value is None)
    """Dropout of attention probabilities alone; None is `dropout`, or the checkpoint's.

    0 trains faster: FlexAttention, which makes a Longformer fast on a GPU, has none, and neither has PyTorch's fused
    attention, which makes short encoders fast on a CPU.
    """

    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass."""

    evaluation_pattern: EvaluationPattern = "hf"
    """The blocks that BigBird sees in evaluation; `hf` answers as plain `transformers` does wherever it is pulled."""

    seed: Seed = 0
    """Seed of the new head, the order and dropout."""

    def check(self) -> None:
        """Counts are positive, the micro batch divides the batch, and the optimiser trains what is judged."""
        if self.optimizer.name == "schedule_free":
            raise ConfigError(
                "recipe.optimizer.name must be adamw or muon in fine-tuning, got schedule_free, which is for "
                "pretraining; leave it out"
            )
        if self.optimizer.schedule_unit != "steps":
            raise ConfigError(
                f"recipe.optimizer.schedule_unit must be steps in fine-tuning, got {self.optimizer.schedule_unit}, "
                "which is for pretraining; leave it out"
            )
        for name in ("epochs", "batch_size", "patience_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"recipe.{name} must be at least 1, got {getattr(self, name)}; "
                    f"{type(self).model_fields[name].default} is usual"
                )
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"recipe.micro_batch_size must divide batch_size={self.batch_size}, got {self.micro_batch_size}; name "
                "a divisor, or leave it out"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(
                f"recipe.dropout must be a share from 0 to below 1, got {self.dropout}; leave it out to keep the "
                "checkpoint's"
            )


class FinetuneRuntime(GroupConfig, MemoryConfig, AttentionConfig):
    """All that changes only speed or place."""

    device: Literal["cpu", "cuda"] | None = None
    """None takes a GPU where there is one; CUDA_VISIBLE_DEVICES says which. Several workers take `gpus_per_worker`."""

    num_workers: int = 1
    """1 is one process without Ray; more are Ray Train workers with DeepSpeed, for models that do not fit one GPU."""

    def check(self) -> None:
        """Check that there is a worker, and that one process sets nothing that only several workers use."""
        super().check()
        if self.num_workers > 1 and self.device:
            raise ConfigError(
                f"runtime.device={self.device} applies only when runtime.num_workers=1, got "
                f"num_workers={self.num_workers}; leave it out and set runtime.gpus_per_worker to 1 for GPUs or 0 for "
                "CPUs"
            )
        if self.num_workers == 1 and self.zero != ZeroConfig():
            raise ConfigError(
                "runtime.zero applies only to several workers, got runtime.num_workers=1, and one process shards "
                "nothing; set runtime.num_workers=2 or leave runtime.zero out"
            )


class FinetuneConfig(Config):
    """One fine-tuning under one name."""

    name: str
    """Run name; the same name and recipe return the finished result."""

    task: str
    """Name in `clinscale tasks`, or a YAML file of your own task."""

    data: str
    """Folder of the task's files."""

    task_changes: dict[str, Any] = Field(default_factory=dict)
    """Laid over the task: `task_changes.unit=line`, `task_changes.options.criterion=creatinine_urine`."""

    seeds: int = 1
    """Fine-tunings with seeds recipe.seed, recipe.seed + 1, ...; the best on the development split is kept."""

    recipe: FinetuneRecipe
    """Changes the numbers."""

    runtime: FinetuneRuntime = FinetuneRuntime()
    """Changes speed or place."""

    def check(self) -> None:
        """The name can be a folder, there is a seed to run, and what several workers cannot do is not asked of them."""
        check_plain_name("finetune name", self.name)
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}; 1 is usual")
        check_last_seed(self.recipe.seed, self.seeds, of="seeds")
        if self.runtime.num_workers > 1:
            self.runtime.check_precision(self.recipe.precision)
            self.recipe.optimizer.check_stage(self.runtime.zero.stage)
