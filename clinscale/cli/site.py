"""Options that describe the hardware of a plan, and the site that they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import finite

if TYPE_CHECKING:
    from clinscale.plan import Site

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
Usd = Annotated[
    float | None,
    typer.Option("--usd-per-hour", min=0, callback=finite, help="Your price of a device-hour."),
]
UsdSpot = Annotated[
    float | None,
    typer.Option("--usd-per-spot-hour", min=0, callback=finite, help="Your price of one that may be taken away."),
]
Preemptions = Annotated[
    float,
    typer.Option(
        "--preemptions-per-device-day",
        min=0,
        callback=finite,
        help="Spot devices taken away; assumed by default.",
    ),
]
CorpusTokens = Annotated[
    int | None, typer.Option("--corpus-tokens", min=1, help="Training tokens, where the shards are not built yet.")
]
ReplacementMinutes = Annotated[
    float,
    typer.Option(
        min=0.01,
        callback=finite,
        help="With --simulate: mean wait for a lost device's successor; assumed.",
    ),
]


def site_of(
    *,
    on_gpu: bool,
    workers: int,
    gpu: str | None,
    hardware: Path | None,
    prices: dict[str, float | None],
    between: str,
    **network: Any,
) -> "Site":
    """The hardware that a plan is for, with the prices that were given; ConfigError for a name that is not known."""
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
