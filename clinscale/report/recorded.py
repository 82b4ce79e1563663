"""Numbers that runs and versions recorded as tags."""

import math


def recorded_number(text: str | None) -> float | None:
    """The number in a tag, which anybody may edit: what is no finite number counts as not recorded."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
