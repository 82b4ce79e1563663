import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.errors import ConfigError
from clinscale.units import Duration, format_bytes, format_seconds


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("200steps", Duration(200, "steps")),
        (" 200 steps ", Duration(200, "steps")),
        ("1step", Duration(1, "steps")),
        ("1e9tokens", Duration(1e9, "tokens")),
        ("0.5epochs", Duration(0.5, "epochs")),
        ("1e-3epochs", Duration(0.001, "epochs")),
    ],
)
def test_duration_reads(text, duration):
    assert Duration.parse(text) == duration


@pytest.mark.parametrize("text", ["200", "steps", "0steps", "-5steps", "1e999steps", "1.2.3steps", "5parsecs", ""])
def test_duration_refuses_what_has_no_unit_or_is_no_positive_number(text):
    with pytest.raises(ConfigError, match="write 200steps"):
        Duration.parse(text)


@given(
    st.floats(min_value=1e-9, max_value=1e18, exclude_min=True) | st.integers(1, 10**15),
    st.sampled_from(["steps", "tokens", "epochs"]),
)
def test_duration_text_reads_back_exactly(value, unit):
    """A recipe is stored as text: rounding it would make another experiment of it."""
    duration = Duration(value, unit)
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "steps"), [("7steps", 7), ("2epochs", 20), ("0.5epochs", 5), ("8000tokens", 2), ("1tokens", 1)]
)
def test_duration_in_steps(text, steps):
    assert Duration.parse(text).steps(rows=40, rows_per_step=4, tokens_per_row=1000) == steps


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (78 * 2**30, "78.0 GiB"), (3 * 2**50, "3072.0 TiB")],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2s"),
        (59.4, "59.4s"),
        (59.6, "1m00s"),
        (95, "1m35s"),
        (3599.7, "1h00m"),
        (90061, "25h01m"),
        (172799.4, "47h59m"),
        (2 * 86400 + 7300, "2d02h"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
