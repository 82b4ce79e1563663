"""Plan of a pretraining run: what it needs of each rank, how long it takes, what it costs, and what would be better."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from clinscale import corpus
from clinscale.engine import Device, Hardware, Precision, ZeroConfig
from clinscale.errors import ConfigError, DataError
from clinscale.models import pretrainable_family, shape_of, train_flops_per_token
from clinscale.plan.facts import ModelFacts, width_of
from clinscale.plan.memory import Memory, RankSetup, rank_memory
from clinscale.plan.probe import Probe, measure_probe
from clinscale.plan.step import Network, Rates, StepSetup, StepTime, network_of, rates_of, step_time
from clinscale.pretrain import PretrainConfig, PretrainRecipe
from clinscale.runtime import halved

SIZES = tuple(2**power for power in range(11))
"""Sizes of the clusters that are compared: 1 to 1,024 workers."""

PAYS = 1.5
"""A cluster twice as large must be so many times as fast; below it, most of what is added is wasted."""

MASKED_TOKENS_PER_S = 2.0e6
"""Tokens that one core masks in a second, while the device works on the rows before; assumed."""

SNAPSHOT_BYTES_PER_S = 5.0e9
"""Copy of a rank's state into the host's memory, for which training waits; assumed."""

ALL_SHARDING = (
    *(ZeroConfig(stage=stage) for stage in (0, 1, 2, 3)),
    *(ZeroConfig(stage=stage, offload_optimizer="cpu") for stage in (1, 2)),
    ZeroConfig(stage=3, offload_optimizer="cpu", offload_param="cpu"),
)
"""Every stage, without and with offload to the host."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Hardware that a plan is for, and its prices."""

    hardware: Hardware
    device_name: str
    device: Device
    between: str = "ethernet-100"
    """Link between nodes."""
    devices_per_node: int = 8
    ports_per_node: int = 1
    host_bytes_per_device: float | None = None
    """Memory of the host for each worker; of a CPU the memory that there is."""
    preemptions_per_device_day: float = 1.0
    """Spot devices taken away; assumed where nobody says, as no provider publishes it."""
    restart_s: float = 180.0
    """Seconds from a preemption until training goes on: a new node, start of the workers, the checkpoint read."""
    probe: Probe | None = None
    """Measurements of the machine that it is, by which all rates are corrected."""

    def network(self) -> Network:
        """The links that collectives take."""
        network = network_of(
            self.hardware,
            self.device,
            between=self.between,
            devices_per_node=self.devices_per_node,
            ports_per_node=self.ports_per_node,
        )
        return self.probe.network(network) if self.probe else network

    def rates(self, precision: Precision, cores: float) -> Rates:
        """Work that one worker gets done in a second; ConfigError where the device lacks the precision."""
        if precision == "bf16" and not self.device.has_bf16:
            raise ConfigError(
                f"recipe.precision must be fp16 or fp32 on {self.device_name}, which has no bf16, got bf16; set "
                "recipe.precision=fp16"
            )
        rates = rates_of(self.device, precision, cores=cores)
        return self.probe.corrected(rates) if self.probe else rates

    @property
    def memory_bytes(self) -> float | None:
        """Memory that a worker may use; None where nobody says."""
        return self.device.memory_bytes or self.host_bytes_per_device


@dataclass(frozen=True, kw_only=True)
class Run:
    """The facts of one run that a plan starts from."""

    config: PretrainConfig
    model: ModelFacts
    row_tokens: int
    total_steps: int | None
    """None where the duration is in epochs of a corpus that nobody has counted."""
    notes: tuple[str, ...]
    """Assumptions, a sentence each."""

    @classmethod
    def of(cls, config: PretrainConfig, *, corpus_tokens: int | None = None) -> Self:
        """The run of a config; its ShardSet may not be there yet.

        Raises:
            ConfigError: rows longer than the model, or a model whose shape cannot be read here.
        """
        recipe, notes = config.recipe, []
        vocab_size = None
        try:
            shards = corpus.open_shards(recipe.shards) if recipe.shards else None
        except DataError:
            shards = None
        if shards is not None:
            vocab_size = shards.vocab_size
            corpus_tokens = corpus_tokens or shards.manifest.splits["train"].tokens
        elif recipe.model.pretrained is None:
            notes.append(
                f"no ShardSet at recipe.shards={recipe.shards!r}: the vocabulary is that of the published model"
            )
        on_gpu = config.runtime.gpus_per_worker > 0
        shape = shape_of(recipe.model, vocab_size=vocab_size)
        family = pretrainable_family(shape.model_type)
        _, of_attention = family.dropout_fields
        attention_dropout = recipe.attention_dropout
        if attention_dropout is None:
            attention_dropout = max(getattr(shape, field, 0.0) for field in of_attention)
        attention = config.runtime.attention
        if on_gpu and attention == "exact" and family.drops_probabilities and attention_dropout:
            attention = "hf"
            notes.append(
                f"attention dropout of {attention_dropout:g} leaves attention on GPUs to Hugging Face's code; "
                "recipe.attention_dropout=0 uses the exact one, several times faster and smaller"
            )
        model = ModelFacts.of(
            shape,
            has_global_tokens=recipe.has_global_tokens(shape.model_type),
            attention=attention,
            attention_dropout=attention_dropout,
        )
        row_tokens = recipe.row_tokens or model.max_tokens
        if row_tokens > model.max_tokens:
            raise ConfigError(
                f"recipe.row_tokens must be at most the model's {model.max_tokens} positions, got {row_tokens}; "
                "lower it"
            )
        recipe.row_tokens_at(0, row_tokens=row_tokens, total_steps=1)
        rows_per_step = config.batches(row_tokens).rows
        if config.runtime.most_workers > rows_per_step:
            notes.append(
                f"runtime.num_workers={config.runtime.most_workers} is more than the {rows_per_step} rows of a step: "
                "the others have nothing to do; raise recipe.rows_per_step"
            )
        total_steps = None
        if corpus_tokens or recipe.duration.unit != "epochs":
            total_steps = recipe.steps(rows=(corpus_tokens or 0) // row_tokens, row_tokens=row_tokens)
        else:
            notes.append(
                "days and money need the corpus's size: give --corpus-tokens, or a duration in steps or tokens"
            )
        return cls(config=config, model=model, row_tokens=row_tokens, total_steps=total_steps, notes=tuple(notes))

    @property
    def rows_per_step(self) -> int:
        """The global batch; the largest one where it has a schedule."""
        return self.config.recipe.rows_of_step(self.row_tokens)

    @property
    def mean_rows_per_step(self) -> float:
        """Mean global batch over the steps."""
        return self.config.recipe.batches(self.row_tokens).mean_rows


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
    runtime = run.config.runtime
    asked = Shape(
        workers=runtime.most_workers,
        zero=runtime.zero,
        activation_checkpointing=runtime.activation_checkpointing,
        micro_rows=_most_rows(run, runtime.most_workers),
    )
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
        precision=recipe.precision,
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
        micro_batches=-(-_most_rows(run, shape.workers) // shape.micro_rows),
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


def _most_rows(run: Run, workers: int) -> int:
    """Rows with which a worker's first micro batch begins."""
    share = -(-run.rows_per_step // workers)
    return min(run.config.runtime.micro_rows_per_gpu or share, share)


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
    shared = shape.workers if shape.zero.stage else 1
    state = 12 * run.model.trained / shared + width_of(recipe.precision) * run.model.parameters
    parts["checkpoint_s"] = state / SNAPSHOT_BYTES_PER_S / runtime.checkpoint_every_steps
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
