"""`clinscale models`: what the registry holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, TrackingUri
from clinscale.cli.output import Steps, emit, table
from clinscale.units import format_bytes

if TYPE_CHECKING:
    from clinscale.scan import ScanResult

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


@app.command()
def scan(
    notes: Annotated[list[str], typer.Argument(help="Files or folders of your notes, as for `corpus build`.")],
    text_column: Annotated[str, typer.Option(help="Column of the note in CSV, JSONL and Parquet.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column of the note's id, which findings name.")] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="More files or folders to look through: logs, scratch.")
    ] = None,
    skip: Annotated[
        list[Path] | None, typer.Option("--skip", help="Files or folders in HOME that may hold notes.")
    ] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Prove that no text of your notes is in MLflow, its artifacts or HOME: any 8 words in a row of any note count.

    Says where and of which notes, never what; exits 1 when anything is found. Looks inside gzip, bzip2, xz and zip.

    Example: `clinscale models scan notes.csv --text-column TEXT --id-column ROW_ID`
    """
    import dataclasses

    from clinscale import registry
    from clinscale.corpus import SourceConfig
    from clinscale.scan import scan as look

    sources = [SourceConfig(uri=uri, text_column=text_column, id_column=id_column) for uri in notes]
    with Steps("Looking for text of notes") as steps:
        found = look(
            sources,
            tracking=registry.connect(tracking_uri, home=home),
            places=[home, *(also or [])],
            skip=skip or [],
            on_progress=lambda done, what: steps.update(done, None, what),
        )
    emit(dataclasses.asdict(found), as_json=json, people=_scan_told(found))
    if found.findings:
        raise typer.Exit(1)


def _scan_told(found: "ScanResult") -> list[Any]:
    people: list[Any] = []
    if found.findings:
        rows = [
            {
                "place": one.place,
                "from byte": one.position,
                "phrases": one.phrases,
                "notes": one.num_notes,
                "the first": ", ".join(one.notes),
            }
            for one in found.findings
        ]
        people.append(table("Text of notes", rows))
    people += [f"could not be looked into: {name}" for name in found.unread]
    short = f" ({found.notes_too_short:,} are too short to be told apart)" if found.notes_too_short else ""
    looked = f"{found.files:,} files ({format_bytes(found.bytes)}) and {found.texts:,} texts of MLflow"
    where = f"in {len(found.findings)} places" if found.findings else "nowhere"
    return [*people, f"{looked} compared with {found.notes:,} notes{short}: their text was found {where}"]


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
