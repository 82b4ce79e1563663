"""`clinscale bench zero`: what each ZeRO stage keeps on each rank, beside what arithmetic says."""

import functools
import gc
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clinscale import models, plan
from clinscale.bench.encoders import batch_of, model_of
from clinscale.bench.measure import peak_allocated_bytes, ratio, surroundings
from clinscale.bench.record import BenchRecord, OnRatio, Ratios, say_nothing
from clinscale.engine import SMALL_ELEMENTS, DeepSpeedEngine, OptimizerConfig, Precision, ZeroConfig
from clinscale.errors import ClinscaleError

_ASKED = 1.05
_TOKENS = 512


def bench_zero(
    *,
    layers: int,
    hidden_size: int,
    stages: Sequence[int],
    num_workers: Sequence[int],
    precision: Precision,
    on_progress: Callable[[str], None],
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Bytes of model states on each rank after a step, over `plan.model_states`; ranks are processes here, over gloo.

    Measured are the storages of all tensors that live between two steps: parameters, optimiser and buffers.

    Raises:
        ClinscaleError: a rank failed.
    """
    before = surroundings("zero", "cpu")
    ratios, rows = Ratios(on_ratio), []
    for workers in num_workers:
        for stage in stages:
            on_progress(f"ZeRO {stage}, {workers} workers")
            shape = {"layers": layers, "hidden_size": hidden_size}
            found = measured_ranks(stage, workers, precision, shape)
            trained, frozen, small = (found[key] for key in ("trained", "frozen", "small"))
            expected = plan.model_states(trained, frozen, small, stage, workers, precision).total
            off_by = [max(measured / expected, expected / measured) for measured in found["bytes"]]
            ratios[f"zero_{stage}_workers_{workers}"] = ratio(off_by, _ASKED)
            rows.append({"stage": stage, "workers": workers, "bytes": found["bytes"], "expected_bytes": expected})
    return BenchRecord(
        surroundings=before,
        ratios=ratios,
        at_most=tuple(ratios),
        details={"per_rank": rows, **shape, "precision": precision},
    )


def measured_ranks(
    stage: int, workers: int, precision: Precision, shape: dict[str, int], *, tokens: int = _TOKENS
) -> dict[str, Any]:
    """Facts of a model that ranks train on one row of `tokens`, and what each rank held.

    `bytes` between two steps, `peak_bytes` at most within one.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call,attr-defined]
            _rank,
            args=(workers, stage, precision, shape, tokens, folder),
            nprocs=workers,
            join=False,
            start_method="spawn",
        )
        while not started.join():
            pass
        found = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(workers)]
    if len({one["trained"] for one in found}) != 1:
        raise ClinscaleError(
            "bench zero: all ranks must train the same model, got different ones; report this machine"
        )
    return {**found[0], **{key: [one[key] for one in found] for key in ("bytes", "peak_bytes")}}


def _rank(
    rank: int, workers: int, stage: int, precision: Precision, shape: dict[str, int], tokens: int, folder: str
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    place = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=workers)
    model = models.prepare_for_mlm(model_of("longformer", "exact", tokens=tokens, dropout=0.0, **shape))
    parameters = list(model.parameters())
    sizes = {
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "frozen": sum(p.numel() for p in parameters if not p.requires_grad),
        "small": sum(p.numel() for p in parameters if p.numel() <= SMALL_ELEMENTS),
    }
    engine = DeepSpeedEngine(
        model,
        OptimizerConfig(),
        total_steps=10,
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
        precision=precision,
        micro_batch_per_gpu=1,
        gradient_accumulation_steps=1,
    )
    batch = batch_of(model, rows=1, tokens=tokens, device="cpu")
    for _ in range(2):
        _step(engine, batch)
    beyond = peak_allocated_bytes(functools.partial(_step, engine, batch))
    del batch
    between = _live_bytes()
    torch.save({"bytes": between, "peak_bytes": between + beyond, **sizes}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


def _step(engine: DeepSpeedEngine, batch: Mapping[str, torch.Tensor]) -> None:
    engine.backward(engine.forward(batch).loss)
    engine.step()


def _live_bytes() -> int:
    """Bytes of all tensors of this process; memory that several share counts once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lazy modules that wake up when they are looked at
        tensors = [value for value in gc.get_objects() if isinstance(value, torch.Tensor) and not value.is_meta]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
