"""What a pretraining run is: the recipe that makes its numbers, the runtime that makes its speed."""

from clinscale.config import Config
from clinscale.corpus import MaskingConfig
from clinscale.engine import OptimizerConfig, Precision, ZeroConfig
from clinscale.errors import ConfigError
from clinscale.models import Attention, EvaluationPattern, ModelConfig
from clinscale.units import Duration


class PretrainRecipe(Config):
    """All that changes the numbers."""

    shards: str
    """Folder or URI of a ShardSet; the run records its fingerprint, not its place."""

    model: ModelConfig = ModelConfig()
    """Which encoder, from published weights or from scratch."""

    row_tokens: int | None = None
    """Length of each training row; None is all that the model can read."""

    rows_per_step: int = 18
    """Global batch over all workers; Clinical-Longformer's was 6 GPUs x 3."""

    duration: Duration = Duration(1, "epochs")
    """How long to train, as `200steps`, `1e9tokens` or `2epochs`."""

    masking: MaskingConfig = MaskingConfig()
    """Which tokens the encoder is asked to recover."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""

    precision: Precision = "fp32"
    """`bf16` halves the memory of activations; needs hardware that has it to be fast."""

    global_first_token: bool = False
    """Give Longformer's first token global attention. The paper did not, so its global projections never trained."""

    evaluation_pattern: EvaluationPattern = "training"
    """Which blocks BigBird sees in evaluation: those it trains on, or plain `transformers`' (`hf`)."""

    seed: int = 0
    """Of initialisation, order, masks and dropout."""

    def has_global_tokens(self, model_type: str) -> bool:
        """Whether any token of a row has global attention."""
        return self.global_first_token and model_type == "longformer"


class PretrainRuntime(Config):
    """All that changes only speed, place or cost."""

    num_workers: int = 2
    """Ray Train workers, one process each."""

    cpus_per_worker: float = 1
    """CPUs that Ray sets aside for each worker."""

    gpus_per_worker: float = 0
    """1 on a GPU cluster; 0 trains on CPU through gloo."""

    zero: ZeroConfig = ZeroConfig()
    """What DeepSpeed shards over the workers."""

    micro_rows_per_gpu: int | None = None
    """Rows of one forward pass; None is a worker's whole share of `rows_per_step`."""

    attention: Attention = "exact"
    """`exact` gives HF's numbers several times faster; `hf` runs HF's own code."""

    activation_checkpointing: bool = False
    """Keep one activation per layer and compute the rest again: far less memory for a third more time."""

    log_every_steps: int = 10
    """Training loss, learning rate and throughput."""

    checkpoint_every_steps: int = 500
    """A killed run loses at most this many steps."""

    evaluate_every_steps: int = 1000
    """Validation loss and perplexity on held-out rows, besides before the first and after the last step."""

    evaluation_rows: int = 256
    """Held-out rows that one evaluation reads at most."""

    num_to_keep: int = 2
    """Checkpoints kept on disk."""

    max_failures: int = 3
    """Restarts of the worker group before the run is given up."""


class PretrainConfig(Config):
    """One pretraining run under one name."""

    name: str
    """Run name and name of the registered base model; the same name resumes."""

    recipe: PretrainRecipe
    """Changes the numbers."""

    runtime: PretrainRuntime = PretrainRuntime()
    """Changes speed, place or cost."""

    def check(self) -> None:
        """The global batch divides over workers and micro batches."""
        rows, runtime = self.recipe.rows_per_step, self.runtime
        if rows % runtime.num_workers:
            raise ConfigError(
                f"recipe.rows_per_step must be a multiple of runtime.num_workers={runtime.num_workers}, got {rows}"
            )
        micro = runtime.micro_rows_per_gpu
        if micro and (rows // runtime.num_workers) % micro:
            raise ConfigError(
                f"runtime.micro_rows_per_gpu must divide a worker's {rows // runtime.num_workers} rows, got {micro}"
            )
