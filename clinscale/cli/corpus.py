"""`clinscale corpus`: notes to a ShardSet, and its card."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from clinscale.cli.options import (
    Address,
    Delimiter,
    Encoding,
    Json,
    Quotes,
    SharedWith,
    Sheet,
    paths_and_overrides,
)
from clinscale.cli.output import Steps, emit, table
from clinscale.cli.outputs import check_place
from clinscale.errors import ConfigError, DataError
from clinscale.permissions import is_shared, share
from clinscale.storage import filesystem, is_remote

_LARGE_BYTES = 64 * 2**20
"""Size below which starting Ray takes longer than the work."""

app = typer.Typer(help="Notes to tokenised, memory-mapped shards.", no_args_is_help=True)


@app.command()
def build(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files or folders of notes, or key.path=value overrides.")
    ] = None,
    *,
    out: Annotated[
        str, typer.Option("--out", help="Folder of the new ShardSet; on a cluster one that all nodes see.")
    ],
    text_column: Annotated[str, typer.Option(help="Column of the note, or the path to it.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column of the note's id.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column of the patient: whole patients are held out for validation.")
    ] = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    quoting: Quotes = None,
    sheet: Sheet = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML file; for sources of several columns.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="HF name or folder; by default a byte-level BPE is trained on the notes.")
    ] = None,
    leakage: Annotated[
        list[str] | None,
        typer.Option(
            "--leakage", help="TASK=PATH: keep the test documents of this task out of the corpus; repeat."
        ),
    ] = None,
    shared_with: SharedWith = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Clean, tokenise and pack notes once; the same command goes on where a build was interrupted.

    From 64 MB of files on, or with an address, the work is spread over all CPUs of Ray; the shards are the same.

    Example: `clinscale corpus build notes.csv.gz --text-column TEXT --out shards cleaning.lower_case=true`
    """
    from clinscale.corpus import CorpusConfig, build_shards, source_bytes
    from clinscale.runtime import ray_session

    if not is_remote(out):
        out = filesystem(out)[1]
        check_place(out)
    _share_new(out, shared_with)
    uris, overrides = paths_and_overrides(sources or [], CorpusConfig)
    given: dict[str, Any] = {"tokenizer": tokenizer} if tokenizer else {}
    if uris:
        columns = {"text_column": text_column, "id_column": id_column, "group_column": group_column}
        written = {"encoding": encoding, "delimiter": delimiter, "quoting": quoting, "sheet": sheet}
        given["sources"] = [{"uri": uri, **columns, **written} for uri in uris]
    settings = CorpusConfig.load(config, overrides, base=given)
    test_texts = {task: _test_texts(task, path) for task, path in map(_task_and_path, leakage or [])}
    is_large = address is not None or source_bytes(settings) >= _LARGE_BYTES
    ray = ray_session(address) if is_large else contextlib.nullcontext()
    with ray as cluster, Steps("Building the corpus") as steps:
        shards = build_shards(
            settings,
            out,
            test_texts=test_texts,
            num_cpus=cluster.num_cpus if cluster else 0,
            on_progress=lambda done: steps.update(done, None, "notes"),
        )
    _show(shards, json)


@app.command()
def show(uri: Annotated[str, typer.Argument(help="Folder or URI of a ShardSet.")], json: Json = False) -> None:
    """Print the card of a ShardSet: counts, lengths, duplicates, fingerprints; no text.

    Example: `clinscale corpus show shards`
    """
    from clinscale.corpus import open_shards

    _show(open_shards(uri), json)


def _share_new(out: str, group: str | None) -> None:
    """Open the folder of new shards to a group; not one with files, among which may be the notes."""
    if group is None:
        return
    if is_remote(out):
        raise ConfigError(f"--shared-with opens a folder of this machine, got {out}; give the rights in the store")
    folder = Path(out)
    if not folder.is_dir() or not any(folder.iterdir()):
        share(folder, group)
    elif not is_shared(folder):
        raise ConfigError(
            f"--shared-with must be given with a new or empty folder, got files in {out}; name another"
        )


def _task_and_path(option: str) -> tuple[str, str]:
    """Parted at the first `=` before which there is no path with one in it, as in `year=2020/task.yaml=notes`."""
    parts = option.split("=")
    ends = [end for end in range(1, len(parts)) if Path("=".join(parts[:end])).is_file()]
    end = ends[0] if ends else 1
    task, path = "=".join(parts[:end]), "=".join(parts[end:])
    if not task or not path:
        raise ConfigError(f"--leakage {option} must read TASK=PATH, e.g. mimic_aki=/data/mimic-iii")
    return task, path


def _test_texts(task: str, path: str) -> list[str]:
    from clinscale.tasks import load_task, read_task

    texts = read_task(load_task(task), path).texts("test")
    if not texts:
        raise DataError(
            f"--leakage {task}={path}: the task must have test documents there and has none; give their folder"
        )
    return texts


def _show(shards: Any, as_json: bool) -> None:
    card = {"uri": shards.uri, "fingerprint": shards.fingerprint, **shards.card()}
    rows = [{"what": name, "value": value} for name, value in _for_people(card)]
    emit(card, as_json=as_json, people=table("ShardSet", rows))


def _for_people(card: dict[str, Any]) -> list[tuple[str, str]]:
    lengths, cut = card["document_tokens"], card["share_cut_at"]
    packing = card["packing_efficiency"]
    rows = [
        ("place", card["uri"]),
        ("fingerprint", f"{card['fingerprint']} (recipe {card['recipe_fingerprint']})"),
        *(
            (name, f"{card[f'{name}_documents']:,} notes, {card[f'{name}_tokens']:,} tokens")
            for name in ("train", "validation")
        ),
        ("vocabulary", f"{card['vocab_size']:,} tokens (tokenizer {card['tokenizer_fingerprint']})"),
        (
            "tokens of a note",
            f"mean {lengths['mean']:,.0f}, median {lengths['p50']:,.0f}, 95 % below {lengths['p95']:,.0f}, "
            f"longest {lengths['max']:,.0f}",
        ),
        ("longer than the model reads", ", ".join(f"{share:.1%} at {limit}" for limit, share in cut.items())),
        ("positions that are no padding", ", ".join(f"{share:.2%} at {rows}" for rows, share in packing.items())),
        ("left out", ", ".join(f"{count:,} {name}" for name, count in card["left_out"].items()) or "nothing"),
        ("sources", "\n".join(card["sources"])),
    ]
    if card["remarks"]:
        rows.append(("remarks", "\n".join(f"{count:,} {what}" for what, count in card["remarks"].items())))
    leaks = [
        f"{name}: {of['found']} of {of['test_documents']} test documents" for name, of in card["leakage"].items()
    ]
    return [*rows, ("leakage", "\n".join(leaks))] if leaks else rows
