"""Answer of a bench: ratios to the peer, where they were measured, and the figures behind them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Machine:
    """The machine that measured."""

    processor: str
    cpus: int | None
    threads: int
    """Threads of torch."""
    device: str
    """The GPU's name, or `cpu`."""
    system: str


@dataclass(frozen=True)
class Surroundings:
    """The head of a record: what was measured, on what, and beside how much other work."""

    what: str
    """The bench's name, as in `clinscale bench NAME`."""
    machine: Machine
    versions: Mapping[str, str]
    """Versions of Python and of the packages that are measured."""
    load: tuple[float, ...]
    """Load of the machine over 1, 5 and 15 minutes, as the bench began."""


@dataclass(frozen=True)
class Ratio:
    """The peer's cost over clinscale's, or another ratio that the bench's docstring names; None is infinite."""

    median: float | None
    min: float | None
    max: float | None
    asked: float | None
    """The figure that the project set itself for one thread of a CPU, or for a GPU; None for none."""
    more: Mapping[str, float | None] = field(default_factory=dict)
    """Figures that only some benches have of a ratio, such as an interval."""

    def plain(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"median": self.median, "min": self.min, "max": self.max, **self.more, "asked": self.asked}


OnRatio = Callable[[str, Ratio], None]
"""Takes each ratio by its name as soon as it is measured."""


def say_nothing(name: str, found: Ratio) -> None:
    """Take a ratio, and leave it to the record."""


class Ratios(dict[str, Ratio]):
    """Ratios by name; `on_ratio` gets each one as it comes, so that nobody waits for the last to see the first."""

    def __init__(self, on_ratio: OnRatio) -> None:
        super().__init__()
        self._on_ratio = on_ratio

    def __setitem__(self, name: str, found: Ratio) -> None:
        """Keep a ratio, and hand it on."""
        super().__setitem__(name, found)
        self._on_ratio(name, found)


@dataclass(frozen=True)
class PeakMemory:
    """Sizes of a small and a large file, and the most memory that was held while each was read."""

    small_bytes: int
    peak_small_bytes: int
    large_bytes: int
    peak_large_bytes: int


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One bench on one machine; `a` is the peer's side and `b` clinscale's."""

    surroundings: Surroundings
    ratios: Mapping[str, Ratio]
    at_most: tuple[str, ...] = ()
    """Names of the ratios that should not be larger than what was asked; the others should not be smaller."""
    equal: Literal[True] = True
    """Both sides gave the same before anything was timed; a bench whose sides differ raises, and has no record."""
    mb_per_s: Mapping[str, Mapping[str, float]] | None = None
    """Megabytes a second by ratio and side; None in a bench that reads no files."""
    memory: Mapping[str, PeakMemory] | None = None
    """Memory by what was watched; None in a bench that watches none."""
    per_s: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    """Speeds by ratio, side and unit; None in a bench that counts no units."""
    details: Mapping[str, Any]
    """Figures behind the ratios under the bench's own names, for people and their files; clinscale reads none."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready; what this bench does not have is left out."""
        memory = None if self.memory is None else {name: asdict(peak) for name, peak in self.memory.items()}
        values = {
            **asdict(self.surroundings),
            "ratios": {name: ratio.plain() for name, ratio in self.ratios.items()},
            "at_most": list(self.at_most) or None,
            "equal": self.equal,
            "mb_per_s": self.mb_per_s,
            "memory": memory,
            "per_s": self.per_s,
            "details": self.details,
        }
        return {key: value for key, value in values.items() if value is not None}
