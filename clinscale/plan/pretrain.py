"""Plan of a pretraining run: what it needs of each rank, how long it takes, what it costs, and what would be better."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from clinscale.engine import ZeroConfig
from clinscale.errors import ConfigError
from clinscale.plan.estimate import Estimate, Shape, as_configured, estimate, largest_that_fits, most_rows
from clinscale.plan.probe import measure_probe
from clinscale.plan.run import Run
from clinscale.plan.site import Site

SIZES = tuple(2**power for power in range(11))
"""Sizes of the clusters that are compared: 1 to 1,024 workers."""

PAYS = 1.5
"""A cluster twice as large must be so many times as fast; below it, most of what is added is wasted."""

ALL_SHARDING = (
    *(ZeroConfig(stage=stage) for stage in (0, 1, 2, 3)),
    *(ZeroConfig(stage=stage, offload_optimizer="cpu") for stage in (1, 2)),
    ZeroConfig(stage=3, offload_optimizer="cpu", offload_param="cpu"),
)
"""Every stage, without and with offload to the host."""


@dataclass(frozen=True, kw_only=True)
class PretrainPlan:
    """The answer: the run as configured, at every stage, on every size of cluster, and better ways."""

    run: Run
    site: Site
    asked: Estimate
    """The run as configured, in the largest micro batch that fits, as it would halve it; one row where none fits."""
    stages: tuple[Estimate, ...]
    """The same at each ZeRO stage, without and with offload."""
    sizes: tuple[Estimate, ...]
    """The fastest shape that fits on each size of cluster, up to one row for each worker."""
    pays_up_to: int | None
    """Workers beyond which twice as many are less than `PAYS` times as fast."""
    nearest: tuple[Estimate, ...]
    """Shapes that fit where the run as configured does not, those with fewest changes first."""
    cheapest: Estimate | None
    fastest: Estimate | None

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        run, site = self.run, self.site
        return {
            "name": run.config.name,
            "device": {"name": site.device_name, **site.device.plain()},
            "parameters": {"trained": run.model.trained, "frozen": run.model.frozen},
            "row_tokens": run.row_tokens,
            "rows_per_step": run.rows_per_step,
            "mean_rows_per_step": run.mean_rows_per_step,
            "total_steps": run.total_steps,
            "fits": self.asked.fits,
            "plan": self.asked.plain(),
            "stages": [one.plain() for one in self.stages],
            "cluster_sizes": [
                {"workers": one.shape.workers, "scaling_efficiency": self.efficiency(one), **one.plain()}
                for one in self.sizes
            ],
            "pays_up_to_workers": self.pays_up_to,
            "nearest_that_fit": [one.plain() for one in self.nearest],
            "cheapest": self.cheapest and self.cheapest.plain(),
            "fastest": self.fastest and self.fastest.plain(),
            "notes": list(run.notes),
            **({"probe": site.probe.plain()} if site.probe else {}),
        }

    def efficiency(self, one: Estimate) -> float:
        """Speed of each worker as a share of that on the smallest cluster that it fits on."""
        first = self.sizes[0]
        return (one.tokens_per_s / one.shape.workers) / (first.tokens_per_s / first.shape.workers)


def plan_pretrain(run: Run, site: Site, *, sizes: Iterable[int] = SIZES) -> PretrainPlan:
    """The plan of `run` on `site`; launches nothing.

    Raises:
        ConfigError: the device lacks the recipe's precision, or a link is not known.
    """
    asked = as_configured(run, run.config.runtime.most_workers)
    stages = tuple(
        estimate(run, site, largest_that_fits(run, site, replace(asked, zero=zero)))
        for zero in ALL_SHARDING
        if _allows(run, zero)
    )
    compared = []
    for workers in sorted(set(sizes)):
        if workers <= run.rows_per_step and (found := _shapes_that_fit(run, site, workers)):
            compared.append(min(found, key=lambda one: one.step.total_s))
    now = estimate(run, site, largest_that_fits(run, site, asked))
    nearest = (
        () if now.fits is not False else nearest_that_fit(run, site, asked, _sizes_up_from(asked.workers, run))
    )
    return PretrainPlan(
        run=run,
        site=site,
        asked=now,
        stages=stages,
        sizes=tuple(compared),
        pays_up_to=_pays_up_to(compared),
        nearest=nearest,
        cheapest=min(compared, key=_cost, default=None),
        fastest=min(compared, key=lambda one: one.step.total_s, default=None),
    )


def probed(run: Run, site: Site) -> Site:
    """The site, which must be this machine, with its figures measured.

    Raises:
        ConfigError: the run is for GPUs, and there is none here, or the device lacks the recipe's precision.
    """
    recipe, runtime = run.config.recipe, run.config.runtime
    site.rates(recipe.precision, runtime.cpus_per_worker)
    found = measure_probe(
        run.model,
        row_tokens=run.row_tokens,
        rows=most_rows(run, runtime.most_workers),
        precision=recipe.precision,
        mask_share=recipe.masking.mean_fraction,
        cores=runtime.cpus_per_worker,
        on_gpu=runtime.gpus_per_worker > 0,
        device=site.device,
        link=site.hardware.link(site.device.link),
    )
    return replace(site, probe=found)


def nearest_that_fit(run: Run, site: Site, asked: Shape, sizes: Iterable[int]) -> tuple[Estimate, ...]:
    """Three shapes at most that fit on clusters of `sizes`: fewest changes to `asked` first, then the fastest."""
    found = [one for workers in sizes for one in _shapes_that_fit(run, site, workers)]
    return tuple(sorted(found, key=lambda one: (_changes(one.shape, asked), one.step.total_s))[:3])


def _allows(run: Run, zero: ZeroConfig) -> bool:
    """Whether the optimiser is right at that stage."""
    try:
        run.config.recipe.optimizer.check_stage(zero.stage)
    except ConfigError:
        return False
    return True


def _shapes_that_fit(run: Run, site: Site, workers: int) -> list[Estimate]:
    """Every way to run on so many workers that fits, with its largest micro batch."""
    found = []
    for zero in ALL_SHARDING:
        if not _allows(run, zero):
            continue
        for checkpointing in (False, True):
            shape = Shape(
                workers=workers,
                zero=zero,
                activation_checkpointing=checkpointing,
                micro_rows=-(-run.rows_per_step // workers),
            )
            one = estimate(run, site, largest_that_fits(run, site, shape))
            if one.fits is not False:
                found.append(one)
    return found


def _sizes_up_from(workers: int, run: Run) -> list[int]:
    return sorted({workers, *(size for size in SIZES if workers < size <= run.rows_per_step)})


def _changes(shape: Shape, asked: Shape) -> int:
    """Number of settings of a shape that differ from those that were asked for; the micro batch counts least."""
    return sum(
        (
            shape.workers != asked.workers,
            shape.zero.stage != asked.zero.stage,
            shape.zero.offload_optimizer != asked.zero.offload_optimizer,
            shape.zero.offload_param != asked.zero.offload_param,
            shape.activation_checkpointing != asked.activation_checkpointing,
        )
    )


def _pays_up_to(sizes: list[Estimate]) -> int | None:
    """The last size that is enough faster than the one before."""
    if not sizes:
        return None
    for smaller, larger in itertools.pairwise(sizes):
        doublings = math.log2(larger.shape.workers / smaller.shape.workers)
        if larger.tokens_per_s < PAYS**doublings * smaller.tokens_per_s:
            return smaller.shape.workers
    return sizes[-1].shape.workers


def _cost(one: Estimate) -> float:
    """Money where prices are given, else device-time."""
    if one.usd is not None:
        return one.usd
    return one.shape.workers * one.step.total_s
