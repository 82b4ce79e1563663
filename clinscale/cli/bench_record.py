"""`clinscale bench all`, `compare` and `tables`: every ratio in one record, and what is made of records."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import console, emit, table
from clinscale.cli.outputs import check_place

if TYPE_CHECKING:
    from clinscale.bench import Difference, SuiteRecord

_FAILED = 1
Record = Annotated[Path, typer.Argument(help="File of `bench all --record`, or of one bench's --json.")]


def run_all(
    record: Annotated[
        Path, typer.Option(help="JSON file of the figures; written after each bench, and gone on with.")
    ] = Path("bench.json"),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A bench of the suite; repeat. Default: all, for hours.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of public data sets; without it files are invented.")
    ] = None,
    json: Json = False,
) -> None:
    """Run every bench that README quotes, each in a process of its own, to one JSON record.

    The same command goes on after an interruption, and tries again what failed. What the machine did besides just
    before a bench began is recorded with it.

    Example: `clinscale bench all --record figures.json --only attention --only step`
    """
    from clinscale.bench import run_suite

    check_place(record)
    found, left_out = run_suite(
        record, only=only or [], data=data, on_event=lambda said: console.print(said, soft_wrap=True, markup=False)
    )
    asked = {name: one for name, one in found.benches.items() if not only or name in only}
    failed = [name for name, one in asked.items() if one.answer is None]
    emit(
        {"record": str(record), **found.plain(), "left_out": left_out, "failed": failed},
        as_json=json,
        people=[
            table("Ratios to the peer", _ratio_rows(found, only or list(found.benches))),
            *(f"left out: {name}: {why}" for name, why in left_out.items()),
            *(f"failed: {name}: exit code {asked[name].exit_code}; what it said is above" for name in failed),
            f"record: {record}",
        ],
    )
    if failed:
        raise typer.Exit(_FAILED)


def compare(
    before: Record,
    after: Record,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Share by which a median may be worse; what two processes differ by anyway."),
    ] = 0.05,
    json: Json = False,
) -> None:
    """Name the ratios that are worse in the second record beyond noise; exit code 1 if there are any.

    Worse beyond noise: every run is worse than every run of the first record, and the median by more than the
    tolerance. So is a figure whose bench has failed since.

    Example: `clinscale bench compare figures.json new.json`
    """
    from clinscale.bench import compare_records, load_record
    from clinscale.errors import ConfigError

    records = load_record(before), load_record(after)
    found = compare_records(*records, tolerance=tolerance)
    compared = [one for one in found if one.verdict != "absent"]
    if not compared:
        raise ConfigError(
            f"{before} and {after} must have a bench in common, called with the same options, got none; run the same "
            "`clinscale bench all` for both"
        )
    absent = sorted({one.bench for one in found if one.verdict == "absent"})
    worse = [one for one in compared if one.verdict in ("slower", "lost")]
    changed = [one for one in compared if one.verdict != "alike"]
    counts = f"{len(compared)} ratios compared, {len(worse)} slower or lost beyond noise"
    emit(
        {"differences": [one.plain() for one in found], "slower": len(worse), "not_compared": absent},
        as_json=json,
        people=[
            *([table("Changed beyond noise", [_difference_row(one) for one in changed])] if changed else []),
            *(f"not compared, absent or called with other options: {name}" for name in absent),
            counts,
        ],
    )
    if worse:
        raise typer.Exit(_FAILED)


def tables(
    record: Record,
    page: Annotated[
        Path | None, typer.Option(help="Markdown file whose marked tables are made anew; none prints all tables.")
    ] = None,
    json: Json = False,
) -> None:
    """Print README's tables from a record, or write them into a page between their marks.

    A mark is a line `<!-- table NAME -->`, and `<!-- end of table -->` ends what is replaced. A table of which the
    record has no figure stays as it is.

    Example: `clinscale bench tables figures.json --page clinscale/bench/README.md`
    """
    from clinscale.bench import TABLES, has_rows, load_record, marks, render, with_tables
    from clinscale.errors import ConfigError, DataError

    found = load_record(record)
    made = {name: render(name, found) for name in TABLES}
    if page is not None:
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--page must be a readable Markdown file, got {page} ({error}); correct it") from None
        if not (names := marks(text)):
            raise ConfigError(
                f"{page} must have a line `<!-- table NAME -->`, got none; NAME: {', '.join(TABLES)}"
            )
        page.write_text(with_tables(text, found), encoding="utf-8")
        filled = [name for name in names if has_rows(made[name])]
        left = [name for name in names if name not in filled]
        emit(
            {"page": str(page), "tables": filled, "left": left},
            as_json=json,
            people=[
                f"{page}: {', '.join(filled) or 'no table'}",
                *(f"left as it was, as the record has none of its figures: {name}" for name in left),
            ],
        )
        return
    shown = {name: text for name, text in made.items() if has_rows(text)}
    emit(shown, as_json=json, people=[f"{name}\n\n{text}" for name, text in shown.items()] or "no table's figures")


def _ratio_rows(record: "SuiteRecord", names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "bench": name,
            "ratio": key,
            "median": "∞" if one.median is None else one.median,
            "min": "∞" if one.min is None else one.min,
            "max": "∞" if one.max is None else one.max,
            "asked": ""
            if one.asked is None
            else f"{'at most' if key in entry.at_most else 'at least'} {one.asked:g}",
            "machine": "busy" if entry.was_busy else "",
        }
        for name, entry in record.benches.items()
        if name in names
        for key, one in entry.ratios.items()
    ]


def _difference_row(one: "Difference") -> dict[str, Any]:
    return {
        "bench": one.bench,
        "ratio": one.ratio,
        "A": "∞ or none" if one.before is None else one.before,
        "B": "∞ or none" if one.after is None else one.after,
        "change": "" if one.change is None else f"{one.change:+.1%}",
        "": one.verdict,
        "remarks": "; ".join(one.remarks),
    }
