"""`clinscale bench step`: whole steps of masked-language training against HF's."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from clinscale import models
from clinscale.bench.encoders import (
    FAMILIES,
    MASKED_SHARE,
    batch_of,
    builds_dense_probabilities,
    check_shape,
    model_of,
    pair,
    prefix_of,
    without_dense_probabilities,
)
from clinscale.bench.measure import (
    Times,
    in_fresh_process,
    peak_resident_bytes,
    ratio,
    side_by_side,
    surroundings,
)
from clinscale.bench.record import BenchRecord, OnRatio, Ratios, say_nothing
from clinscale.engine import OptimizerConfig, Precision, TorchEngine, datasheet_peak_flops, gemm_roof_flops
from clinscale.errors import ClinscaleError

PAPER_TOKENS = 200_000 * 18 * 4096
"""Clinical-Longformer's pretraining: 200,000 steps of 6 GPUs x 3 rows x 4,096 tokens (Li et al. 2023)."""

_ASKED_STEP = {2: 3.0, 12: 2.2}
_ASKED = {"bf16_over_fp32": 3.5, "fp32": 0.75, "bf16": 0.6, "memory": 2.5, "cuda_bf16": 3.0, "mfu": 0.35}
_STEPS = 10_000  # of the schedule; never reached


def bench_step(
    *,
    tokens: int = 4096,
    rows: int = 1,
    layers: tuple[int, ...] = (2, 12),
    repeats: int = 5,
    families: tuple[str, ...] = FAMILIES,
    precisions: tuple[Precision, ...] = ("fp32", "bf16"),
    dropout: float = 0.0,
    hidden_size: int = 768,
    vocab_size: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[str], None] = lambda name: None,
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Forward, backward, clipping and AdamW of one MLM step, all families, at base width.

    A is HF eager, B clinscale, both through the same engine with the same weights and rows; loss and gradients are
    compared before anything is timed. The roof is the best matrix product measured here; only useful arithmetic
    counts (`models.train_flops_per_token`). Memory is the peak of a process that does one step of A or of B. Without a
    `vocab_size` the models have that of the published ones.

    Raises:
        ConfigError: a shape that cannot be measured.
        ClinscaleError: A and B do not agree.
    """
    check_shape(tokens, hidden_size)
    before = surroundings("step", device)
    ratios = Ratios(on_ratio)
    details: dict[str, Any] = {}
    is_cuda = device.startswith("cuda")
    shape = {"tokens": tokens, "dropout": dropout, "hidden_size": hidden_size, "vocab_size": vocab_size}
    for family in families:
        prefix = prefix_of(family)
        deepest = max(layers)
        times: dict[tuple[int, str], Times] = {}
        for depth in layers:
            for precision in precisions:
                name = f"{family}_step_{depth}_layers_{precision}"
                on_progress(name)
                hf, ours = pair(family, layers=depth, **shape, device=device)
                for layer in hf.base_model.encoder.layer:
                    # under autocast HF's BigBird fails where it writes half probabilities into that tensor
                    if precision == "bf16" and builds_dense_probabilities(layer.attention.self):
                        without_dense_probabilities(layer.attention.self)
                works = [
                    TrainingStep(model, precision=precision, rows=rows, tokens=tokens, device=device)
                    for model in (hf, ours)
                ]
                if not dropout:
                    _assert_equal(name, works, precision)
                done = side_by_side(works[0].run, works[1].run, repeats=repeats, device=device)
                times[depth, precision] = done
                asked = _ASKED["cuda_bf16"] if is_cuda and precision == "bf16" else None
                if not is_cuda and precision == "fp32":
                    asked = _ASKED_STEP.get(depth)
                ratios[name] = done.ratio(asked)
                details[name] = done.seconds()
                if depth == deepest:
                    flops = models.train_flops_per_token(works[1].config, tokens, head_share=MASKED_SHARE)
                    speed = [flops * rows * tokens / seconds for seconds in done.b_s]
                    roof = gemm_roof_flops(_dtype(precision), device, tokens=tokens)
                    ratios[f"{prefix}roof_fraction_{precision}"] = ratio(
                        [flop_s / roof for flop_s in speed], None if is_cuda else _ASKED[precision]
                    )
                    details[name] |= {"gemm_roof_flops": roof, "useful_flops_per_token": flops}
                    details[name] |= _throughput(done.b_s, rows * tokens)
                    if peak := datasheet_peak_flops(device):
                        ratios[f"{prefix}mfu_{precision}"] = ratio(
                            [flop_s / peak for flop_s in speed], _ASKED["mfu"]
                        )
                del works, hf, ours
        if {"fp32", "bf16"} <= set(precisions):
            pairs = zip(times[deepest, "fp32"].a_s, times[deepest, "bf16"].b_s, strict=True)
            ratios[f"{family}_step_bf16_over_fp32"] = ratio(
                [slow / fast for slow, fast in pairs], None if is_cuda else _ASKED["bf16_over_fp32"]
            )
        on_progress(f"{prefix}step_peak_memory")
        shallowest = {"layers": min(layers), **shape}
        peaks = [_peak_bytes(family, attention, shallowest, rows, device) for attention in ("hf", "exact")]
        ratios[f"{prefix}step_peak_memory"] = ratio([peaks[0] / peaks[1]], _ASKED["memory"])
        details[f"{prefix}step_peak_memory"] = {"a_bytes": peaks[0], "b_bytes": peaks[1]}
    return BenchRecord(surroundings=before, ratios=ratios, details=details)


class TrainingStep:
    """One training step, over and over on the same rows."""

    def __init__(self, model: Any, *, precision: Precision, rows: int, tokens: int, device: str) -> None:
        self.config = model.config
        self._batch = batch_of(model, rows=rows, tokens=tokens, device=device)
        self._engine = TorchEngine(
            model,
            OptimizerConfig(),
            total_steps=_STEPS,
            precision=precision,
            device=device,
        )

    def gradients(self) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients of the first step, before any update."""
        loss = self._engine.forward(self._batch).loss
        self._engine.backward(loss)
        named = self._engine.module.named_parameters()
        found = {name: p.grad.float() for name, p in named if p.grad is not None}
        self._engine.module.zero_grad(set_to_none=True)
        return float(loss.detach()), found

    def run(self) -> None:
        """Forward and backward pass, clipping, update."""
        loss = self._engine.forward(self._batch).loss
        self._engine.backward(loss)
        self._engine.step()


