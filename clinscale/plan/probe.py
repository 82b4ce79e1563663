"""Measurement of this machine: parts of a step and the link, over what is assumed; a base model takes a minute."""

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clinscale.engine import Device, Link, Precision
from clinscale.errors import ConfigError
from clinscale.plan.facts import ModelFacts
from clinscale.plan.step import LINK_SHARE, Network, Rates, rates_of
from clinscale.plan.works import Work, Works, timed_s, works_of

_LINK_ELEMENTS = 2**23
_LINK_REPEATS = 10
_TURNS = 3, 20
"""Fewest and most turns through all parts; between them, as many as fit into `_FILL_S`."""
_FILL_S = 10.0
_LOOK_S = 0.5
BUSY_SHARE = 0.25
"""Share of a machine's CPUs that others may keep busy before a figure is called one of a busy machine."""
_LEAST_PAIRS = 0.05
"""A smaller share of the attention's module is lost in the scatter of its projections."""


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
    """Rate of the passes between products: sums, norms, activation, loss; fresh memory for each result included."""
    update_bytes_per_s: Reading
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
        return self.busy_share > BUSY_SHARE

    def corrected(self, rates: Rates) -> Rates:
        """The rates as this machine reaches them."""
        gemm_flops = rates.gemm_flops * self.gemm_flops.factor
        return replace(
            rates,
            gemm_flops=gemm_flops,
            # a CPU has no data sheet's peak: MFU is a share of its products
            peak_flops=gemm_flops if rates.peak_flops == rates.gemm_flops else rates.peak_flops,
            bytes_per_s=rates.bytes_per_s * self.bytes_per_s.factor,
            update_bytes_per_s=rates.update_bytes_per_s * self.update_bytes_per_s.factor,
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
        readings = ("gemm_flops", "bytes_per_s", "update_bytes_per_s", "attention_flops", "link_bytes_per_s")
        found = {name: getattr(self, name) for name in readings}
        shown = {name: reading and reading.plain() for name, reading in found.items()}
        return {**shown, "busy_share": self.busy_share, "is_busy": self.is_busy, "seconds": self.seconds}


def measure_probe(
    model: ModelFacts,
    *,
    row_tokens: int,
    rows: int,
    precision: Precision,
    mask_share: float,
    cores: float,
    on_gpu: bool,
    device: Device,
    link: Link | None,
) -> Probe:
    """Measure what one worker reaches on this machine: each part of a step in turns, until its median is known.

    Args:
        model: whose parts are measured.
        row_tokens: length of its rows.
        rows: number that a forward pass reads.
        precision: of products and passes.
        mask_share: share of the tokens that the head computes.
        cores: CPUs of a worker.
        on_gpu: whether it computes on a GPU.
        device: figures that are corrected.
        link: between the workers of a node; None measures none, for a worker that is alone.

    Raises:
        ConfigError: it is for GPUs, and there is none here.
    """
    import torch

    if on_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "--probe must be run where the run will be: runtime.gpus_per_worker is above 0, and no GPU was found here; "
            "leave --probe out to plan by the data sheet"
        )
    busy_share, threads = busy_share_here(), torch.get_num_threads()
    start_s = time.monotonic()
    torch.set_num_threads(max(1, int(cores)))
    try:
        place = "cuda" if on_gpu else "cpu"
        works = works_of(
            model, row_tokens=row_tokens, rows=rows, precision=precision, mask_share=mask_share, device=place
        )
        one_turn(works, place)  # the first allocates
        turns = [one_turn(works, place)]
        least, most = _TURNS
        while len(turns) < least or (
            len(turns) < most and sum(map(sum, (one.values() for one in turns))) < _FILL_S
        ):
            turns.append(one_turn(works, place))
        measured = None if link is None else _link(link, on_gpu=on_gpu)
    finally:
        torch.set_num_threads(threads)
    found = probe_of(works, turns, rates_of(device, precision, cores=cores), busy_share=busy_share)
    return replace(found, link_bytes_per_s=measured, seconds=round(time.monotonic() - start_s, 1))


def busy_share_here() -> float:
    """Share of this machine's CPUs that work keeps busy, watched for half a second."""
    import psutil  # type: ignore[import-untyped]

    return round(float(psutil.cpu_percent(_LOOK_S)) / 100, 3)


def one_turn(works: Works, device: str) -> dict[str, float]:
    """Seconds of each work, done once, one after the other."""
    return {name: timed_s(work, device) for name, work in works.items()}


def probe_of(works: Works, turns: Sequence[Mapping[str, float]], rates: Rates, *, busy_share: float) -> Probe:
    """The probe that the median of each work's seconds gives, beside the `rates` that are assumed without one."""
    median_s = {name: statistics.median(turn[name] for turn in turns) for name in works}

    def rate(*names: str) -> float:
        amount = sum(works[name].times * works[name].amount for name in names)
        return amount / sum(works[name].times * median_s[name] for name in names)

    gemm_flops = rate("layer_products", "head_products")
    attention = None
    if "attention" in works:
        pairs_s = median_s["attention"] - works["attention"].product_flops / gemm_flops
        if pairs_s > _LEAST_PAIRS * median_s["attention"]:
            attention = Reading(works["attention"].amount / pairs_s, rates.attention_flops)
    return Probe(
        gemm_flops=Reading(gemm_flops, rates.gemm_flops),
        bytes_per_s=Reading(rate("layer_passes", "head_passes"), rates.bytes_per_s),
        update_bytes_per_s=Reading(rate("update"), rates.update_bytes_per_s),
        attention_flops=attention,
        link_bytes_per_s=None,
        busy_share=busy_share,
        seconds=round(sum(sum(turn.values()) for turn in turns), 1),
    )


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
    reduce = Work(lambda: torch.distributed.all_reduce(values), 4 * _LINK_ELEMENTS)
    place = "cuda" if on_gpu else "cpu"
    seconds = statistics.median([timed_s(reduce, place) for _ in range(_LINK_REPEATS + 1)][1:])
    if rank == 0:
        Path(folder, "seconds").write_text(str(seconds), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart
