"""Training steps as the planner forecasts them from its probe, beside the same steps timed here."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clinscale.bench.encoders import FAMILIES, MASKED_SHARE, model_of
from clinscale.bench.measure import timed
from clinscale.bench.step import TrainingStep
from clinscale.engine import Precision, gemm_roof_flops
from clinscale.plan import (
    ModelFacts,
    StepSetup,
    busy_share_here,
    one_turn,
    probe_of,
    site_here,
    step_time,
    works_of,
)

_LEAST_SHARE = 0.25
"""Products in bf16 below such a share of those in fp32 are done by software."""


@dataclass(frozen=True)
class TimedStep:
    """One shape of a step of one worker on this machine's CPUs."""

    family: str
    tokens: int
    rows: int
    precision: Precision
    planned_s: float
    parts: dict[str, float]
    """Planned seconds by part."""
    measured_s: list[float]
    probe: dict[str, Any]
    """Findings of the probe, in its turns between these steps."""

    @property
    def name(self) -> str:
        """Name of its ratio."""
        return f"step_{self.family}_{self.rows}x{self.tokens}_{self.precision}"

    @property
    def error(self) -> float:
        """Share by which the plan is above (or, negative, below) the median step."""
        return self.planned_s / statistics.median(self.measured_s) - 1


def why_not_timed(precision: Precision) -> str | None:
    """The sentence that says why steps in a precision are not timed on this CPU; None: they are."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    own, fp32 = (
        gemm_roof_flops(dtype, "cpu", tokens=64, repeats=3) for dtype in (dtypes[precision], torch.float32)
    )
    if own >= _LEAST_SHARE * fp32:
        return None
    return f"this processor computes in {precision} by software, at {own / fp32:.0%} of its speed in fp32"


def timed_steps(
    shape: dict[str, Any],
    *,
    tokens: Sequence[int],
    rows: Sequence[int],
    precision: Precision,
    repeats: int,
    on_progress: Callable[[str], None],
) -> Iterator[TimedStep]:
    """Steps of both families at every length and batch, planned and timed.

    Nothing of the plan is set by these steps: a probe, as `plan --probe` makes it, is all that it knows of
    the machine. Its turns are between the steps, so that a processor that changes its speed does so for both.
    """
    cores = torch.get_num_threads()
    site = site_here(on_gpu=False)
    for family, length in itertools.product(FAMILIES, tokens):
        model = model_of(family, "exact", tokens=length, dropout=0.0, **shape)
        facts = ModelFacts.of(model.config)
        for batch in rows:
            on_progress(f"{family}, {batch} x {length} tokens, {precision}")
            setup = StepSetup(
                row_tokens=length,
                rows=batch,
                micro_rows=batch,
                workers=1,
                precision=precision,
                mask_share=MASKED_SHARE,
                stage=0,
                autocast=True,
            )
            works = works_of(
                facts,
                row_tokens=length,
                rows=batch,
                precision=precision,
                mask_share=MASKED_SHARE,
                device="cpu",
            )
            work = TrainingStep(model, precision=precision, rows=batch, tokens=length, device="cpu")
            busy_share = busy_share_here()
            work.run()  # the first step and the first turn allocate
            one_turn(works, "cpu")
            turns, measured = [], []
            for _ in range(repeats):
                turns.append(one_turn(works, "cpu"))
                measured.append(timed(work.run, "cpu"))
            turns.append(one_turn(works, "cpu"))
            probe = probe_of(works, turns, site.rates(precision, cores), busy_share=busy_share)
            planned = step_time(facts, setup, probe.corrected(site.rates(precision, cores)), site.network())
            yield TimedStep(
                family, length, batch, precision, planned.total_s, planned.plain(), measured, probe.plain()
            )
