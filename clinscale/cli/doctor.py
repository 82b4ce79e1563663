"""`clinscale doctor`: what works here."""

import importlib.metadata
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clinscale import permissions
from clinscale.cli.options import DEFAULT_HOME, Home, Json, SharedWith, TrackingUri, open_home
from clinscale.cli.output import emit, table
from clinscale.cli.outputs import check_new, is_bill
from clinscale.errors import AccessError, CapacityError, ClinscaleError, DataError
from clinscale.runtime import replace_open_token
from clinscale.storage import write_json
from clinscale.units import format_bytes

_PACKAGES = ("clinscale", "torch", "ray", "transformers", "deepspeed", "mlflow", "optuna")
_LEAST_FREE_BYTES = 2 * 2**30
_MOST_PATHS_SHOWN = 3


def doctor(
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the checks that start Ray.")] = False,
    advisories: Annotated[
        Path | None,
        typer.Option("--advisories", help="File of advisories in OSV's format: does one touch what is installed?"),
    ] = None,
    sbom: Annotated[
        Path | None, typer.Option("--sbom", help="File to write: all that is installed, as CycloneDX 1.6 JSON.")
    ] = None,
    close: Annotated[
        bool, typer.Option("--close", help="Take from other users what the check `closed` finds open.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fix what the check `leftovers` finds left by killed processes.")
    ] = False,
    shared_with: SharedWith = None,
    json: Json = False,
) -> None:
    """Check Ray, DeepSpeed, GPUs, attention, MLflow, disk and permissions; exit 1 when something is broken.

    Example: `clinscale doctor`
    """
    open_home(home, shared_with)
    if sbom:
        sbom = check_new(sbom, is_bill)
    checks: dict[str, Callable[[], str]] = {
        "versions": _versions,
        "home": lambda: _home(home),
        "closed": lambda: _closed(home, close=close),
        "accelerator": _accelerator,
        "attention": _attention,
        "deepspeed": _deepspeed,
        "mlflow": lambda: _mlflow(tracking_uri, home),
        "leftovers": lambda: _leftovers(tracking_uri, home, repair=repair),
    }
    if advisories:
        checks["advisories"] = lambda: _advisories(advisories)
    if sbom:
        checks["sbom"] = lambda: _sbom(sbom)
    if not quick:
        checks["ray"] = _ray
    rows = [_run(name, check) for name, check in checks.items()]
    healthy = all(row["ok"] for row in rows)
    shown = [{"check": row["check"], "": "ok" if row["ok"] else "BROKEN", "found": row["found"]} for row in rows]
    emit({"healthy": healthy, "checks": rows}, as_json=json, people=table("Doctor", shown))
    if not healthy:
        raise typer.Exit(1)


def _run(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check()}
    except (ClinscaleError, ImportError, OSError, RuntimeError) as error:
        return {"check": name, "ok": False, "found": f"{type(error).__name__}: {error}"}


def _versions() -> str:
    found = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return f"Python {sys.version.split()[0]}, " + ", ".join(found)


def _advisories(path: Path) -> str:
    from clinscale.cli.advisories import installed, touching

    packages = installed()
    count, found = touching(path, packages)
    if found:
        described = [
            f"{one.package} {one.version}: {one.id} (fixed in {', '.join(one.fixed_in) or 'no version yet'})"
            for one in found
        ]
        raise DataError(f"{len(found)} advisories touch what is installed; update: {'; '.join(described)}")
    return f"none of {count:,} touches the {len(packages)} packages here"


def _sbom(path: Path) -> str:
    from clinscale.cli.bom import installation_bom

    bom = installation_bom()
    write_json(path, bom)
    return f"{path}: clinscale and the {len(bom['components'])} other packages here"


def _home(home: Path) -> str:
    there = next(folder for folder in [home.absolute(), *home.absolute().parents] if folder.exists())
    if not os.access(there, os.W_OK):
        raise CapacityError(f"{there} may not be written by this user; choose another --home")
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE_BYTES:
        raise CapacityError(f"{there} has {format_bytes(free)} free; make room or choose another --home")
    return f"{home} on a disk with {format_bytes(free)} free"


def _closed(home: Path, *, close: bool) -> str:
    """Whether other users of this machine can read or change what is clinscale's; AccessError names what they can."""
    num_closed = permissions.close(home) if close else 0
    token = Path("~/.ray/auth_token").expanduser()
    if close and token.exists():
        replace_open_token()
    found = [str(path) for path in itertools.islice(permissions.open_paths(home), _MOST_PATHS_SHOWN + 1)]
    if token.exists() and token.stat().st_mode & 0o077:
        found.insert(0, f"{token} (Ray's token: anyone who has it runs code as you)")
    if found:
        more = " and more" if len(found) > _MOST_PATHS_SHOWN else ""
        raise AccessError(
            f"open to other users: {', '.join(found[:_MOST_PATHS_SHOWN])}{more}; close it: clinscale doctor --close"
        )
    shared = home.is_dir() and permissions.is_shared(home)
    to = f"to all but group {home.group()}" if shared else "to every other user"
    return f"closed {to}" + (f"; took rights from {num_closed} paths" if num_closed else "")


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU; CPU with {torch.get_num_threads()} threads"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _attention() -> str:
    from clinscale import models

    return models.attention_backend()


def _deepspeed() -> str:
    from clinscale.engine import accelerator

    return f"runs on {accelerator()}"


def _mlflow(tracking_uri: str | None, home: Path) -> str:
    from clinscale import registry

    return registry.connect(tracking_uri, home=home).uri


def _leftovers(tracking_uri: str | None, home: Path, *, repair: bool) -> str:
    """Leftovers of killed processes; the work goes on all the same, so that nothing is broken."""
    from clinscale import registry
    from clinscale.cli.leftovers import leftovers

    found = leftovers(registry.connect(tracking_uri, home=home), home)
    if not found:
        return "none"
    if not repair:
        said = "; ".join(f"{one.kind} {one.thing}" for one in found)
        return f"{said}; fix them: clinscale doctor --repair"
    told = []
    for one in found:
        outcome = one.outcome if one.fix() else "left alone, as it is in use by now or another account's"
        told.append(f"{one.kind} {one.thing}: {outcome}")
    return "; ".join(told)


def _ray() -> str:
    from clinscale.runtime import ray_session

    with ray_session() as cluster:
        alive = cluster.state_api_nodes()
        return f"{cluster.num_cpus} CPUs, {cluster.num_gpus} GPUs on {alive} node(s); State API answers"
