"""`clinscale plan`: does it fit, how long does it take, what does it cost; starts nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, Overrides, TrackingUri
from clinscale.cli.output import emit, table
from clinscale.cli.pretrain import Config, settings_of
from clinscale.cli.study import ProtocolFile
from clinscale.cli.tune import DataFolders, MaxTokens, Models, SpaceFile, SweepName, Tasks, sweep_of
from clinscale.errors import ConfigError
from clinscale.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from clinscale.plan import Estimate, PretrainPlan, Probe, Simulation, Site, SweepSpread, TunePlan
    from clinscale.study import ProtocolPlan
    from clinscale.sweep import SweepRuntime, Work

app = typer.Typer(help="Numbers before the money: memory, time, energy and cost of a run.", no_args_is_help=True)

Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu", help="Device by name, such as h100 or a100-80gb; on CPUs the cores that the config names."
    ),
]
HardwareFile = Annotated[
    Path | None,
    typer.Option("--hardware", help="YAML with your own devices, links and prices, laid over the package's."),
]
LinkBetween = Annotated[str, typer.Option("--link", help="Link between nodes, such as infiniband-ndr.")]
PerNode = Annotated[int, typer.Option("--devices-per-node", min=1, help="Devices that share a node and its link.")]
Ports = Annotated[int, typer.Option("--ports-per-node", min=1, help="Links of each node to the others.")]
Usd = Annotated[float | None, typer.Option("--usd-per-hour", min=0, help="Your price of a device-hour.")]
UsdSpot = Annotated[
    float | None, typer.Option("--usd-per-spot-hour", min=0, help="Your price of one that may be taken away.")
]
Preemptions = Annotated[
    float, typer.Option("--preemptions-per-device-day", min=0, help="Spot devices taken away; assumed by default.")
]
CorpusTokens = Annotated[
    int | None, typer.Option("--corpus-tokens", min=1, help="Training tokens, where the shards are not built yet.")
]
Workers = Annotated[
    list[int] | None,
    typer.Option("--workers", min=1, help="A size of cluster to compare; repeat. Default: 1 to 1024."),
]
ReplacementMinutes = Annotated[
    float, typer.Option(min=0.01, help="With --simulate: mean wait for a lost device's successor; assumed.")
]
Devices = Annotated[
    float | None,
    typer.Option(
        "--devices", min=0.01, help="GPUs or cores that trials share. Default: one trial's, or the cores here."
    ),
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
    site = _site(
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


@app.command()
def tune(
    overrides: Overrides = None,
    task: Tasks = None,
    data: DataFolders = None,
    model: Models = None,
    max_tokens: MaxTokens = None,
    space: SpaceFile = None,
    name: SweepName = None,
    devices: Devices = None,
    gpu: Gpu = None,
    hardware: HardwareFile = None,
    usd_per_hour: Usd = None,
    usd_per_spot_hour: UsdSpot = None,
    preemptions_per_device_day: Preemptions = 1.0,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Also run it by chance on 1 to --devices devices: hours, spread."),
    ] = False,
    replacement_minutes: ReplacementMinutes = 10.0,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Plan a sweep from the very options and overrides that `clinscale tune` takes; nothing is trained.

    Windows are counted on the task's own files, an epoch by arithmetic at the sampler's first settings, trials as
    halving lets them go on, and the confirmations. `tune --dry-run` corrects it by a few steps on this machine.

    Example: `clinscale plan tune --task readmission.yaml --data . --model yikuan8/Clinical-Longformer --gpu a100-80gb
    runtime.gpus_per_trial=1 --devices 8 --usd-per-hour 1.9`
    """
    from clinscale import registry
    from clinscale.plan import plan_tune, simulate_tune
    from clinscale.sweep import read_inputs

    config = sweep_of(task, data, model, max_tokens, space, name, overrides)
    site = _site(
        on_gpu=config.runtime.gpus_per_trial > 0,
        workers=config.runtime.workers_per_trial,
        gpu=gpu,
        hardware=hardware,
        prices={"usd_per_hour": usd_per_hour, "usd_per_spot_hour": usd_per_spot_hour},
        between="ethernet-100",
        preemptions_per_device_day=preemptions_per_device_day,
    )
    inputs = read_inputs(
        config, tracking=registry.connect(tracking_uri, home=home), home=home, loads_weights=False
    )
    found = plan_tune(config, inputs, site, devices=devices or _devices_here(config.runtime))
    simulated: list[SweepSpread] = []
    if simulate and found.studies:
        sizes = sorted(
            {found.trials_at_once, *(2**power for power in range(11) if 2**power < found.trials_at_once)}
        )
        simulated = [
            simulate_tune(config, inputs, site, at_once=size, replace_s=60 * replacement_minutes) for size in sizes
        ]
    emit(
        found.plain() | ({"simulation": [one.plain() for one in simulated]} if simulated else {}),
        as_json=json,
        people=[*_tune_people(found), *([_sweeps_table(simulated)] if simulated else [])],
    )
    if not found.studies:
        raise typer.Exit(1)


