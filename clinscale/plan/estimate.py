"""Needs, speed and cost of one shape of a run: how many workers, and what each holds."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from clinscale.engine import ZeroConfig
from clinscale.models import train_flops_per_token
from clinscale.plan.memory import Memory, RankSetup, model_states, rank_memory
from clinscale.plan.run import Run
from clinscale.plan.site import Site
from clinscale.plan.step import StepSetup, StepTime, step_time
from clinscale.pretrain import PretrainRecipe
from clinscale.runtime import halved

MASKED_TOKENS_PER_S = 2.0e6
"""Tokens that one core masks in a second, while the device works on the rows before; assumed."""

SNAPSHOT_BYTES_PER_S = 5.0e9
"""Copy of a rank's state into the host's memory, for which training waits; assumed."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A way to run it: how many workers, and what each holds."""

    workers: int
    zero: ZeroConfig
    activation_checkpointing: bool
    micro_rows: int

    def plain(self) -> dict[str, Any]:
        """JSON-ready, as overrides of the config are named."""
        zero = {key: value for key, value in self.zero.plain().items() if value not in ("none", None)}
        return {
            "runtime.num_workers": self.workers,
            **{f"runtime.zero.{key}": value for key, value in zero.items()},
            "runtime.activation_checkpointing": self.activation_checkpointing,
            "runtime.micro_rows_per_gpu": self.micro_rows,
        }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Needs and speed of one shape."""

    shape: Shape
    memory: Memory
    fits: bool | None
    """None where the memory of a worker is not known."""
    step: StepTime
    tokens_per_s: float
    """Speed of all workers together."""
    mfu: float
    days: float | None
    device_hours: float | None
    kwh: float | None
    """Energy at the boards' power; hosts and cooling come on top."""
    usd: float | None
    usd_spot: float | None
    preemptions: float | None
    """Expected number on spot devices."""
    spot_days: float | None

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "shape": self.shape.plain(),
            "fits": self.fits,
            "memory_bytes": {**asdict(self.memory), "total": self.memory.total},
            "step_s": {**self.step.plain(), "total": self.step.total_s},
            "tokens_per_s": self.tokens_per_s,
            **{
                key: getattr(self, key)
                for key in ("mfu", "days", "device_hours", "kwh", "usd", "usd_spot", "preemptions", "spot_days")
            },
        }


def estimate(run: Run, site: Site, shape: Shape) -> Estimate:
    """Needs and speed of `shape`."""
    recipe, runtime = run.config.recipe, run.config.runtime
    memory = memory_of(run, site, shape)
    step = _mean_step(run, site, shape)
    tokens_per_s = run.mean_rows_per_step * run.row_tokens / step.total_s
    rates = site.rates(recipe.precision, runtime.cpus_per_worker)
    next_share = recipe.causal.share if recipe.causal else 0.0
    head_share = next_share + (1 - next_share) * recipe.masking.mean_fraction
    flops = train_flops_per_token(run.model.config, run.row_tokens, head_share=head_share)
    limit, device = site.memory_bytes, site.device
    days = device_hours = kwh = spot_days = preemptions = usd = usd_spot = None
    if run.total_steps is not None:
        days = run.total_steps * step.total_s / 86400
        devices = shape.workers * (runtime.gpus_per_worker or runtime.cpus_per_worker)
        device_hours = days * 24 * devices
        kwh = device.watts and device_hours * device.watts / 1000
        # each preemption stops the group, and costs half an interval of checkpoints and a restart
        lost_s = runtime.checkpoint_every_steps * step.total_s / 2 + site.restart_s
        rate_per_s = site.preemptions_per_device_day * devices / 86400
        spot_days = days * (1 + rate_per_s * lost_s)
        preemptions = rate_per_s * spot_days * 86400
        usd = device.usd_per_hour and device_hours * device.usd_per_hour
        usd_spot = device.usd_per_spot_hour and spot_days * 24 * devices * device.usd_per_spot_hour
    return Estimate(
        shape=shape,
        memory=memory,
        fits=None if limit is None else memory.total <= limit,
        step=step,
        tokens_per_s=tokens_per_s,
        mfu=tokens_per_s * flops / (rates.peak_flops * shape.workers),
        days=days,
        device_hours=device_hours,
        kwh=kwh,
        usd=usd,
        usd_spot=usd_spot,
        preemptions=preemptions,
        spot_days=spot_days,
    )


