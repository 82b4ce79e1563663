"""Numbers that runs and versions recorded, as tags and as metrics."""

_ENDLESS = 1e300
"""Beyond it a metric was infinite: MLflow's databases keep the largest number that they can in its place."""


def finite(value: float | None) -> float | None:
    """A metric as it was logged: no number and infinity, as of a run that diverged, count as not recorded."""
    return value if value is not None and abs(value) < _ENDLESS else None


def recorded_number(text: str | None) -> float | None:
    """The number in a tag, which anybody may edit: what is no finite number counts as not recorded."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return finite(value)