@app.command()
def study(
    protocol: ProtocolFile,
    overrides: Overrides = None,
    devices: Devices = None,
    gpu: Gpu = None,
    hardware: HardwareFile = None,
    link: LinkBetween = "ethernet-100",
    usd_per_hour: Usd = None,
    usd_per_spot_hour: UsdSpot = None,
    preemptions_per_device_day: Preemptions = 1.0,
    corpus_tokens: CorpusTokens = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Plan a study from the very protocol and overrides that `clinscale study` takes; nothing is made or trained.

    Each pretraining as `plan pretrain` plans it and each task's search as `plan tune` does, one after the other.

    Example: `clinscale plan study open data_folder=/data sweep_runtime.gpus_per_trial=1 --gpu h100 --devices 8`
    """
    from clinscale import registry
    from clinscale.study import Protocol, plan_study

    config = Protocol.load(protocol, overrides or [])
    trials, pretraining = config.sweep_runtime, config.pretrain_runtime
    site = _site(
        on_gpu=trials.gpus_per_trial > 0,
        workers=pretraining.most_workers,
        gpu=gpu,
        hardware=hardware,
        prices={"usd_per_hour": usd_per_hour, "usd_per_spot_hour": usd_per_spot_hour},
        between=link,
        preemptions_per_device_day=preemptions_per_device_day,
    )
    found = plan_study(
        config,
        tracking=registry.connect(tracking_uri, home=home),
        home=home,
        site=site,
        devices=devices or _devices_here(trials),
        corpus_tokens=corpus_tokens,
    )
    emit(found.plain(), as_json=json, people=_study_people(found))
    if found.failures:
        raise typer.Exit(1)


def _devices_here(runtime: "SweepRuntime") -> float:
    """Devices of one trial on GPUs, and the cores of this machine."""
    import os

    here = 0.0 if runtime.gpus_per_trial else float(os.cpu_count() or 1)
    return max(here, runtime.devices_per_trial)


def _site(
    *,
    on_gpu: bool,
    workers: int,
    gpu: str | None,
    hardware: Path | None,
    prices: dict[str, float | None],
    between: str,
    **network: Any,
) -> "Site":
    import psutil  # type: ignore[import-untyped]

    from clinscale.engine import load_hardware
    from clinscale.plan import Site

    known = load_hardware(hardware)
    name = gpu or ("h100" if on_gpu else "cpu")
    device = known.device(name)
    known.link(between)  # a name that is not known is an error even where one node holds all
    device = device.model_copy(update={key: price for key, price in prices.items() if price is not None})
    host = None if device.memory_bytes else psutil.virtual_memory().total / workers
    return Site(
        hardware=known,
        device_name=name,
        device=device,
        between=between,
        host_bytes_per_device=host,
        **network,
    )


def _tune_people(found: "TunePlan") -> list[Any]:
    rows = [
        {
            "study": one.name,
            "windows": f"{one.train.number:,.0f}",
            "mean tokens": f"{one.train.tokens / max(one.train.number, 1):,.0f}",
            "device-seconds per epoch": f"{one.device_seconds_per_epoch:,.3g}",
            "epochs of a trial": f"{one.epochs:.2f}",
            "memory at most": format_bytes(one.memory.total),
            "fits": {True: "yes", False: "no", None: "?"}[one.fits],
        }
        for one in found.studies
    ]
    people: list[Any] = [_on_site(found), *([table("Trials", rows)] if rows else [])]
    if work := found.work:
        people.append(f"{work.trials} trials, {found.trials_at_once} at once: {_cost(found, work)}")
    return people + [f"not planned: {name}: {why}" for name, why in found.failures.items()]


def _sweeps_table(found: "list[SweepSpread]") -> Any:
    rows = [
        {
            "trials at once": one.at_once,
            "hours": f"{one.mean_hours:,.3g}",
            "of all runs": f"{one.low_hours:,.3g} to {one.high_hours:,.3g}",
            "device-hours": f"{one.device_hours:,.3g}",
            "trainings": f"{one.trials:,.1f}",
            "devices lost": f"{one.losses:,.1f}",
            "given up": f"{one.failed:,.1f}",
        }
        for one in found
    ]
    return table("Simulated by the sweep's own policy, confirmations included", rows)


def _study_people(found: "ProtocolPlan") -> list[Any]:
    bases = [
        {
            "pretraining": name,
            "workers": one.shape.workers,
            "fits": {True: "yes", False: "no", None: "?"}[one.fits],
            "tokens/s": f"{one.tokens_per_s:,.0f}",
            "days": "?" if one.days is None else f"{one.days:.3g}",
        }
        for name, one in found.pretrainings.items()
    ]
    rows = [
        {
            "search": name,
            "models": len(one.studies),
            "fits": "no" if any(study.fits is False for study in one.studies) else "yes",
            "trials": one.work.trials,
            "at once": one.trials_at_once,
            "time": format_seconds(one.work.hours * 3600),
            "device-hours": f"{one.work.device_hours:,.3g}",
        }
        for name, one in found.searches.items()
        if one.work
    ]
    tables = [table(title, part) for title, part in (("Pretrainings", bases), ("Searches", rows)) if part]
    return [
        _on_site(found),
        *tables,
        f"all that is planned, one after the other: {_cost(found, found)}"
        if found.hours is not None
        else "nothing could be planned",
        *(f"not planned: {name}: {why}" for name, why in found.failures.items()),
    ]


def _on_site(found: "TunePlan | ProtocolPlan") -> str:
    device = found.site.device
    return f"{found.name}: on {found.site.device_name} ({device.source}, {device.date})"


def _cost(found: "TunePlan | ProtocolPlan", work: "Work | ProtocolPlan") -> str:
    said = [format_seconds((work.hours or 0) * 3600), f"{work.device_hours:,.4g} device-hours"]
    said += [f"{found.kwh:,.3g} kWh"] if found.kwh is not None else []
    said += [f"{found.usd:,.2f} USD"] if found.usd is not None else ["no price given"]
    said += [f"{found.usd_spot:,.2f} USD on spot"] if found.usd_spot is not None else []
    return ", ".join(said)


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
        "passes over memory, bytes/s": probe.bytes_per_s,
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
            "mean days": "some never end" if one.mean_days is None else f"{one.mean_days:.3g}",
            "5 % to 95 %": " to ".join(
                "?" if days is None else f"{days:.3g}" for days in (one.low_days, one.high_days)
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
        "days": "?" if one.days is None else f"{one.days:.3g}",
        **money,
        **spot,
    }


def _overrides(one: "Estimate") -> str:
    return " ".join(f"{key}={str(value).lower()}" for key, value in one.shape.plain().items())


def _whole(one: "Estimate") -> str:
    if one.days is None:
        return "no duration, so neither days nor money"
    said = [f"{one.days:.3g} days", f"{one.device_hours:,.4g} device-hours"]
    if one.kwh is not None:
        said.append(f"{one.kwh:,.4g} kWh")
    if one.usd is not None:
        said.append(f"{one.usd:,.0f} USD")
    if one.usd_spot is not None:
        said.append(
            f"{one.usd_spot:,.0f} USD on spot with {one.preemptions:.1f} preemptions in {one.spot_days:.3g} days"
        )
    return ", ".join(said) + ("" if one.usd is not None or one.usd_spot is not None else "; no price given")