def memory_of(run: Run, site: Site, shape: Shape) -> Memory:
    """Most memory that a rank of `shape` holds."""
    recipe, runtime = run.config.recipe, run.config.runtime
    setup = RankSetup(
        stage=shape.zero.stage,
        workers=shape.workers,
        precision=recipe.precision,
        micro_rows=shape.micro_rows,
        row_tokens=run.row_tokens,
        micro_batches=-(-most_rows(run, shape.workers) // shape.micro_rows),
        mask_share=_largest_head_share(recipe),
        activation_checkpointing=shape.activation_checkpointing,
        offload_optimizer=shape.zero.offload_optimizer != "none",
        offload_param=shape.zero.offload_param != "none",
        on_gpu=runtime.gpus_per_worker > 0,
    )
    return rank_memory(run.model, setup)


def largest_that_fits(run: Run, site: Site, shape: Shape) -> Shape:
    """`shape` with its micro batch halved until it fits, as the run halves it; one row where none does."""
    limit = site.memory_bytes
    while limit is not None and shape.micro_rows > 1 and memory_of(run, site, shape).total > limit:
        shape = replace(shape, micro_rows=halved(shape.micro_rows))
    return shape


def most_rows(run: Run, workers: int) -> int:
    """Rows with which a worker's first micro batch begins."""
    share = -(-run.rows_per_step // workers)
    return min(run.config.runtime.micro_rows_per_gpu or share, share)


def as_configured(run: Run, workers: int) -> Shape:
    """The shape that a run is configured to have, on so many workers."""
    runtime = run.config.runtime
    return Shape(
        workers=workers,
        zero=runtime.zero,
        activation_checkpointing=runtime.activation_checkpointing,
        micro_rows=most_rows(run, workers),
    )


def snapshot_bytes(run: Run, stage: int, workers: int) -> float:
    """Bytes of a checkpoint that its busiest rank copies; of one worker, all that it holds.

    Below ZeRO 3 rank 0 copies all weights besides its share; at ZeRO 3 they are in the masters alone.
    """
    model = run.model
    states = model_states(model.trained, model.frozen, model.small, stage, workers, run.config.recipe.precision)
    return states.optimizer + (states.weights if stage < 3 else 0.0)


def _mean_step(run: Run, site: Site, shape: Shape) -> StepTime:
    """A step on average: short rows and small batches come first, and what is not done in every step is spread."""
    recipe, runtime = run.config.recipe, run.config.runtime
    rates, network = site.rates(recipe.precision, runtime.cpus_per_worker), site.network()
    whole = StepSetup(
        row_tokens=run.row_tokens,
        rows=run.rows_per_step,
        micro_rows=shape.micro_rows,
        workers=shape.workers,
        precision=recipe.precision,
        mask_share=recipe.masking.mean_fraction,
        stage=shape.zero.stage,
        activation_checkpointing=shape.activation_checkpointing,
        offload_optimizer=shape.zero.offload_optimizer != "none",
        offload_param=shape.zero.offload_param != "none",
    )
    parts, rows_of_worker = defaultdict[str, float](float), 0.0
    for share, row_tokens, rows, is_causal in _kinds_of_steps(run):
        micro_rows = min(whole.micro_rows, -(-rows // shape.workers))
        pieces = run.row_tokens // row_tokens
        mask_share = 1.0 if is_causal else whole.mask_share
        kind = replace(
            whole,
            row_tokens=row_tokens,
            rows=rows * pieces,
            micro_rows=micro_rows * pieces,
            mask_share=mask_share,
        )
        of_kind = step_time(run.model, kind, rates, network).plain()
        for key, value in of_kind.items():
            parts[key] += share * value
        rows_of_worker += share * -(-rows // shape.workers)
    computing_s = sum(parts.values())
    masking_s = rows_of_worker * run.row_tokens / MASKED_TOKENS_PER_S
    # a core of a CPU masks in the same time in which it computes; a GPU's host beside it
    parts["data_s"] = max(0.0, masking_s - computing_s) if runtime.gpus_per_worker else masking_s
    copied_bytes = snapshot_bytes(run, shape.zero.stage, shape.workers)
    parts["checkpoint_s"] = copied_bytes / SNAPSHOT_BYTES_PER_S / runtime.checkpoint_every_steps
    rows = min(-(-runtime.evaluation_rows // shape.workers), runtime.evaluation_rows)
    forward_s = computing_s / rows_of_worker / 3
    parts["evaluation_s"] = rows * forward_s / runtime.evaluate_every_steps
    return StepTime(**parts)


def _largest_head_share(recipe: PretrainRecipe) -> float:
    """Most of a step's tokens that the head answers for; all in a causal phase."""
    masked = max(recipe.masking.mask_fraction, recipe.masking.final_mask_fraction or 0.0)
    return 1.0 if recipe.causal else masked


def _kinds_of_steps(run: Run) -> Iterator[tuple[float, int, int, bool]]:
    """Share of the steps of each kind, length of their rows, global batch in full rows, whether they are causal.

    The attention of a causal step is counted like that of the others.
    """
    short, batches = run.config.recipe.short_rows, run.config.recipe.batches(run.row_tokens)
    causal = run.config.recipe.causal
    ends = (
        short.share if short else 0.0,
        batches.small_share_of_steps if batches.small_share else 0.0,
        causal.share if causal else 0.0,
    )
    for start, end in itertools.pairwise(sorted({0.0, *ends, 1.0})):
        is_short, is_small, is_causal = (start < until for until in ends)
        yield (
            end - start,
            short.row_tokens if short and is_short else run.row_tokens,
            batches.small_rows if is_small else batches.rows,
            is_causal,
        )
