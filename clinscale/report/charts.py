"""Charts as inline SVG: no pixels, no fonts, no colours of their own, so that one drawing serves light, dark and paper.

Matplotlib draws with the marker colours of `_INKS`, which are then replaced by CSS variables of the page.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clinscale.report.gather import Base, Curve, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INKS = {
    "#a00001": "var(--ink-soft)",
    "#a00002": "var(--rule)",
    "#a00003": "var(--series-1)",
    "#a00004": "var(--series-2)",
    "#a00005": "var(--paper)",
}
_TEXT, _RULE, _FIRST, _SECOND, _PAPER = _INKS

_DRAWN = 1e15
"""Beyond it matplotlib finds no ticks."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a task may be called `$x$`
    "font.size": 10,
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": _TEXT,
    "axes.labelsize": 10,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _TEXT,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "text.color": _TEXT,
    "xtick.color": _RULE,
    "xtick.labelcolor": _TEXT,
    "ytick.color": _RULE,
    "ytick.labelcolor": _TEXT,
    "ytick.left": False,
    "ytick.minor.left": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def learning_charts(base: Base) -> list[str]:
    """Training loss, and perplexity on held-out notes, by step; what has less than two points is left out."""
    return [
        _curve_chart(base.name, title, _drawable(curve), ink)
        for title, curve, ink in (
            ("Training loss", base.loss, _SECOND),
            ("Perplexity on held-out notes", base.perplexity, _FIRST),
        )
        if len(_drawable(curve)) > 1
    ]


def _curve_chart(name: str, title: str, curve: Curve, ink: str) -> str:
    steps, values = zip(*curve, strict=True)
    with _figure(4.8, 2.7) as (figure, place):
        place.plot(steps, values, color=ink, marker="o" if len(curve) < 20 else "", markersize=3.5)
        place.set_title(title, pad=10)
        place.set_xlabel("step")
        place.margins(x=0.02, y=0.08)
        if min(values) > 0 and max(values) > 20 * min(values):
            _log_scale(place, values)
        _whole_numbers(place)
        return _svg(figure, f"{title} of {name} by step, from {values[0]:,.2f} to {values[-1]:,.2f}.")


def search_chart(sweep: Sweep) -> str:
    """The score of each trial and the best so far, by trial number; empty when no trial has a score."""
    scored = [
        (trial.number, trial.value, trial.won)
        for trial in sweep.trials
        if trial.value is not None and abs(trial.value) < _DRAWN
    ]
    if not scored:
        return ""
    numbers = [number for number, _, _ in scored]
    values = [value for _, value, _ in scored]
    best = [max(values[: index + 1]) for index in range(len(values))]
    winner = next(((number, value) for number, value, won in scored if won), None)
    with _figure(9.6, 2.7) as (figure, place):
        ends = [*numbers, numbers[-1] + 0.5]
        place.plot(ends, [*best, best[-1]], color=_FIRST, drawstyle="steps-post", label="best so far", zorder=2)
        place.scatter(
            numbers, values, s=26, color=_SECOND, edgecolor=_PAPER, linewidth=0.8, label="trial", zorder=3
        )
        if winner:
            place.scatter(
                *winner, s=95, facecolor="none", edgecolor=_FIRST, linewidth=1.7, label="winner", zorder=4
            )
        place.set_xlabel("trial")
        place.set_title(f"{sweep.metric} on the development split", pad=10)
        place.set_xlim(0.4, max(len(sweep.trials), 1) + 0.6)
        place.margins(y=0.14)
        _whole_numbers(place)
        place.legend(loc="lower left", bbox_to_anchor=(0.62, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.4)
        said = f" The winner is trial {winner[0]} with {winner[1]:.3f}." if winner else ""
        return _svg(
            figure,
            f"{sweep.metric} of {len(scored)} trials of sweep {sweep.name} on the development split, "
            f"from {min(values):.3f} to {max(values):.3f}.{said}",
        )


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """A drawing of `width` by `height` inches in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _svg(figure: "Figure", spoken: str) -> str:
    """The drawing as an `<svg>` element that takes its colours and font from the page."""
    import markupsafe
    import matplotlib

    buffer = io.StringIO()
    bare = {"Date": None, "Creator": None, "Format": None}
    with matplotlib.rc_context({"svg.hashsalt": spoken}):  # ids stay the same, and no two charts share them
        figure.savefig(buffer, format="svg", transparent=True, metadata=bare)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)  # not referred to, and the same in every chart
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg).replace("xlink:href", "href")
    for marker, variable in _INKS.items():
        svg = svg.replace(marker, variable)
    _, viewbox, _, drawing = re.split(r'<svg [^>]*?(viewBox="[^"]*")([^>]*>)', svg, maxsplit=1)
    return f'<svg {viewbox} role="img" aria-label="{markupsafe.escape(spoken)}">{drawing}'


def _drawable(curve: Curve) -> Curve:
    """The points that an axis can hold: neither not-a-number nor the astronomic perplexities of a run that diverged."""
    return [(step, value) for step, value in curve if abs(value) < _DRAWN]


def _log_scale(place: "Axes", values: tuple[float, ...]) -> None:
    """A logarithmic axis with plain numbers: people read 2,000, not 2e3."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    place.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    place.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
    place.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    place.yaxis.set_minor_formatter(NullFormatter())


def _whole_numbers(place: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    place.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
