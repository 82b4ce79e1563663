"""`clinscale bench checkpoint`: what a checkpoint costs training, beside a save that training waits for."""

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from clinscale import models
from clinscale.bench.encoders import batch_of, model_of
from clinscale.bench.measure import ratio, surroundings
from clinscale.bench.record import BenchRecord
from clinscale.engine import CheckpointStore, DeepSpeedEngine, OptimizerConfig, ZeroConfig, newest_checkpoint
from clinscale.errors import ClinscaleError
from clinscale.pretrain import PretrainRuntime

_ASKED_STALL, _ASKED_SHARE = 10.0, 0.01


def bench_checkpoint(
    *, layers: int, hidden_size: int, tokens: int, stage: int, repeats: int, on_progress: Callable[[str], None]
) -> BenchRecord:
    """Seconds that training pauses for a blocking save over those for ours, and ours as a share of training.

    The peer is what DeepSpeed and Ray Train do together: `save_checkpoint` into a folder of the worker's, then a copy
    to the run's storage. The share is of steps of one row of `tokens` at the default interval, with what the writing
    thread takes from the steps beside it: their mean duration while it writes is compared with that of quiet steps.

    Raises:
        ClinscaleError: ours holds other tensors than the peer's.
    """
    before = surroundings("checkpoint", "cpu")
    with tempfile.TemporaryDirectory() as folder, _group(Path(folder)):
        on_progress("building the model")
        model = models.prepare_for_mlm(
            model_of("longformer", "exact", layers=layers, tokens=tokens, dropout=0.0, hidden_size=hidden_size)
        )
        batch = batch_of(model, rows=1, tokens=tokens, device="cpu")
        engine = DeepSpeedEngine(
            model,
            OptimizerConfig(),
            total_steps=1000,
            zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
            precision="fp32",
            micro_batch_per_gpu=1,
            gradient_accumulation_steps=1,
        )

        def step() -> float:
            start_s = time.perf_counter()
            engine.backward(engine.forward(batch).loss)
            engine.step()
            return time.perf_counter() - start_s

        step()
        quiet_s = [step() for _ in range(repeats + 1)]
        deepspeed = engine._engine  # the peer is what is beneath
        writes_itself = deepspeed.checkpoint_engine
        store = CheckpointStore(Path(folder, "ours"), rank=0, world_size=1)
        store.save(engine, 1, {})  # pays for the buffers, once
        store.wait()
        blocking_s, ours_s, beside_s = [], [], []
        for turn in range(repeats):
            on_progress(f"saving {turn + 1} of {repeats}")
            deepspeed.checkpoint_engine = writes_itself
            blocking_s.append(_blocking_save(deepspeed, Path(folder, "peer")))
            ours_s.append(store.save(engine, turn + 2, {}))
            beside_s.append(step())
            store.wait()
        on_progress("comparing")
        size_bytes = _compare(Path(folder, "peer"), newest_checkpoint(Path(folder, "ours")))
    quiet = statistics.median(quiet_s)
    interval_s = PretrainRuntime().checkpoint_every_steps * quiet
    cost_s = [stall + max(0.0, beside - quiet) for stall, beside in zip(ours_s, beside_s, strict=True)]
    return BenchRecord(
        surroundings=before,
        ratios={
            "stall_blocking_over_ours": ratio(
                [slow / fast for slow, fast in zip(blocking_s, ours_s, strict=True)], _ASKED_STALL
            ),
            "share_of_training": ratio([cost / (interval_s + cost) for cost in cost_s], _ASKED_SHARE),
        },
        at_most=("share_of_training",),
        details={
            "checkpoint_bytes": size_bytes,
            "blocking_s": blocking_s,
            "stall_s": ours_s,
            "quiet_step_s": quiet,
            "step_while_writing_s": beside_s,
            "checkpoint_every_steps": PretrainRuntime().checkpoint_every_steps,
        },
    )


@contextlib.contextmanager
def _group(folder: Path) -> Iterator[None]:
    """A process group of one, as DeepSpeed wants it."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _blocking_save(deepspeed: Any, storage: Path) -> float:
    """Save as DeepSpeed does, copy as Ray Train's report does, both on the disk when it returns."""
    shutil.rmtree(storage, ignore_errors=True)
    start_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        deepspeed.save_checkpoint(folder, tag="engine", save_latest=False)
        for path in sorted(Path(folder).rglob("*.pt")):
            target = storage / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            with target.open("rb") as stream:
                os.fsync(stream.fileno())
    return time.perf_counter() - start_s


def _compare(peer: Path, ours: Path | None) -> int:
    """Bytes of ours; ClinscaleError unless both, which were saved one after the other, hold the same tensors."""
    if ours is None:
        raise ClinscaleError(
            "bench checkpoint: the save must leave a whole checkpoint, got none; make room on the disk, or report "
            "this machine"
        )
    for path in sorted(peer.rglob("*.pt")):
        saved = (
            _tensors(torch.load(place / path.relative_to(peer), weights_only=False)) for place in (peer, ours)
        )
        if not all(torch.equal(a, b) for a, b in zip(*saved, strict=True)):
            raise ClinscaleError(
                f"bench checkpoint: {path.name} must hold the same tensors as DeepSpeed's, got others; report this "
                "machine"
            )
    return sum(path.stat().st_size for path in ours.rglob("*.pt"))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in inner for tensor in _tensors(part)]
