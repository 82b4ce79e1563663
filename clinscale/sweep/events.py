"""The lines of a ledger's file, one event each."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

State = Literal["running", "paused", "lost", "complete", "pruned", "failed"]
"""`paused` at a rung, where it may be promoted; `lost` with its process, to be started again; the others are final."""

Reason = Literal["not_a_number", "out_of_memory", "over_time", "error", "lost"]
"""Reason why a trial failed; the first three are limits of the settings, which the sampler learns from."""


class _Fields(BaseModel):
    """Fields that are checked to be what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Line(_Fields):
    """One line of the file on one trial."""

    event: str
    study: int
    number: int


class StartLine(Line):
    """A new trial runs."""

    event: Literal["start"]
    params: dict[str, JsonValue]
    origin: str
    seed: int
    of: int | None = None
    system_attrs: dict[str, JsonValue]


class ResumeLine(Line):
    """A paused or lost trial runs again."""

    event: Literal["resume"]


class LookLine(Line):
    """A look inside the first epoch."""

    event: Literal["look"]
    at: str
    epoch: float
    objective: float | None
    seconds: float
    metrics: dict[str, float]
    message: str


class EpochLine(Line):
    """An epoch has ended."""

    event: Literal["epoch"]
    epoch: int
    objective: float
    seconds: float
    metrics: dict[str, float]


class EndLine(Line):
    """The trial pauses or ends."""

    event: Literal["end"]
    state: State
    reason: Reason | None
    message: str


class CloseLine(_Fields):
    """The search of a study has stopped, as it no longer pays."""

    event: Literal["close"]
    study: int
    trials: int
    gain: float
    limit: float


TrialEvent = StartLine | ResumeLine | LookLine | EpochLine | EndLine
"""One line on a trial."""

Event = TrialEvent | CloseLine
"""One line of the file."""
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
"""Reads a line."""
