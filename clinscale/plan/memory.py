"""Most memory that a rank holds, by part, at any ZeRO stage: counted, then measured by `clinscale bench plan`."""

from dataclasses import asdict, dataclass, fields

from clinscale import models
from clinscale.engine import REDUCE_BUCKET_ELEMENTS, Precision
from clinscale.plan.facts import ModelFacts, width_of

GPU_PROCESS_BYTES = 1.2e9
"""A process on a GPU before it has a tensor: CUDA's context, libraries and NCCL's buffers; assumed."""

CPU_PROCESS_BYTES = 0.8e9
"""A worker on a CPU before it has a tensor: Python, torch, transformers and DeepSpeed; assumed."""

GPU_SLACK = 0.1
"""Memory that PyTorch's caching allocator holds without using it, as a share of what comes and goes; assumed."""


@dataclass(frozen=True, kw_only=True)
class RankSetup:
    """The part of a run's settings that decides what a rank holds."""

    stage: int
    workers: int
    precision: Precision
    micro_rows: int
    row_tokens: int
    micro_batches: int = 1
    """Forward passes of a step."""
    mask_share: float = 0.15
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_param: bool = False
    on_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a rank holds at the moment of the step at which it holds most, by part."""

    weights: float
    gradients: float
    optimizer: float
    """Master weights and moments."""
    activations: float
    """Tensors that the backward pass needs."""
    temporary: float
    """Logits and their gradients, buckets that are reduced, sums of gradients."""
    slack: float
    """The process itself, and what the allocator holds without using it."""
    host: float = 0.0
    """Memory of the host for what is offloaded; no part of the total."""

    @property
    def total(self) -> float:
        """All parts on the device."""
        return sum(float(getattr(self, field.name)) for field in fields(self) if field.name != "host")

    def plain(self) -> dict[str, float]:
        """JSON-ready."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes that a rank holds between two steps (Rajbhandari et al. 2020), as DeepSpeed keeps them."""

    weights: float
    gradients: float
    """ZeRO 3 alone keeps its share of them, and the bucket in which they are reduced."""
    optimizer: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.gradients + self.optimizer


def model_states(
    trained: int, frozen: int, small: int, stage: int, num_workers: int, precision: Precision
) -> States:
    """Bytes of parameters, master weights and Adam's moments on each rank between two steps.

    DeepSpeed keeps an fp32 master of every trained parameter from stage 1 on in fp32, too, and in half precision at
    every stage. Gradients live within a step, but for stage 3: it keeps its share of them and the bucket in which they
    are reduced, and small parameters whole beside its share.

    Args:
        trained: number of trained parameters.
        frozen: number of those without gradients.
        small: number of all in tensors of up to `SMALL_ELEMENTS`.
        stage: of ZeRO.
        num_workers: that share.
        precision: of the parameters that are computed with.
    """
    width = width_of(precision)
    shared = num_workers if stage else 1
    masters = 0 if stage == 0 and precision == "fp32" else 4 * trained / shared
    weights = width * ((trained + frozen) / num_workers + small if stage == 3 else trained + frozen)
    gradients = width * (trained / num_workers + REDUCE_BUCKET_ELEMENTS) if stage == 3 else 0
    return States(weights=weights, gradients=gradients, optimizer=masters + 8 * trained / shared)