def _assert_equal(name: str, works: list[TrainingStep], precision: Precision) -> None:
    (a_loss, a_grads), (b_loss, b_grads) = (work.gradients() for work in works)
    worst = abs(a_loss - b_loss)
    if a_grads.keys() != b_grads.keys():
        raise ClinscaleError(
            f"bench {name}: clinscale and Hugging Face must give gradients to the same parameters, got different ones; "
            "report this machine"
        )
    for parameter, grad in a_grads.items():
        worst = max(worst, float((grad - b_grads[parameter]).norm() / grad.norm().clamp(min=1e-3)))
    if not worst <= {"fp32": 1e-3, "bf16": 0.2}[precision]:
        raise ClinscaleError(
            f"bench {name}: clinscale and Hugging Face differ by {worst:g} in {precision}; report this machine"
        )


def _throughput(seconds: list[float], tokens: int) -> dict[str, float]:
    rate = tokens / min(seconds)
    return {"tokens_per_s": rate, "paper_tokens_in_hours": PAPER_TOKENS / rate / 3600}


def _dtype(precision: Precision) -> torch.dtype:
    return torch.float32 if precision == "fp32" else torch.bfloat16


def _peak_bytes(family: str, attention: str, shape: dict[str, Any], rows: int, device: str) -> int:
    """Most memory that one step in fp32 takes, model included; on a CPU, that of a process that does nothing else."""
    arguments = (family, attention, shape, rows, device, torch.get_num_threads())
    return _one_step(*arguments) if device.startswith("cuda") else in_fresh_process(_one_step, *arguments)


def _one_step(family: str, attention: str, shape: dict[str, Any], rows: int, device: str, threads: int) -> int:
    torch.set_num_threads(threads)
    model = model_of(family, attention, **shape)
    if not device.startswith("cuda"):
        TrainingStep(model, precision="fp32", rows=rows, tokens=shape["tokens"], device=device).run()
        return peak_resident_bytes()
    gc.collect()
    before = torch.cuda.memory_allocated()
    step = TrainingStep(model, precision="fp32", rows=rows, tokens=shape["tokens"], device=device)
    step.run()
    torch.cuda.reset_peak_memory_stats()  # the first step may also have proved FlexAttention against a dense reference
    step.run()
    return torch.cuda.max_memory_allocated() - before
