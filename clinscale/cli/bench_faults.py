"""`clinscale bench faults`: what becomes of work under faults, tried for real."""

import sys
from typing import Annotated

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import Steps, emit, table
from clinscale.interrupts import EXIT_CODE


def faults(
    times: Annotated[int, typer.Option(min=1, help="Tries of each fault, each at a moment of its own.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments and victims.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="FAULT", help="A fault, or words of its name; repeat.")
    ] = None,
    limit: Annotated[
        float, typer.Option(min=1, help="Minutes after which a try is cut off, and its fault not tried again.")
    ] = 30,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.5, help="In place of tries: throughput kept by a pretraining on two nodes, so long each."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="In place of tries: throughput kept by a sweep of so many trials.")
    ] = None,
    per_minute: Annotated[
        float, typer.Option("--per-minute", min=0.1, help="Faults a minute, for --minutes and --trials.")
    ] = 2.0,
    listed: Annotated[bool, typer.Option("--list", help="Print the faults, and do none.")] = False,
    json: Json = False,
) -> None:
    """Damaged checkpoints, full disks and more, on real files and processes; results against undisturbed ones.

    Works in folders of its own, which it removes. Exits 1 when a fault broke or lost anything. Full and read-only disks
    are small ones that it mounts, which takes root on Linux; elsewhere those faults are skipped, and the table says so.
    Each fault's result is printed as it is there; a Ctrl-C prints the table of those until then, and ends with 130.

    With `--minutes` or `--trials`, work is done twice in turns, undisturbed and under faults: the table has the share
    of throughput that is kept. Losses and scores must be the same.

    Example: `clinscale bench faults --times 3 --only checkpoint`
    """
    from clinscale.bench import FaultResult, all_faults, bench_faults

    if listed:
        known = [{"fault": one.name, "demanded": one.demanded} for one in all_faults()]
        emit({"faults": known}, as_json=json, people=table("Faults", known))
        return
    if minutes or trials:
        _kept(minutes, trials, per_minute, seed, only or [], as_json=json)
        return
    done = 0
    with Steps("Breaking", every_s=0) as steps:

        def on_progress(name: str) -> None:
            nonlocal done
            steps.update(done, None, name)
            done += 1

        def on_result(result: FaultResult) -> None:
            row = result.row()
            steps.say(f"{row['fault']}: survived {row['survived']} of {row['tried']} {row['said']}".rstrip())

        record = bench_faults(
            times=times,
            seed=seed,
            only=only or [],
            limit_s=60 * limit,
            on_progress=on_progress,
            on_result=on_result,
        )
    emit(record.plain(), as_json=json, people=table("bench faults: what became of the work", record.rows()))
    if record.interrupted:
        sys.exit(EXIT_CODE)  # typer's own way would have it said how to go on
    if not record.all_survived:
        raise typer.Exit(1)


def _kept(
    minutes: float | None, trials: int | None, per_minute: float, seed: int, only: list[str], *, as_json: bool
) -> None:
    from clinscale.bench import bench_kept

    with Steps("Breaking", every_s=0) as steps:
        record = bench_kept(
            minutes=minutes,
            trials=trials,
            per_minute=per_minute,
            seed=seed,
            only=only,
            on_progress=steps.say,
            on_result=lambda kept: steps.say(f"{kept.work}: {kept.row()['kept']} kept"),
        )
    title = f"bench faults: throughput kept at {per_minute:g} faults a minute"
    emit(record.plain(), as_json=as_json, people=table(title, record.rows()))
    if record.interrupted:
        sys.exit(EXIT_CODE)
    if record.broken:
        steps.say(record.broken)
        raise typer.Exit(1)
