"""`clinscale models`: what the registry holds, where it came from, and which version is champion."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import (
    DEFAULT_HOME,
    Delimiter,
    Encoding,
    Home,
    Json,
    Overrides,
    Quotes,
    Sheet,
    TrackingUri,
    local_only,
)
from clinscale.cli.output import Steps, emit, table
from clinscale.cli.outputs import check_new, check_place, is_bill
from clinscale.errors import ConfigError
from clinscale.units import format_bytes
from clinscale.visible import visible

if TYPE_CHECKING:
    from clinscale.scan import ScanResult

app = typer.Typer()

_NOT_LOOKED_INTO = 3
"""Exit code of `scan` where it cannot say that nothing was found."""

Reference = Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")]


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
    shown = [{key: value for key, value in row.items() if key != "remark"} for row in rows]
    remarks = [f"{row['name']}/{row['version']}: {row['remark']}" for row in rows if row["remark"]]
    emit({"models": rows}, as_json=json, people=[table("Models", shown), *remarks])


@app.command()
def show(
    reference: Reference,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Everything recorded of one version, and every decision about its model's champion.

    Example: `clinscale models show tcga_organ@champion`
    """
    from clinscale import promotion, registry

    tracking = registry.connect(tracking_uri, home=home)
    version = registry.resolve(tracking, reference)
    values = {**_row(version), "run_id": version.run_id, "digest": version.digest, "tags": version.tags}
    flat = {**{key: value for key, value in values.items() if key not in ("tags", "remark")}, **version.tags}
    decisions = [
        {
            "when": datetime.datetime.fromtimestamp(move.at_s, datetime.UTC).isoformat(timespec="seconds"),
            "action": move.action,
            "champion before": move.before,
            "after": move.after,
            "by": move.by,
            "why": move.why,
        }
        for move in promotion.history(tracking, version.name)
    ]
    people = [
        table(version.label, [{"what": key, "value": value} for key, value in flat.items()]),
        table("Decisions", decisions),
    ]
    emit({**values, "decisions": decisions}, as_json=json, people=people)


