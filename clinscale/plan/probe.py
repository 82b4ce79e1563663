"""Measurement of this machine, under a minute: products, memory, link and exact attention, over what is assumed."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clinscale import models
from clinscale.engine import Device, Link, Precision, gemm_roof_flops
from clinscale.errors import ConfigError
from clinscale.plan.facts import ModelFacts
from clinscale.plan.step import LINK_SHARE, Network, Rates, rates_of

COPY_SHARE = 0.9
"""Share of a GPU's bandwidth that one large pass over memory reaches; assumed."""

_PASS_ELEMENTS = 2**24
_LINK_ELEMENTS = 2**23
_MOST_TOKENS = 4096
_REPEATS = 3, 20
"""Fewest and most timed runs of each measurement; between them, as many as fit into `_FILL_S`."""
_FILL_S = 1.0
_LOOK_S = 0.5
_BUSY = 0.25


@dataclass(frozen=True)
class Reading:
    """A rate as it was measured, beside the one that the plan assumes without a probe."""

    measured: float
    assumed: float

    @property
    def factor(self) -> float:
        """Factor that corrects the plan: above 1, this machine is faster than assumed."""
        return self.measured / self.assumed

    def plain(self) -> dict[str, float]:
        """JSON-ready."""
        return {**asdict(self), "factor": self.factor}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measurements of one worker's share of this machine; a part that cannot be measured here is None."""

    gemm_flops: Reading
    bytes_per_s: Reading
    attention_flops: Reading | None
    """None for a model whose attention is not the exact one."""
    link_bytes_per_s: Reading | None
    """None where there is nothing to connect: a single GPU, or a worker that is alone."""
    busy_share: float
    """Share of the machine's CPUs that other work kept busy before it began."""
    seconds: float

    @property
    def is_busy(self) -> bool:
        """Whether others kept so much of the machine busy that the figures are too low."""
        return self.busy_share > _BUSY

    def corrected(self, rates: Rates) -> Rates:
        """The rates as this machine reaches them."""
        return replace(
            rates,
            gemm_flops=rates.gemm_flops * self.gemm_flops.factor,
            bytes_per_s=rates.bytes_per_s * self.bytes_per_s.factor,
            attention_flops=rates.attention_flops * (self.attention_flops or self.gemm_flops).factor,
        )

    def network(self, network: Network) -> Network:
        """The network with the link within a node as it was measured; links between nodes are not seen from here."""
        if self.link_bytes_per_s is None:
            return network
        inside = network.inside
        rate = inside.bytes_per_s * self.link_bytes_per_s.factor
        return replace(network, inside=inside.model_copy(update={"bytes_per_s": rate}))

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        readings = ("gemm_flops", "bytes_per_s", "attention_flops", "link_bytes_per_s")
        found = {name: getattr(self, name) for name in readings}
        shown = {name: reading and reading.plain() for name, reading in found.items()}
        return {**shown, "busy_share": self.busy_share, "is_busy": self.is_busy, "seconds": self.seconds}


def measure_probe(
    model: ModelFacts,
    *,
    row_tokens: int,
    precision: Precision,
    cores: float,
    on_gpu: bool,
    device: Device,
    link: Link | None,
) -> Probe:
    """Measure what one worker reaches on this machine.

    Args:
        model: whose attention is measured.
        row_tokens: length of its rows.
        precision: of the products.
        cores: CPUs of a worker.
        on_gpu: whether it computes on a GPU.
        device: figures that are corrected.
        link: between the workers of a node; None measures none, for a worker that is alone.

    Raises:
        ConfigError: it is for GPUs, and there is none here.
    """
    import psutil  # type: ignore[import-untyped]
    import torch

    if on_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "--probe must be run where the run will be: runtime.gpus_per_worker is above 0, and no GPU was found here; "
            "leave --probe out to plan by the data sheet"
        )
    busy = psutil.cpu_percent(_LOOK_S) / 100
    start_s, threads = time.monotonic(), torch.get_num_threads()
    place = "cuda" if on_gpu else "cpu"
    torch.set_num_threads(max(1, int(cores)))
    try:
        rates = rates_of(device, precision, cores=cores)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        gemm = Reading(gemm_roof_flops(dtype, place, tokens=1024), rates.gemm_flops)
        pass_bytes_per_s = rates.bytes_per_s if device.is_measured else COPY_SHARE * device.memory_bytes_per_s
        return Probe(
            gemm_flops=gemm,
            bytes_per_s=Reading(_memory_bytes_per_s(place), pass_bytes_per_s),
            attention_flops=measure_attention(
                model, place, precision, row_tokens=row_tokens, gemm_flops=gemm.measured, rates=rates
            ),
            link_bytes_per_s=None if link is None else _link(link, on_gpu=on_gpu),
            busy_share=round(busy, 3),
            seconds=round(time.monotonic() - start_s, 1),
        )
    finally:
        torch.set_num_threads(threads)


