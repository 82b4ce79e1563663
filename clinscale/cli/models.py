"""`clinscale models`: what the registry holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, TrackingUri
from clinscale.cli.output import emit, table

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, home: Home = DEFAULT_HOME, tracking_uri: TrackingUri = None, json: Json = False
) -> None:
    """List every registered version; `show` one of them.

    Example: `clinscale models`
    """
    if context.invoked_subcommand:
        return
    from clinscale import registry

    rows = [_row(version) for version in registry.list_versions(registry.connect(tracking_uri, home=home))]
    emit({"models": rows}, as_json=json, people=table("Models", rows))


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Everything recorded of one version.

    Example: `clinscale models show tcga_organ@champion`
    """
    from clinscale import registry

    version = registry.resolve(registry.connect(tracking_uri, home=home), reference)
    values = {**_row(version), "run_id": version.run_id, "digest": version.digest, "tags": version.tags}
    flat = {**{key: value for key, value in values.items() if key != "tags"}, **version.tags}
    rows = [{"what": key, "value": value} for key, value in flat.items()]
    emit(values, as_json=json, people=table(f"{version.name}/{version.version}", rows))


def _row(version: Any) -> dict[str, Any]:
    from clinscale.registry import Tag

    tags = version.tags
    return {
        "name": version.name,
        "version": version.version,
        "aliases": ", ".join(version.aliases),
        "kind": tags.get(Tag.KIND, ""),
        "family": tags.get(Tag.FAMILY, ""),
        "task": tags.get(Tag.TASK, ""),
        "metric": tags.get(Tag.METRIC, ""),
        "value": float(tags[Tag.VALUE]) if Tag.VALUE in tags else "",
        "base": tags.get(Tag.BASE, ""),
    }


@app.command()
def sign(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    key: Annotated[Path, typer.Option("--key", help="PEM file of an ed25519 private key.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Sign name and digest of a version, so that `pull --trust` gives it to those who have the public key.

    Keys are OpenSSL's: `openssl genpkey -algorithm ed25519 -out key.pem`, and what others are given:
    `openssl pkey -in key.pem -pubout -out key.pub.pem`.

    Example: `clinscale models sign tcga_organ@champion --key key.pem`
    """
    from clinscale import registry

    def passphrase() -> str:
        return str(typer.prompt(f"Passphrase of {key}", hide_input=True, err=True))

    version = registry.sign(registry.connect(tracking_uri, home=home), reference, key, passphrase=passphrase)
    signed_by = version.tags[registry.Tag.SIGNED_BY]
    values = {"name": version.name, "version": version.version, "digest": version.digest, "signed_by": signed_by}
    emit(
        values,
        as_json=json,
        people=f"{version.label} (sha256 {version.digest[:12]}) is signed by key {signed_by[:12]}",
    )
