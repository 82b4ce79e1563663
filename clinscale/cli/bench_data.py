"""`clinscale bench loading` and `corpus`: files read and notes made to tokens against the obvious script."""

from enum import StrEnum
from typing import Annotated

import typer

from clinscale.cli.bench_run import Repeats, names_of, run
from clinscale.cli.options import Json

Format = StrEnum(
    "Format", ["csv", "jsonl", "json", "parquet", "arrow", "noteevents", "bio", "brat", "i2b2_xml", "squad"]
)


def loading(
    data: Annotated[
        str | None, typer.Option(help="Folder of public data sets; formats that it lacks are invented.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0.01, help="Size of the invented files of each format.")] = 10.0,
    stream_megabytes: Annotated[
        tuple[float, float], typer.Option(help="Sizes of the two NOTEEVENTS whose peak memory is compared.")
    ] = (20.0, 200.0),
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Repeat for several; all by default.")
    ] = None,
    repeats: Repeats = 5,
    seed: Annotated[int, typer.Option(help="Of the invented files.")] = 0,
    json: Json = False,
) -> None:
    """Reading files of each format in one thread, against the obvious script; memory of streaming NOTEEVENTS.

    Example: `clinscale bench loading --data downloads --format brat --format squad`
    """
    from clinscale.bench import bench_loading

    run(
        bench_loading,
        1,
        json,
        tells=True,
        data=data,
        megabytes=megabytes,
        stream_megabytes=stream_megabytes,
        formats=names_of(formats, Format),
        repeats=repeats,
        seed=seed,
    )


def corpus(
    data: Annotated[
        str | None, typer.Option(help="Folder of public data sets, whose pretrain_corpus is read; else invented.")
    ] = None,
    megabytes: Annotated[float, typer.Option(min=0.01, help="Text to be timed on.")] = 10.0,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(help="MB of two invented NOTEEVENTS, built on Ray, whose peak memory is compared."),
    ] = None,
    repeats: Repeats = 5,
    seed: Annotated[int, typer.Option(help="Of the invented notes.")] = 0,
    json: Json = False,
) -> None:
    """Notes to training tokens in one thread, against HF's run_mlm; memory of a build at two sizes.

    Example: `clinscale bench corpus --scale 50 2000`
    """
    from clinscale.bench import bench_corpus

    run(bench_corpus, 1, json, tells=True, data=data, megabytes=megabytes, scale=scale, repeats=repeats, seed=seed)