def _best_s(work: Callable[[], Any], device: str) -> float:
    import torch

    least, most = _REPEATS
    taken: list[float] = []
    while len(taken) <= least or (len(taken) <= most and sum(taken[1:]) < _FILL_S):
        start_s = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start_s)
    return min(taken[1:])


def _memory_bytes_per_s(device: str) -> float:
    """Rate of a copy, which reads and writes each byte once."""
    import torch

    source = torch.ones(_PASS_ELEMENTS, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * _PASS_ELEMENTS / _best_s(lambda: target.copy_(source), device)


def measure_attention(
    facts: ModelFacts, device: str, precision: Precision, *, row_tokens: int, gemm_flops: float, rates: Rates
) -> Reading | None:
    """Rate of the attention's own pairs, forward and backward: the module's time without its projections.

    None for attention that is not the exact one, or whose time is lost in that of the projections.
    """
    import torch

    if not facts.is_exact:
        return None
    family = models.pretrainable_family(facts.config.model_type)
    tokens = min(row_tokens, _MOST_TOKENS)
    model = _one_layer(facts.config, family, tokens)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16 if precision == "bf16" else torch.float16
    model = model.to(device=device, dtype=dtype).train()
    batch = {"input_ids": torch.full((1, tokens), 5, device=device)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    module, hidden_BLE, others, named = models.attention_call(model, batch)
    hidden_BLE = torch.randn_like(hidden_BLE).requires_grad_()

    def work() -> None:
        module(hidden_BLE, *others, **named)[0].sum().backward()

    module_s = _best_s(work, device)
    hidden = facts.config.hidden_size
    projections_s = 3 * 3 * 2 * hidden**2 * tokens / gemm_flops  # queries, keys and values, three passes each
    pairs_s = module_s - projections_s
    if pairs_s < 0.05 * module_s:
        return None
    pairs = family.attended_pairs(model.config, tokens)
    return Reading(3 * 4 * hidden * pairs / pairs_s, rates.attention_flops)


def _one_layer(config: Any, family: Any, tokens: int) -> Any:
    """The run's model with one layer, a small vocabulary and no dropout, in clinscale's attention."""
    fields = {**family.sizes["base"], **family.published, "vocab_size": 512, "num_hidden_layers": 1}
    kept = ("hidden_size", "num_attention_heads", "intermediate_size", "attention_window", "block_size")
    fields |= {name: getattr(config, name) for name in kept if hasattr(config, name)}
    if isinstance(fields.get("attention_window"), list | tuple):
        fields["attention_window"] = fields["attention_window"][0]
    fields |= dict.fromkeys((name for names in family.dropout_fields for name in names), 0.0)
    fields.pop("max_tokens", None)
    model = family.new_mlm(fields, max_tokens=tokens)
    models.set_attention(model)
    return model


def _link(link: Link, *, on_gpu: bool) -> Reading | None:
    """Rate at which two ranks on this machine reduce their gradients, each way."""
    import torch

    if on_gpu and torch.cuda.device_count() < 2:
        return None
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_reduce, args=(folder, on_gpu), nprocs=2)  # type: ignore[no-untyped-call,attr-defined]
        seconds = float(Path(folder, "seconds").read_text(encoding="utf-8"))
    return Reading(4 * _LINK_ELEMENTS / seconds, LINK_SHARE * link.bytes_per_s)


def _reduce(rank: int, folder: str, on_gpu: bool) -> None:
    import torch

    torch.set_num_threads(1)
    backend, device = ("nccl", f"cuda:{rank}") if on_gpu else ("gloo", "cpu")
    torch.distributed.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    values = torch.ones(_LINK_ELEMENTS, device=device)
    seconds = _best_s(lambda: torch.distributed.all_reduce(values), "cuda" if on_gpu else "cpu")
    if rank == 0:
        Path(folder, "seconds").write_text(str(seconds), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart
