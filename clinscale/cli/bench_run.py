"""A bench under its verb: the options that several take, progress while it measures, and its answer for people."""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.output import Steps, emit
from clinscale.cli.output import table as table_of
from clinscale.models import EXACT_FAMILIES

if TYPE_CHECKING:
    from clinscale.bench import BenchRecord, Ratio

Family = StrEnum("Family", EXACT_FAMILIES)  # type: ignore[misc]
Precision = StrEnum("Precision", ["fp32", "bf16"])

Tokens = Annotated[int, typer.Option(min=8, help="Length of each row.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows of the batch.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; ratios are quoted for one.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turns.")]
Families = Annotated[list[Family] | None, typer.Option("--family", help="Repeat for several; all by default.")]
Precisions = Annotated[
    list[Precision] | None, typer.Option("--precision", help="Repeat for several; both by default.")
]
Stages = Annotated[list[int] | None, typer.Option("--stage", min=0, max=3, help="Repeat; all by default.")]
NumWorkers = Annotated[
    list[int] | None, typer.Option("--num-workers", min=1, help="Repeat; 1, 2 and 4 by default.")
]
HiddenSize = Annotated[int, typer.Option(min=64, help="Width of the model; 768 is base. A multiple of 64.")]
Device = Annotated[str, typer.Option(help="`cpu` or `cuda`.")]


def names_of(chosen: list[Any] | None, every: Any) -> tuple[str, ...]:
    """Values of the members chosen, or of every one."""
    return tuple(member.value for member in chosen or every)


def run(
    bench: "Callable[..., BenchRecord]",
    threads: int,
    json: bool,
    *,
    tells: bool = False,
    people: Callable[[Any], Any] | None = None,
    **options: Any,
) -> None:
    """Measure with a counter of what is under way, and print the record.

    Args:
        bench: takes `options` and `on_progress`.
        threads: of torch.
        json: whether the record is printed as one JSON document.
        tells: whether it takes `on_ratio` too, and each ratio is said as soon as it is measured.
        people: takes the record and returns what people see; None shows `people_of`.
        options: of `bench`.
    """
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    done = 0
    with Steps("Measuring", every_s=0) as steps:

        def on_progress(name: str) -> None:
            nonlocal done
            steps.update(done, None, name)
            done += 1

        if tells:
            options["on_ratio"] = lambda name, found: steps.say(f"{name} {_told(found)}")
        record = bench(**options, on_progress=on_progress)
    emit(record.plain(), as_json=json, people=(people or people_of)(record))


def people_of(record: "BenchRecord") -> list[Any]:
    """The table of ratios, and a sentence for each memory."""
    rows = [
        {
            "ratio": name,
            "median": _shown(ratio.median),
            "min": _shown(ratio.min),
            "max": _shown(ratio.max),
            "asked": _asked(ratio.asked, name in record.at_most),
            **{f"{side} MB/s": speed for side, speed in (record.mb_per_s or {}).get(name, {}).items()},
            **{
                f"{side} {unit}/s": speed
                for side, speeds in (record.per_s or {}).get(name, {}).items()
                for unit, speed in speeds.items()
            },
        }
        for name, ratio in record.ratios.items()
    ]
    shown: list[Any] = [table_of(f"bench {record.surroundings.what}: ratios to the peer", rows)]
    for name, found in (record.memory or {}).items():
        sizes = (found.small_bytes, found.peak_small_bytes), (found.large_bytes, found.peak_large_bytes)
        shown += [
            f"{name}: {size / 1e6:.1f} MB streamed within {peak / 1e6:.1f} MB of memory" for size, peak in sizes
        ]
    return shown


def _asked(figure: float | None, at_most: bool) -> str:
    return "" if figure is None else f"{'at most' if at_most else 'at least'} {figure:g}"


def _shown(figure: float | None) -> float | str:
    return "∞" if figure is None else figure  # a peer that never got there has no finite cost


def _told(ratio: "Ratio") -> str:
    median, low, high = ("∞" if one is None else f"{one:.4g}" for one in (ratio.median, ratio.min, ratio.max))
    return median if low == high else f"{median} ({low} to {high})"
