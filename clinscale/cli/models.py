"""`clinscale models`: what the registry holds, where it came from, and which version is champion."""

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, Overrides, TrackingUri
from clinscale.cli.output import emit, table
from clinscale.errors import ConfigError

app = typer.Typer()

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
    emit({"models": rows}, as_json=json, people=table("Models", rows))


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
    flat = {**{key: value for key, value in values.items() if key != "tags"}, **version.tags}
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
    """Where a version came from, link by link back to the note files; what is not known is said.

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

    Limits are `key=value`: min_seeds, max_loss_in_band, max_loss_in_label, max_calibration_loss, max_latency_ratio,
    max_latency_s_per_1000_tokens, max_size_bytes, require_memorisation_test.

    Example: `clinscale models promote tcga_organ@challenger max_latency_ratio=2`
    """
    from clinscale import promotion, registry

    if force and not why:
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
    verdict = f"champion: {champion.label if champion else 'none'} ({decision.because})"
    emit(
        {**decision.plain(), "forced": force, "champion_now": champion.label if champion else None},
        as_json=json,
        people=[*([table(f"{decision.candidate} against {decision.champion}", rows)] if rows else []), verdict],
    )
    if not decision.promoted and not (champion and champion.digest == version.digest):
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
