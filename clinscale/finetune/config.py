"""The hyperparameters of one fine-tuning; every field of the recipe can be a dimension of a search space."""

from typing import Any

from pydantic import Field

from clinscale.config import Config
from clinscale.engine import OptimizerConfig, Precision
from clinscale.errors import ConfigError
from clinscale.models import Attention, EvaluationPattern
from clinscale.tasks import LongDocuments


class FinetuneRecipe(Config):
    """All that changes the numbers."""

    model: str
    """HF folder or hub name of the encoder to start from."""

    max_tokens: int | None = None
    """Window that the model reads; None is all that it can. 512 makes the short baseline."""

    stride_tokens: int = 64
    """Overlap of neighbouring windows of longer documents (entities and answers only)."""

    long_documents: LongDocuments = "truncate"
    """How a text to classify that is longer than the window is read: `truncate`, `head_tail`, or `pool` windows."""

    epochs: int = 6
    """Passes over the training split at most; early stopping may end sooner."""

    patience_epochs: int = 3
    """Stop after this many epochs without a better score on the development split."""

    batch_size: int = 16
    """Windows per optimizer step; the paper's public scripts use 16."""

    micro_batch_size: int | None = None
    """Windows of one forward pass; None is the whole batch."""

    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.01, warmup_ratio=0.1)
    """AdamW and its schedule."""

    dropout: float | None = None
    """Hidden and attention dropout; None keeps the checkpoint's."""

    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass."""

    evaluation_pattern: EvaluationPattern = "hf"
    """Which blocks BigBird sees in evaluation; `hf` answers as plain `transformers` does, wherever it is pulled to."""

    seed: int = 0
    """Of the new head, the order and dropout."""

    def check(self) -> None:
        """Counts are positive, and the micro batch divides the batch."""
        for name in ("epochs", "batch_size", "patience_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe.{name} must be at least 1, got {getattr(self, name)}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"recipe.micro_batch_size must divide batch_size={self.batch_size}, got {self.micro_batch_size}"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"recipe.dropout is a share from 0 to below 1, got {self.dropout}")


class FinetuneRuntime(Config):
    """All that changes only speed or place."""

    device: str | None = None
    """`cpu`, `cuda`; None takes a GPU where there is one."""

    attention: Attention = "exact"
    """`exact` gives HF's numbers several times faster, and computes no padding; `hf` runs HF's own code."""

    activation_checkpointing: bool = False
    """Keep one activation per layer and compute the rest again: far less memory for a third more time."""


class FinetuneConfig(Config):
    """One fine-tuning under one name."""

    name: str
    """Run name; the same name and recipe return the finished result."""

    task: str
    """Name in `clinscale tasks`, or a YAML file of your own task."""

    data: str
    """Folder of the task's files."""

    task_changes: dict[str, Any] = Field(default_factory=dict)
    """Laid over the task: `task_changes.unit=line`, `task_changes.options.criterion=creatinine`."""

    seeds: int = 1
    """Fine-tunings with seeds recipe.seed, recipe.seed + 1, ...; the best on the development split is kept."""

    recipe: FinetuneRecipe
    """Changes the numbers."""

    runtime: FinetuneRuntime = FinetuneRuntime()
    """Changes speed or place."""

    def check(self) -> None:
        """There is a seed to run."""
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}")