@app.command()
def lineage(
    reference: Reference,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Lineage of a version, link by link back to the note files; an unknown link is shown as unknown.

    Example: `clinscale models lineage tcga_organ@champion`
    """
    from clinscale import registry

    tracking = registry.connect(tracking_uri, home=home)
    version = registry.resolve(tracking, reference)
    links = registry.lineage(tracking, version)
    rows = [
        {
            "what": link.what,
            "name": link.name,
            "id": link.id[:12],
            "facts": f"NOT KNOWN: {link.missing}"
            if link.missing
            else ", ".join(f"{key} {value}" for key, value in link.facts.items()),
        }
        for link in links
    ]
    values = {"version": version.label, "links": [link.plain() for link in links]}
    emit(values, as_json=json, people=table(f"Lineage of {version.label}", rows))


@app.command()
def bom(
    reference: Reference,
    out: Annotated[
        Path | None, typer.Option(callback=local_only, help="File to write; without it, the bill is printed.")
    ] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Write the bill of materials of a version as CycloneDX 1.6 JSON: files with hashes, packages, base, data.

    Of data it holds fingerprints, and of notes no text. Equal versions give equal bytes.

    Example: `clinscale models bom tcga_organ/3 --out tcga_organ.cdx.json`
    """
    from clinscale import registry
    from clinscale.cli.bom import version_bom
    from clinscale.storage import write_json

    place = check_new(out, is_bill) if out is not None else None
    tracking = registry.connect(tracking_uri, home=home)
    version = registry.resolve(tracking, reference)
    bill = version_bom(version, *registry.stored_files(tracking, version))
    if place is None:
        emit(bill, as_json=True)
        return
    write_json(place, bill)
    values = {"file": str(out), "version": version.label, "components": len(bill["components"])}
    emit(values, as_json=json, people=f"{out}: {version.label} with {len(bill['components'])} files and packages")


@app.command()
def promote(
    reference: Reference,
    overrides: Overrides = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the task's files: judge on its test set now.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs --why.")] = False,
    why: Annotated[str | None, typer.Option("--why", help="The reason, kept on record.")] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Make a version champion, when it beats the present one beyond noise and breaks no limit; exit code 1 when not.

    Limits are `key=value`: min_seeds, min_over_trivial (null: a first champion need not beat the trivial baseline),
    max_loss_in_band, max_loss_in_label, max_calibration_loss, max_latency_ratio, max_latency_s_per_1000_tokens,
    max_size_bytes, require_memorisation_test.

    Example: `clinscale models promote tcga_organ@challenger max_latency_ratio=2`
    """
    from clinscale import promotion, registry

    if force and why is None:
        raise ConfigError("--force needs --why REASON, which is kept on record")
    rules = promotion.GateRules.load(overrides=overrides or [])
    tracking = registry.connect(tracking_uri, home=home)
    version, decision = promotion.promote(
        tracking, reference, home=home, rules=rules, data=data, force=why if force else None
    )
    rows = [
        {"rule": check.rule, "holds": "yes" if check.passed else "NO", "found": check.found}
        for check in decision.checks
    ]
    champion = registry.find_version(tracking, f"{version.name}@{registry.CHAMPION}")
    failed = [check.rule for check in decision.checks if not check.passed]
    reason = f"not promoted: {', '.join(failed)}" if failed and not force else decision.because
    verdict = f"champion: {champion.label if champion else 'none'} ({reason})"
    emit(
        {**decision.plain(), "forced": force, "champion_now": champion.label if champion else None},
        as_json=json,
        people=[*([table(f"{decision.candidate} against {decision.champion}", rows)] if rows else []), verdict],
    )
    if not decision.promoted and not (champion and champion.is_equal(version)):
        raise typer.Exit(1)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    why: Annotated[str, typer.Option("--why", help="The reason, kept on record.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Make the champion before champion again.

    Example: `clinscale models rollback tcga_organ --why "worse on the new ward"`
    """
    from clinscale import promotion, registry

    gone, returned = promotion.rollback(registry.connect(tracking_uri, home=home), name, why=why)
    emit(
        {"champion_before": gone.label, "champion_now": returned.label},
        as_json=json,
        people=f"champion: {returned.label}, before {gone.label}",
    )


@app.command()
def scan(
    notes: Annotated[list[str], typer.Argument(help="Files or folders of your notes, as for `corpus build`.")],
    text_column: Annotated[str, typer.Option(help="Column of the note, or the path to it.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column of the note's id, which findings name.")] = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    quoting: Quotes = None,
    sheet: Sheet = None,
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

    Says where and of which notes, never what. Exits 1 when anything is found, and 3 when nothing is, but some files
    could not be looked into. Reads compressed files and archives, Parquet and Arrow, UTF-16, base64 and hexadecimal
    digits, tokens of vocabularies, tagged words, and token ids, in digits or in binary, by the tokenizers it meets.
    What is of no known form, long text that nobody can read, and pictures that are no charts count as not looked into,
    and so do 48 or more numbers that are as token ids of a text, where no tokenizer it meets can have made them.
    Not seen: words whose letters were exchanged or reversed, short runs of digits, and what is hidden in weights.
    Shards are the notes as token ids by purpose: they are named, not looked into.

    Example: `clinscale models scan notes.csv --text-column TEXT --id-column ROW_ID`
    """
    import dataclasses

    from clinscale import registry
    from clinscale.corpus import SourceConfig
    from clinscale.scan import scan as look

    written = {"encoding": encoding, "delimiter": delimiter, "quoting": quoting, "sheet": sheet}
    columns = {"text_column": text_column, "id_column": id_column}
    sources = [SourceConfig.parse({"uri": uri, **columns, **written}, source="options") for uri in notes]
    with Steps("Looking for text of notes") as steps:
        found = look(
            sources,
            tracking=registry.connect(tracking_uri, home=home),
            places=[home, *(also or [])],
            skip=skip or [],
            on_progress=lambda done, what: steps.update(done, None, what),
        )
    emit(dataclasses.asdict(found), as_json=json, people=_scan_told(found))
    if found.findings or found.unread:
        raise typer.Exit(1 if found.findings else _NOT_LOOKED_INTO)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub name of a BERT- or RoBERTa-type encoder.")],
    family: Annotated[str, typer.Option(help="longformer or bigbird.")],
    out: Annotated[Path, typer.Option(callback=local_only, help="New folder for the model and its tokenizer.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the new model reads.")] = 4096,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Turn an encoder that reads 512 tokens into a Longformer or a BigBird that reads 4,096; then pretrain it further.

    `hf_overrides.attention_window` (Longformer, 512), `hf_overrides.block_size` and `hf_overrides.num_random_blocks`
    (BigBird, 64 and 3) may be set.

    Example: `clinscale models convert emilyalsentzer/Bio_ClinicalBERT --family longformer --out clinical-lf`
    """
    from clinscale import models as encoders
    from clinscale.tokenizers import load_tokenizer

    check_place(out)
    values = {"pretrained": source, "convert_to": family, "max_tokens": max_tokens}
    config = encoders.ModelConfig.load(overrides=overrides or [], base=values)
    done = encoders.convert_to_folder(config, load_tokenizer(source), out)
    head = "with its head" if done["has_mlm_head"] else "without a head of masked-language modelling"
    people = f"{out}: a {family} of {max_tokens:,} tokens, {done['parameters']:,} parameters, {head}"
    emit(done, as_json=json, people=people)


@app.command()
def clean(
    older_than: Annotated[
        float,
        typer.Option("--older-than", min=0, help="Hours since an upload began; below, it may still be running."),
    ] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Close runs of dead processes; remove what registrations that were cut left in MLflow: files without a version.

    Example: `clinscale models clean --dry-run`
    """
    import dataclasses

    from clinscale import registry

    tracking = registry.connect(tracking_uri, home=home)
    closed = [] if dry_run else registry.close_orphans(tracking)
    found = list(registry.cut_uploads(tracking, older_than_s=older_than * 3600))
    for upload in found:
        if not dry_run:
            registry.remove_upload(tracking, upload)
    size = sum(upload.bytes for upload in found)
    rows = [{"model": one.name, "run": one.run_id, "size": format_bytes(one.bytes)} for one in found]
    emit(
        {
            "closed_runs": closed,
            "uploads": [dataclasses.asdict(one) for one in found],
            "bytes": size,
            "removed": not dry_run,
        },
        as_json=json,
        people=[
            *([table("Cut uploads", rows)] if rows else []),
            f"{len(closed)} orphaned runs closed; {len(found)} cut uploads of {format_bytes(size)} "
            + ("would be removed" if dry_run else "removed"),
        ],
    )


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
    people += [
        f"holds the notes as token ids, by purpose, and was not looked into: {name}" for name in found.shards
    ]
    short = f" ({found.notes_too_short:,} are too short to be distinguished)" if found.notes_too_short else ""
    looked = f"{found.files:,} files ({format_bytes(found.bytes)}) and {found.texts:,} texts of MLflow"
    where = f"in {len(found.findings)} places" if found.findings else "nowhere"
    where += f"; {len(found.unread)} could not be looked into" if found.unread else ""
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
        "remark": tags.get(Tag.REMARK, ""),
    }


@app.command()
def sign(
    reference: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    key: Annotated[Path, typer.Option("--key", help="PEM file of an ed25519 private key.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Sign name, number and every file of a version, so that `pull --trust` gives it to those who have the public key.

    Keys are OpenSSL's: `openssl genpkey -algorithm ed25519 -out key.pem`, and what others are given:
    `openssl pkey -in key.pem -pubout -out key.pub.pem`.

    Example: `clinscale models sign tcga_organ@champion --key key.pem`
    """
    from clinscale import registry

    def passphrase() -> str:
        return str(typer.prompt(f"Passphrase of {visible(str(key))}", hide_input=True, err=True))

    version = registry.sign(registry.connect(tracking_uri, home=home), reference, key, passphrase=passphrase)
    signed_by = version.tags[registry.Tag.SIGNED_BY]
    values = {"name": version.name, "version": version.version, "digest": version.digest, "signed_by": signed_by}
    emit(
        values,
        as_json=json,
        people=f"{version.label} (sha256 {version.digest[:12]}) is signed by key {signed_by[:12]}",
    )
