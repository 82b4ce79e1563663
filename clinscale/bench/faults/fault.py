"""A fault: what is done to real processes and files, and what must hold afterwards."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clinscale.bench.faults.ground import Ground


@dataclass(frozen=True)
class Outcome:
    """Cost of one survived try."""

    lost_steps: int | None = None
    """Steps that were done again; None where it is not measured."""
    recovery: float | None = None
    """Time until the next new step, over that of a cold start; None where it is not measured."""


class NotStruckError(Exception):
    """The work was over before the chosen moment, so that nothing was done to it; its text is shown."""


@dataclass(frozen=True)
class Scene:
    """One try of a fault."""

    folder: Path
    """An empty folder of its own."""
    rng: random.Random
    """Chooses the moment and the victim; the same for the same seed, fault, try and moment of it."""
    ground: Ground
    """Undisturbed work to begin from and to compare with."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and how it is tried."""

    name: str
    demanded: str
    """Rule that must hold at every try."""
    attempt: Callable[[Scene], Outcome]
    """Does it once; LossError where what is demanded does not hold, NotStruckError where it came too late."""
    why_not: Callable[[], str | None] = lambda: None
    """Reason why it cannot be done on this machine; None where it can."""
