"""`clinscale corpus`: notes to a ShardSet, and its card."""

from typing import Annotated, Any

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import Steps, emit, table

app = typer.Typer(help="Notes to tokenised, memory-mapped shards.", no_args_is_help=True)


@app.command()
def build(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files or folders of notes, or key.path=value overrides.")
    ] = None,
    *,
    out: Annotated[str, typer.Option("--out", help="Folder of the new ShardSet.")],
    text_column: Annotated[str, typer.Option(help="Column of the note in CSV, JSONL and Parquet.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column of the note's id.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML file; for sources of several columns.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="HF name or folder; by default a byte-level BPE is trained on the notes.")
    ] = None,
    json: Json = False,
) -> None:
    """Clean, tokenise and pack notes once.

    Example: `clinscale corpus build notes.csv.gz --text-column TEXT --out shards cleaning.lower_case=true`
    """
    from clinscale.corpus import CorpusConfig, build_shards

    words = sources or []
    uris = [word for word in words if "=" not in word]
    given: dict[str, Any] = {"tokenizer": tokenizer} if tokenizer else {}
    if uris:
        given["sources"] = [{"uri": uri, "text_column": text_column, "id_column": id_column} for uri in uris]
    settings = CorpusConfig.load(config, [word for word in words if "=" in word], base=given)
    with Steps("Building the corpus") as steps:
        shards = build_shards(settings, out, on_progress=lambda done: steps.update(done, None, "notes"))
    _show(shards, json)


@app.command()
def show(uri: Annotated[str, typer.Argument(help="Folder or URI of a ShardSet.")], json: Json = False) -> None:
    """Print the card of a ShardSet: counts, lengths, fingerprints; no text.

    Example: `clinscale corpus show shards`
    """
    from clinscale.corpus import open_shards

    _show(open_shards(uri), json)


def _show(shards: Any, as_json: bool) -> None:
    card = {"uri": shards.uri, "fingerprint": shards.fingerprint, **shards.card()}
    rows = [{"what": key.replace("_", " "), "value": value} for key, value in card.items()]
    emit(card, as_json=as_json, people=table("ShardSet", rows))
