"""`clinscale plan tune` and `plan study`: searches, and studies of them, before they start."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, Overrides, TrackingUri, finite
from clinscale.cli.output import emit, table
from clinscale.cli.site import (
    CorpusTokens,
    Gpu,
    HardwareFile,
    LinkBetween,
    Preemptions,
    ReplacementMinutes,
    Usd,
    UsdSpot,
    site_of,
)
from clinscale.cli.study import ProtocolFile
from clinscale.cli.tune import DataFolders, MaxTokens, Models, SpaceFile, SweepName, Tasks, sweep_of
from clinscale.units import format_bytes, format_days, format_seconds

if TYPE_CHECKING:
    from clinscale.plan import SweepSpread, TunePlan
    from clinscale.study import ProtocolPlan
    from clinscale.sweep import SweepRuntime, Work

Devices = Annotated[
    float | None,
    typer.Option(
        "--devices",
        min=0.01,
        callback=finite,
        help="GPUs or cores that trials share. Default: one trial's, or the cores here.",
    ),
]


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
    site = site_of(
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
    site = site_of(
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
    people += [f"{one.name}: {note}" for one in found.studies for note in one.notes]
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
            "time": "?" if one.days is None else format_days(one.days),
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
