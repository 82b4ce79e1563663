"""`clinscale pull`: a registered version as a verified local HF folder."""

from pathlib import Path
from typing import Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, SharedWith, TrackingUri, local_only, open_home
from clinscale.cli.output import Steps, emit
from clinscale.cli.outputs import check_place
from clinscale.registry import LOCK_FILE

_MEGABYTE = 1e6


def pull(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    out: Annotated[Path, typer.Option("--out", callback=local_only, help="Folder to make.")],
    lock: Annotated[
        Path,
        typer.Option(
            "--lock", help="File that holds which version and digest each pulled reference is locked to."
        ),
    ] = Path(LOCK_FILE),
    update: Annotated[
        bool, typer.Option("--update", help="Take what the registry says now, and move the lock on.")
    ] = False,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Let --update go back to an older version, as after a rollback.")
    ] = False,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust",
            help="PEM file of an ed25519 public key (`openssl pkey -in key.pem -pubout`); one of those that are given "
            "must have signed the version, see `models sign`.",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the lock file and the cache in HOME only; ask no server.")
    ] = False,
    home: Home = DEFAULT_HOME,
    shared_with: SharedWith = None,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Download a version, check every file of it against its manifest, load nothing.

    The first pull of a reference writes to models.lock what it meant; from then on that is what it gives, whatever
    becomes of the alias. Downloads are kept in HOME/models/cache, and a pull that was cut goes on.

    Example: `clinscale pull tcga_organ@champion --out organ-model`
    """
    open_home(home, shared_with)
    from clinscale import registry
    from clinscale.errors import ConfigError

    check_place(out)
    if offline and update:
        raise ConfigError("--update asks the registry and --offline asks nobody; give one of them")
    if offline:
        pulled = registry.pull_offline(reference, out, home=home, lock=lock, trust=trust or [])
    else:
        tracking = registry.connect(tracking_uri, home=home)
        with Steps(f"Pulling {reference}") as steps:
            pulled = registry.pull(
                tracking,
                reference,
                out,
                home=home,
                lock=lock,
                update=update,
                allow_older=allow_older,
                trust=trust or [],
                on_progress=lambda done, total: steps.update(
                    round(done / _MEGABYTE, 1), round(total / _MEGABYTE, 1), "MB"
                ),
            )
    values = {
        "name": pulled.name,
        "version": pulled.version,
        "path": str(pulled.path),
        "digest": pulled.digest,
        "signed_by": pulled.signed_by,
    }
    signed = f", signed by {pulled.signed_by[:12]}" if pulled.signed_by else ""
    emit(
        values,
        as_json=json,
        people=f"{pulled.name}/{pulled.version} -> {pulled.path}  (sha256 {pulled.digest[:12]}{signed})",
    )
