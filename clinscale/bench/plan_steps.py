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
from clinscale.engine import Precision
from clinscale.plan import ModelFacts, StepSetup, measure_probe, site_here, step_time


@dataclass(frozen=True)
class TimedStep:
    """One shape of a step of one worker on this machine's CPUs."""

    family: str
    tokens: int
    rows: int
    planned_s: float
    parts: dict[str, float]
    """Planned seconds by part."""
    measured_s: list[float]

    @property
    def error(self) -> float:
        """Share by which the plan is above (or, negative, below) the median step."""
        return self.planned_s / statistics.median(self.measured_s) - 1


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

    Nothing of the plan is set by these steps: a probe, as `plan --probe` makes it, is all that it knows of the machine.
    """
    cores = torch.get_num_threads()
    site = site_here(on_gpu=False)
    for family, length in itertools.product(FAMILIES, tokens):
        on_progress(f"probe for {family}, {length} tokens")
        model = model_of(family, "exact", tokens=length, dropout=0.0, **shape)
        facts = ModelFacts.of(model.config)
        probe = measure_probe(
            facts,
            row_tokens=length,
            precision=precision,
            cores=cores,
            on_gpu=False,
            device=site.device,
            link=None,
        )
        rates = probe.corrected(site.rates(precision, cores))
        for batch in rows:
            on_progress(f"{family}, {batch} x {length} tokens")
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
            planned = step_time(facts, setup, rates, site.network())
            work = TrainingStep(model, precision=precision, rows=batch, tokens=length, device="cpu")
            work.run()  # the first step allocates
            measured = [timed(work.run, "cpu") for _ in range(repeats)]
            yield TimedStep(family, length, batch, planned.total_s, planned.plain(), measured)
