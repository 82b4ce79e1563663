"""`clinscale pull`: a registered version as a verified local HF folder."""

from pathlib import Path
from typing import Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, TrackingUri
from clinscale.cli.output import emit


def pull(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Download a version, check every file against its manifest, load nothing.

    Example: `clinscale pull tcga_organ@champion --out organ-model`
    """
    from clinscale import registry

    pulled = registry.pull(registry.connect(tracking_uri, home=home), reference, out)
    values = {"name": pulled.name, "version": pulled.version, "path": str(pulled.path), "digest": pulled.digest}
    emit(
        values,
        as_json=json,
        people=f"{pulled.name}/{pulled.version} -> {pulled.path}  (sha256 {pulled.digest[:12]})",
    )
