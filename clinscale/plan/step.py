"""Seconds of a training step by part: each operation against the roof that holds it."""

import math
from dataclasses import asdict, dataclass

from clinscale import models
from clinscale.engine import Device, Hardware, Link, Precision
from clinscale.plan.facts import ModelFacts, width_of

GEMM_SHARE = 0.75
"""Share of a GPU's peak that matrix products of an encoder's shapes reach. Chosen, not fitted: DeepSpeed's BERT-Large
reaches 0.52 of a V100's with everything else of a step (deepspeed.ai, 2020-05-19), and large products 0.7 to 0.8."""

ATTENTION_SHARE = 0.25
"""Share of a GPU's peak that the sparse attention's own pairs reach under FlexAttention; assumed, a tenth of a step."""

TRAFFIC_SHARE = 0.43
"""Share of a GPU's bandwidth that the passes over memory between the products reach, launches of kernels included.

The one fitted constant, on one row: our Longformer step on an H200 (398,600 tokens/s). `clinscale bench plan` prints
that row and those that it was not fitted to, which other people's software measured."""

CPU_ATTENTION_SHARE = 0.45
"""Share of a CPU's best matrix product that the exact attention reaches; `clinscale bench attention` on an AMD EPYC."""

LINK_SHARE = 0.8
"""Share of a link's bandwidth that collectives reach; assumed."""


@dataclass(frozen=True)
class Rates:
    """Work that one worker gets done in a second."""

    gemm_flops: float
    """Operations of matrix products."""
    attention_flops: float
    """Operations of the attention's own pairs."""
    bytes_per_s: float
    """Bytes read and written by the passes between products."""
    update_bytes_per_s: float
    """Bytes read and written by clipping and update, which make no new tensor."""
    peak_flops: float
    """The figure that MFU is a share of."""


def rates_of(device: Device, precision: Precision, *, cores: float = 1) -> Rates:
    """The rates of a worker with one device, or with so many `cores` of a CPU."""
    peak = device.fp32_flops if precision == "fp32" else device.half_flops
    if device.is_measured:
        gemm = peak * cores
        memory = device.memory_bytes_per_s * cores
        return Rates(gemm, CPU_ATTENTION_SHARE * gemm, memory, memory, gemm)
    memory = TRAFFIC_SHARE * device.memory_bytes_per_s
    return Rates(GEMM_SHARE * peak, ATTENTION_SHARE * peak, memory, memory, peak)


@dataclass(frozen=True)
class Network:
    """The links that collectives take."""

    inside: Link
    """The link between the devices of a node."""
    between: Link
    """The link between nodes, one port."""
    devices_per_node: int
    ports_per_node: int

    def seconds(self, sent_bytes: float, workers: int, *, messages: int = 1) -> float:
        """Seconds of collectives in which each worker sends and receives so many bytes, around a ring or a tree."""
        if workers == 1:
            return 0.0
        links = [(self.inside.bytes_per_s, self.inside.latency_s)]
        if workers > self.devices_per_node:
            links.append((self.between.bytes_per_s * self.ports_per_node, self.between.latency_s))
        slowest = LINK_SHARE * min(rate for rate, _ in links)
        latency_s = 2 * math.log2(workers) * max(latency for _, latency in links)
        return sent_bytes / slowest + messages * latency_s


def network_of(
    hardware: Hardware, device: Device, *, between: str, devices_per_node: int, ports_per_node: int
) -> Network:
    """The network of a cluster of such devices; ConfigError for a link that is not known."""
    return Network(hardware.link(device.link), hardware.link(between), devices_per_node, ports_per_node)