def rank_memory(model: ModelFacts, setup: RankSetup) -> Memory:
    """Bytes of a rank at the fullest of three moments: backward begins, backward ends, the update."""
    states = model_states(model.trained, model.frozen, model.small, setup.stage, setup.workers, setup.precision)
    width = width_of(setup.precision)
    tokens = setup.micro_rows * setup.row_tokens
    kept = activation_bytes(model, setup)
    logits = model.config.vocab_size * setup.mask_share * tokens
    embedding = width * model.embedding
    bucket = width * REDUCE_BUCKET_ELEMENTS if setup.stage in (1, 2) else 0.0  # at stage 3 it is one of the states
    # gradients that earlier micro batches left, those behind the last one, and of these what is reduced before the
    # embedding's, which come last
    share = width * model.trained / (setup.workers if setup.stage >= 2 else 1)
    before = share if setup.micro_batches > 1 and setup.stage < 3 else 0.0
    after = share if setup.stage < 3 else 0.0
    reduced = after
    if setup.stage == 2:
        rest = max(0, model.trained - model.embedding - REDUCE_BUCKET_ELEMENTS)
        reduced = max(before, width * rest / setup.workers)
    # ZeRO 3 gathers weights layer by layer, and keeps up to 1e9 of them for the backward pass
    gathered = width * min(model.trained, 1e9) if setup.stage == 3 and setup.workers > 1 else 0.0
    # log-probabilities, the gradient of the loss in them, and that of the logits
    begin = (before, kept, 3 * 4 * logits + (width * logits if width == 2 else 0) + gathered)
    # the embedding is tied to the head: the head's gradient, its own, and their sum
    end = (reduced, 0.0, embedding * (2 if setup.stage < 2 else 3) + bucket + gathered)
    # the norm is taken in double precision, tensor by tensor; ZeRO flattens its gradients into fp32
    shared = setup.workers if setup.stage else 1
    flat = 4 * model.trained / shared if setup.stage else 0.0
    update = (after, 0.0, max(8.0 * model.embedding / shared, flat))
    gradients, activations, temporary = max((begin, end, update), key=sum)
    weights, optimizer, host = states.weights, states.optimizer, 0.0
    if setup.offload_optimizer:
        host += optimizer + 4 * model.trained / shared
        optimizer, gradients = 0.0, gradients if setup.stage < 2 else 0.0
    if setup.offload_param:
        host += weights
        weights = width * (model.small + model.parameters / max(model.config.num_hidden_layers, 1) * 2)
    slack = CPU_PROCESS_BYTES
    if setup.on_gpu:
        slack = GPU_PROCESS_BYTES + GPU_SLACK * (gradients + activations + temporary)
    return Memory(
        weights=weights,
        gradients=states.gradients + gradients,
        optimizer=optimizer,
        activations=activations,
        temporary=temporary,
        slack=slack,
        host=host,
    )


def activation_bytes(model: ModelFacts, setup: RankSetup) -> float:
    """Bytes of the tensors that a micro batch keeps for its backward pass."""
    config, width = model.config, width_of(setup.precision)
    tokens, layers = setup.micro_rows * setup.row_tokens, config.num_hidden_layers
    layer = _layer_bytes(model, setup)
    kept = layers * layer
    if setup.activation_checkpointing:
        kept = layers * width * config.hidden_size + layer
    # embeddings: input of their norm, its dropout, and the ids
    dropped = (1 if setup.on_gpu else width) * config.hidden_size if model.dropout else 0
    embeddings = width * config.hidden_size + dropped + 3 * 8
    head = 4 * width * config.hidden_size * setup.mask_share
    return float(tokens * (kept + embeddings + head))


def _layer_bytes(model: ModelFacts, setup: RankSetup) -> float:
    """Bytes that one layer keeps for each token.

    Post-norm layers: their input, queries, keys and values, the attention's output, both norms' inputs, the inner
    layer's input, and what goes into and comes out of the activation. ModernBERT's have rotated queries and keys and a
    gate besides. Dropout keeps a byte for each number on a GPU, and a number on a CPU.
    """
    config, width = model.config, width_of(setup.precision)
    hidden, inner = config.hidden_size, config.intermediate_size
    family = models.pretrainable_family(config.model_type)
    if family.inner_products == 3:
        kept = float(width * (11 * hidden + 4 * inner))
    else:
        kept = float(width * (8 * hidden + 2 * inner))
    if model.dropout:
        kept += 2 * hidden * (1 if setup.on_gpu else width)
    kept += 2 * 2 * 4  # means and deviations of two norms
    if not model.is_exact and (scores := family.hf_kept_scores):
        pairs = family.attended_pairs(config, setup.row_tokens) / setup.row_tokens / config.num_hidden_layers
        # softmax is in fp32, what is multiplied with values in the precision of the rest
        kept += scores[not model.attention_dropout] * pairs * config.num_attention_heads * (4 + width) / 2
    elif setup.on_gpu:
        kept += width * hidden + 4 * config.num_attention_heads  # fused kernels keep their output and its log-sums
    return kept
