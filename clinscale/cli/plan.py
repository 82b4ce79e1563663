"""`clinscale plan`: does it fit, how long does it take, what does it cost; starts nothing."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli import plan_search
from clinscale.cli.options import Json, Overrides
from clinscale.cli.output import emit, table
from clinscale.cli.pretrain import Config, settings_of
from clinscale.cli.site import (
    CorpusTokens,
    Gpu,
    HardwareFile,
    LinkBetween,
    PerNode,
    Ports,
    Preemptions,
    ReplacementMinutes,
    Usd,
    UsdSpot,
    site_of,
)
from clinscale.errors import ConfigError
from clinscale.units import format_bytes, format_days, format_seconds

if TYPE_CHECKING:
    from clinscale.plan import Estimate, PretrainPlan, Probe, Simulation

app = typer.Typer(help="Numbers before the money: memory, time, energy and cost of a run.", no_args_is_help=True)
app.command()(plan_search.tune)
app.command()(plan_search.study)

Workers = Annotated[
    list[int] | None,
    typer.Option("--workers", min=1, help="A size of cluster to compare; repeat. Default: 1 to 1024."),
]


@app.command()
def pretrain(
    config: Config = None,
    overrides: Overrides = None,
    gpu: Gpu = None,
    hardware: HardwareFile = None,
    link: LinkBetween = "ethernet-100",
    devices_per_node: PerNode = 8,
    ports_per_node: Ports = 1,
    usd_per_hour: Usd = None,
    usd_per_spot_hour: UsdSpot = None,
    preemptions_per_device_day: Preemptions = 1.0,
    corpus_tokens: CorpusTokens = None,
    workers: Workers = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also run it by chance on spot devices: days with their spread.")
    ] = False,
    replacement_minutes: ReplacementMinutes = 10.0,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Measure this machine first, under a minute, and correct the plan by it."),
    ] = False,
    json: Json = False,
) -> None:
    """Plan a pretraining run from the very config and overrides that `clinscale pretrain` takes.

    Memory of each rank and time of a step by part, days, energy and money; the nearest shapes that fit, the cheapest,
    the fastest, and the size of cluster beyond which more does not pay. `clinscale bench plan` says how far off it is.

    Example: `clinscale plan pretrain clinical-longformer --gpu h100 --usd-per-hour 2.5 recipe.attention_dropout=0`
    """
    from dataclasses import replace

    from clinscale.plan import SIZES, Run, plan_pretrain, probed, simulate_pretrain, site_here

    settings = settings_of(config, overrides, base={"name": "plan", "recipe": {"shards": ""}})
    site = site_of(
        on_gpu=settings.runtime.gpus_per_worker > 0,
        workers=settings.runtime.most_workers,
        gpu=gpu,
        hardware=hardware,
        prices={"usd_per_hour": usd_per_hour, "usd_per_spot_hour": usd_per_spot_hour},
        between=link,
        devices_per_node=devices_per_node,
        ports_per_node=ports_per_node,
        preemptions_per_device_day=preemptions_per_device_day,
    )
    run = Run.of(settings, corpus_tokens=corpus_tokens)
    if probe:
        here = site_here(on_gpu=settings.runtime.gpus_per_worker > 0)
        if gpu is not None and site.device.source != here.device.source:
            raise ConfigError(
                f"--probe measures this machine, got --gpu {gpu}, which it is not; leave one of them out"
            )
        known = site.device if gpu is not None else here.device
        priced = {key: getattr(site.device, key) for key in ("usd_per_hour", "usd_per_spot_hour")}
        site = probed(run, replace(site, device_name=here.device_name, device=known.model_copy(update=priced)))
    found = plan_pretrain(run, site, sizes=workers or SIZES)
    simulated = simulate_pretrain(run, site, replace_s=60 * replacement_minutes) if simulate else None
    emit(
        found.plain() | ({"simulation": simulated.plain()} if simulated else {}),
        as_json=json,
        people=[*_people(found), *(_simulation_people(simulated) if simulated else [])],
    )


def _people(found: "PretrainPlan") -> list[Any]:
    from clinscale.plan import PAYS

    run, site, asked = found.run, found.site, found.asked
    model = run.model
    people: list[Any] = [
        f"{run.config.name}: {model.trained / 1e6:.1f} M trained parameters, {run.rows_per_step} rows of "
        f"{run.row_tokens} tokens a step, {_or_unknown(run.total_steps, '{:,} steps')}, on {site.device_name} "
        f"({site.device.source}, {site.device.date})",
        _verdict(found),
        *([_probe_table(site.probe)] if site.probe else []),
        table("Memory of a rank", [_memory_row(one) for one in (asked, *found.stages)]),
        table("Time of a step", [_step_row(asked)]),
        f"{asked.tokens_per_s:,.0f} tokens/s, MFU {asked.mfu:.1%}; {_whole(asked)}",
    ]
    if found.sizes:
        people.append(
            table("Clusters", [_size_row(one) | {"efficiency": found.efficiency(one)} for one in found.sizes])
        )
        if found.pays_up_to != found.sizes[-1].shape.workers:
            people.append(
                f"more than {found.pays_up_to} workers do not pay: twice as many are less than {PAYS} times as fast"
            )
    for title, one in (("cheapest", found.cheapest), ("fastest", found.fastest)):
        if one:
            people.append(f"{title}: {_overrides(one)}; {_whole(one)}")
    people += [f"fits: {_overrides(one)}; {_whole(one)}" for one in found.nearest]
    return people + [f"note: {note}" for note in run.notes]


def _probe_table(probe: "Probe") -> Any:
    readings = {
        "matrix products, operations/s": probe.gemm_flops,
        "passes between products, bytes/s": probe.bytes_per_s,
        "clipping and update, bytes/s": probe.update_bytes_per_s,
        "exact attention, operations/s": probe.attention_flops,
        "link between two workers here, bytes/s": probe.link_bytes_per_s,
    }
    busy = f"; busy: {probe.busy_share:.0%} of the CPUs had other work, so these are too low" * probe.is_busy
    rows = [
        {
            "measured here": name,
            "rate": f"{one.measured:.3g}" if one else "not measured",
            "assumed": f"{one.assumed:.3g}" if one else "",
            "correction": f"{one.factor:.2f}" if one else "none",
        }
        for name, one in readings.items()
    ]
    return table(f"Probe, {probe.seconds:g} s{busy}; the plan below is corrected by it", rows)


def _simulation_people(found: "Simulation") -> list[Any]:
    rows = [
        {
            "checkpoint every": f"{one.every_steps:,} steps ({which})",
            "mean time": "some never end" if one.mean_days is None else format_days(one.mean_days),
            "5 % to 95 %": " to ".join(
                "?" if days is None else format_days(days) for days in (one.low_days, one.high_days)
            ),
            "devices lost": f"{one.losses:,.1f}",
            "starts": f"{one.starts:,.1f}",
            "steps repeated": f"{one.repeated_share:.1%}",
            "device-hours held": f"{one.device_hours:,.4g}",
            "simulated runs": one.runs,
        }
        for which, one in (("configured", found.configured), ("best of those tried", found.best))
    ]
    fleet = found.fleet
    people: list[Any] = [
        table(
            f"Simulated on {fleet.least} to {fleet.most} workers, each lost {86400 * fleet.losses_per_device_s:g} "
            f"times a day, replaced in {format_seconds(fleet.replace_s)} on average",
            rows,
        ),
        f"Young and Daly: a checkpoint every {found.young_daly_steps:,} steps",
    ]
    return people + ([] if found.usd_spot is None else [f"simulated: {found.usd_spot:,.0f} USD on spot"])


def _verdict(found: "PretrainPlan") -> str:
    asked, limit = found.asked, found.site.memory_bytes
    if limit is None:
        return "memory of a worker is not known"
    of = f"{format_bytes(asked.memory.total)} of {format_bytes(limit)}"
    if asked.fits:
        return f"fits, in micro batches of {asked.shape.micro_rows} rows: {of}"
    return f"does not fit, not even one row: {of}" + ("" if found.nearest else "; nor does any other shape")


def _or_unknown(value: Any, form: str) -> str:
    return "an unknown number of steps" if value is None else form.format(value)


def _memory_row(one: "Estimate") -> dict[str, Any]:
    zero, memory = one.shape.zero, one.memory
    places = [part for part in ("optimizer", "param") if getattr(zero, f"offload_{part}") != "none"]
    parts = ("weights", "gradients", "optimizer", "activations", "temporary", "slack", "total", "host")
    return {
        "ZeRO": zero.stage,
        "offload": "+".join(places) or "-",
        "micro rows": one.shape.micro_rows,
        **{part: format_bytes(getattr(memory, part)) for part in parts},
        "fits": {True: "yes", False: "no", None: "?"}[one.fits],
    }


def _step_row(one: "Estimate") -> dict[str, Any]:
    parts = {**one.step.plain(), "total_s": one.step.total_s}
    return {key.removesuffix("_s"): f"{1000 * value:.4g} ms" for key, value in parts.items()}


def _size_row(one: "Estimate") -> dict[str, Any]:
    money = {} if one.usd is None else {"USD": f"{one.usd:,.0f}"}
    spot = {} if one.usd_spot is None else {"USD spot": f"{one.usd_spot:,.0f}"}
    return {
        "workers": one.shape.workers,
        "ZeRO": one.shape.zero.stage,
        "micro rows": one.shape.micro_rows,
        "step": format_seconds(one.step.total_s)
        if one.step.total_s >= 10
        else f"{1000 * one.step.total_s:.4g} ms",
        "tokens/s": f"{one.tokens_per_s:,.0f}",
        "MFU": f"{one.mfu:.1%}",
        "time": "?" if one.days is None else format_days(one.days),
        **money,
        **spot,
    }


def _overrides(one: "Estimate") -> str:
    return " ".join(f"{key}={str(value).lower()}" for key, value in one.shape.plain().items())


def _whole(one: "Estimate") -> str:
    if one.days is None:
        return "no duration, so neither time nor money"
    said = [format_days(one.days), f"{one.device_hours:,.4g} device-hours"]
    if one.kwh is not None:
        said.append(f"{one.kwh:,.4g} kWh")
    if one.usd is not None:
        said.append(f"{one.usd:,.0f} USD")
    if one.usd_spot is not None and one.spot_days is not None:
        said.append(
            f"{one.usd_spot:,.0f} USD on spot with {one.preemptions:.1f} preemptions in {format_days(one.spot_days)}"
        )
    return ", ".join(said) + ("" if one.usd is not None or one.usd_spot is not None else "; no price given")
