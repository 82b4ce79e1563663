"""The page itself: findings and charts into one HTML file that asks nothing of the network."""

from pathlib import Path

from clinscale.errors import DataError
from clinscale.registry import Tracking
from clinscale.report.charts import learning_charts, search_chart
from clinscale.report.gather import gather
from clinscale.report.recorded import finite
from clinscale.storage import atomic_path
from clinscale.units import format_seconds
from clinscale.visible import visible

_ABSENT = "–"


def write_report(tracking: Tracking, out: str | Path) -> Path:
    """Write the page at `out`; readers see the old page or the whole new one.

    The same registry gives the same bytes. Raises RegistryError when the server fails, DataError when there is no
    place for `out`.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _score,
        "interval": _interval,
        "perplexity": _perplexity,
        "seconds": lambda value: _ABSENT if value is None else format_seconds(value),
        "count": lambda value: _ABSENT if value is None else f"{value:,.0f}",
        "or_absent": lambda value: _ABSENT if value in (None, "") else value,
        "setting": _setting,
    }
    html = environment.get_template("page.html.jinja").render(
        found=gather(tracking),
        learning_charts=lambda base: [markupsafe.Markup(chart) for chart in learning_charts(base)],
        search_chart=lambda sweep: markupsafe.Markup(search_chart(sweep)),
    )
    path = Path(out)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(visible(html), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"report {path} cannot be written ({error.strerror or type(error).__name__}); make room or fix its "
            "permissions, or give another file name"
        ) from None
    return path


def _score(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return _ABSENT if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _perplexity(value: float | None) -> str:
    if value is None:
        return _ABSENT
    if finite(value) is None:
        return "not finite"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _setting(text: str | None) -> str:
    """A hyperparameter short enough for a table: numbers with four digits, all else as logged."""
    if text is None:
        return _ABSENT
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.4g}"
