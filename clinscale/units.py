"""Durations and sizes that carry their unit, so that no bare integer is ambiguous."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from clinscale.errors import ConfigError

DurationUnit = Literal["steps", "tokens", "epochs"]


@dataclass(frozen=True)
class Duration:
    """Length of a training, written `200steps`, `1e9tokens` or `2epochs` (OLMo-core's idea of a Duration)."""

    value: float
    unit: DurationUnit

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read `"200 steps"`; raises ConfigError for anything else than a positive number and a known unit."""
        units = get_args(DurationUnit)
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)\s*", text)
        unit = match and next((known for known in units if match[2] in (known, known[:-1])), None)
        try:
            value = float(match[1]) if match and unit else 0.0
        except ValueError:
            value = 0.0
        if unit is None or not 0 < value < math.inf:
            raise ConfigError(
                f"a duration must be a positive number and one of {', '.join(units)}, got {text!r}; write 200steps"
            )
        return cls(value, unit)

    def steps(self, *, rows: int, rows_per_step: float, tokens_per_row: int) -> int:
        """The number of optimizer steps this duration means for a corpus of `rows`; at least one.

        `rows_per_step` is the mean global batch.
        """
        exact = {
            "steps": self.value,
            "tokens": self.value / (rows_per_step * tokens_per_row),
            "epochs": self.value * rows / rows_per_step,
        }[self.unit]
        return max(1, round(exact))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        whole = int(self.value) == self.value
        return f"{int(self.value) if whole else self.value}{self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a Duration be its text form in configs."""

        def validate(value: Any) -> Duration:
            try:
                return value if isinstance(value, cls) else cls.parse(str(value))
            except ConfigError as error:
                raise ValueError(error) from None  # so that pydantic adds the key

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.to_string_ser_schema()
        )


def format_bytes(count: float) -> str:
    """`1536` as `1.5 KiB`, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """`95` as `1m35s`, for people; from two days on `2d00h`."""
    whole = round(seconds)
    if whole >= 2 * 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{seconds:.1f}s"


def format_days(days: float) -> str:
    """`0.25` as `6h00m`, for people."""
    return format_seconds(86400 * days)