@dataclass(frozen=True, kw_only=True)
class StepSetup:
    """The part of a run's settings that decides how long a step takes."""

    row_tokens: int
    """Length of the rows of this step."""
    rows: int
    """Rows of the global batch, of that length."""
    micro_rows: int
    """Rows of one forward pass."""
    workers: int
    precision: Precision
    mask_share: float
    """Share of the tokens that the head computes."""
    stage: int = 2
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_param: bool = False
    autocast: bool = False
    """Whether weights and residual stay in fp32 and are cast for each product, as outside DeepSpeed."""

    @property
    def rows_of_worker(self) -> int:
        """Rows of the worker that has most of them, for which the others wait."""
        return -(-self.rows // self.workers)

    @property
    def micro_batches(self) -> int:
        """Forward passes of a step."""
        return -(-self.rows_of_worker // self.micro_rows)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of the slowest worker, by part."""

    dense_s: float
    """Products of projections and inner layers."""
    attention_s: float
    """Products of the pairs that attend."""
    head_s: float
    """Products of the head."""
    traffic_s: float
    """Passes over memory between the products."""
    optimizer_s: float
    """Clipping and update."""
    collectives_s: float
    """Gradients and weights between workers; none is counted as hidden, though ZeRO 3 overlaps a part."""
    offload_s: float
    """Copies between device and host."""
    data_s: float = 0.0
    """Wait for rows; the next ones are masked while the device works on these."""
    checkpoint_s: float = 0.0
    """Snapshots, spread over the steps between two."""
    evaluation_s: float = 0.0
    """Held-out rows, spread over the steps between two evaluations."""

    @property
    def total_s(self) -> float:
        """All of them."""
        return sum(self.plain().values())

    def plain(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


def step_time(model: ModelFacts, setup: StepSetup, rates: Rates, network: Network) -> StepTime:
    """Seconds of forward passes, backward passes, collectives and update of one step."""
    tokens = setup.rows_of_worker * setup.row_tokens
    flops = models.train_flops(model.config, setup.row_tokens, head_share=setup.mask_share)
    again = 4 / 3 if setup.activation_checkpointing else 1.0  # the layers' forward pass, once more
    traffic = tokens * (layer_traffic_bytes(model, setup) * again + head_traffic_bytes(model, setup))
    width = width_of(setup.precision)
    # weights in both passes, gradients made and added; the embedding's: zeros, and the head's added
    traffic += 4 * width * (model.parameters + model.embedding) * setup.micro_batches
    shared = setup.workers if setup.stage else 1
    update = model.trained / shared * update_bytes(setup.precision)
    compute = {
        "dense_s": tokens * flops.dense * again / rates.gemm_flops,
        "attention_s": tokens * flops.attention * again / rates.attention_flops,
        "head_s": tokens * flops.head / rates.gemm_flops,
        "traffic_s": traffic / rates.bytes_per_s,
    }
    host_bytes_per_s = 10e9  # DDR memory as one process reads it
    copies = setup.offload_optimizer * 2 * width * model.trained / shared
    copies += setup.offload_param * 2 * width * model.parameters * setup.micro_batches
    return StepTime(
        **compute,
        optimizer_s=update / (host_bytes_per_s if setup.offload_optimizer else rates.update_bytes_per_s),
        collectives_s=network.seconds(
            collective_bytes(model, setup),
            setup.workers,
            messages=1 if setup.stage < 3 else 3 * model.config.num_hidden_layers * setup.micro_batches,
        ),
        offload_s=copies / host_bytes_per_s,
    )


def update_bytes(precision: Precision) -> float:
    """Bytes that clipping and update move for each trained parameter.

    Norm and clipping read gradients twice; weights, moments and gradients are read, all but those written.
    """
    return 28 + 2 * 4 + (0 if precision == "fp32" else 2)


def layer_traffic_bytes(model: ModelFacts, setup: StepSetup) -> float:
    """Bytes that all layers read and write per token outside of products, forward and backward.

    In passes over a tensor of the hidden size: two residual sums and norms (6 + 4 forward; 6 + 6 + 4 backward), sums
    of the projections' input gradients (6) and of bias gradients (9), the activation (2 passes over the inner size
    forward, 3 backward), each dropout 4 forward and backward together.
    """
    config = model.config
    family = models.pretrainable_family(config.model_type)
    hidden, inner = config.hidden_size, config.intermediate_size
    gated = family.inner_products == 3
    passes = hidden * (10 + 16 + 15 + (8 if model.dropout else 0)) + inner * (8 if gated else 5)
    width = width_of(setup.precision)
    per_layer = float(width * passes)
    if setup.autocast and width == 2:
        # sums and norms in fp32, and each product's input cast, forward, and its gradient back
        per_layer += hidden * 2 * (10 + 16) + (2 + 4) * 2 * (6 * hidden + inner)
    if not model.is_exact:
        per_layer += scores_traffic_bytes(model, setup.row_tokens, width)
    return float(per_layer * config.num_hidden_layers)


def scores_traffic_bytes(model: ModelFacts, row_tokens: int, width: int) -> float:
    """Bytes per token and layer by which HF's own attention of a sparse family moves scores and probabilities.

    About 30 passes over them: products, masks, diagonals, softmax, dropout and their gradients. PyTorch's own
    attention, which other families use, keeps none.
    """
    config = model.config
    if models.family_of(config.model_type) not in models.EXACT_FAMILIES:
        return 0.0
    family = models.pretrainable_family(config.model_type)
    pairs = family.attended_pairs(config, row_tokens) / row_tokens / config.num_hidden_layers
    return float(30 * width * pairs * config.num_attention_heads)


def head_traffic_bytes(model: ModelFacts, setup: StepSetup) -> float:
    """Bytes that the head moves per token of the batch: logits, their softmax in fp32, and its gradient."""
    width = width_of(setup.precision)
    passes = 6 * 4 + 3 * width + (0 if width == 4 else 2 * (4 + width))
    return float(passes * model.config.vocab_size * setup.mask_share)


def collective_bytes(model: ModelFacts, setup: StepSetup) -> float:
    """Bytes that each worker sends in a step.

    Stages 0 to 2 reduce gradients and hand out the new weights, twice the weights' size around a ring; stage 2 reduces
    after each micro batch. Stage 3 gathers weights for each forward and each backward pass besides.
    """
    width = width_of(setup.precision)
    ring = (setup.workers - 1) / setup.workers
    gradients, weights = width * model.trained, width * model.parameters
    if setup.stage == 3:
        return ring * setup.micro_batches * (2 * weights + gradients)
    return ring * (gradients * (setup.micro_batches if setup.stage == 2 else 1) + width * model.trained)
