import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from clinscale.report.charts import learning_charts, search_chart
from clinscale.report.gather import Base, Sweep, TrialRow


def base(name="notes-base", loss=(), perplexity=()):
    return Base(name, "FINISHED", (), None, list(loss), list(perplexity), None, None)


def sweep(values, name="search", won=0):
    rows = tuple(
        TrialRow(number, f"t{number}", "FINISHED", value, 1, 1.0, {}, number == won)
        for number, value in enumerate(values, 1)
    )
    return Sweep(name, "FINISHED", "demo", "f1", rows, ())


CURVE = [(0, 7.0), (10, 5.0), (20, 4.5)]


def test_charts_take_colours_and_font_from_the_page():
    for chart in [*learning_charts(base(loss=CURVE, perplexity=CURVE)), search_chart(sweep([0.2, 0.5], won=2))]:
        assert not re.findall(r"(?:fill|stroke): #\w+", chart), "a colour of its own would not follow the scheme"
        assert "font-family" not in chart
        assert "var(--series-1)" in chart or "var(--series-2)" in chart
        assert "<text" in chart, "text stays text"
        assert not re.findall(r"(?:href|src)=\"(?!#)", chart)


def test_a_chart_says_what_it_shows_to_those_who_hear_it():
    [chart] = learning_charts(base(loss=CURVE))
    spoken = ElementTree.fromstring(chart).get("aria-label")
    assert spoken == "Training loss of notes-base by step, from 7.00 to 4.50."
    spoken = ElementTree.fromstring(search_chart(sweep([0.2, None, 0.5], won=3))).get("aria-label")
    assert "2 trials" in spoken
    assert "trial 3 with 0.500" in spoken


@pytest.mark.parametrize("name", ["a$x$b", r"back\1slash", "<script>", '"quoted" & more'])
def test_names_of_any_kind_make_well_formed_charts(name):
    charts = [*learning_charts(base(name, loss=CURVE)), search_chart(sweep([0.5, 0.6], name))]
    for chart in charts:
        assert name in ElementTree.fromstring(chart).get("aria-label")


@pytest.mark.parametrize(
    "curve",
    [
        [(0, 2000.0), (10, 3.0)],
        [(0, math.nan), (10, 3.0), (20, 2.0)],
        [(0, 5.0), (10, math.inf), (20, 2.0)],
        [(0, 0.0), (10, 0.0)],
        [(0, 1e300), (10, 2.0), (20, 1.0)],
        [(step, 1.0 + step) for step in range(100_000, 100_100)],
    ],
    ids=["many decades", "nan", "infinite", "zero", "overflowed", "long"],
)
def test_curves_of_any_shape_are_drawn(curve):
    assert len(learning_charts(base(loss=curve, perplexity=curve))) == 2


def test_nothing_is_drawn_from_nothing():
    assert learning_charts(base(loss=[(0, 1.0)], perplexity=[(0, math.nan), (1, 2.0)])) == []
    assert search_chart(sweep([None, None])) == ""
    assert search_chart(sweep([])) == ""


def test_the_same_findings_make_the_same_drawing_and_two_share_no_ids():
    first, again, other = (search_chart(sweep([0.1, 0.4], name)) for name in ("a", "a", "b"))
    assert first == again
    ids = [set(re.findall(r' id="([^"]+)"', chart)) for chart in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
