"""Dimensions of a search space: ranges of numbers and choices, as Optuna's distributions."""

import math
import reprlib
import statistics
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from clinscale.config import Config
from clinscale.engine import SMALLEST_FP32
from clinscale.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_LARGEST = 2**53
"""Largest whole number up to which a float, in which Optuna counts, holds every one."""

_MOST_STEPS = 1_000_000
"""Most values of a range whose step Optuna knows of."""


class Prior(Config):
    """A published setting, and how far from it the best one may be."""

    center: bool | int | float | str | None
    """The value that others found best."""

    spread: float = 0.2
    """Standard deviation around it as a share of the range, in the logarithm where the range is; of choices, the
    probability that another one is best."""

    def check(self) -> None:
        """The spread is a share."""
        if not 0 < self.spread < 1:
            raise ConfigError(
                f"search space: the spread of a prior must be between 0 and 1, got {self.spread}; 0.2 is usual"
            )


class _Dimension(Config):
    """The common part of all dimensions."""

    prior: Prior | None = None
    """A published value; it counts less with each trial, so that a wrong one is overcome."""

    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Searched only where each of these parameters, listed above it, has one of these values; else the recipe's own
    value holds."""

    def active(self, params: Mapping[str, Any]) -> bool:
        """Whether it is searched at a point whose parameters so far are `params`."""
        return all(key in params and params[key] in values for key, values in self.when.items())

    @model_serializer(mode="wrap")
    def _without_absent_prior(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sweeps begun before there were priors keep their fingerprint."""
        return {key: value for key, value in dump(self).items() if key != "prior" or value is not None}

    def _check_prior(self) -> None:
        if self.prior is not None and not self.holds(self.prior.center):  # type: ignore[attr-defined]
            raise ConfigError(
                f"search space: the center of a prior must be {self.description()}, got "  # type: ignore[attr-defined]
                f"{reprlib.repr(self.prior.center)}; correct it"
            )


class _Range(_Dimension):
    """Numbers between two ends."""

    def check(self) -> None:
        """The range is a range."""
        low, high, step = self.low, self.high, self.step  # type: ignore[attr-defined]
        if low > high:
            raise ConfigError(f"search space: low must not exceed high, got low={low} and high={high}; swap them")
        if self.log and low < SMALLEST_FP32:  # type: ignore[attr-defined]
            raise ConfigError(
                f"search space: a log range must start above 0, at {SMALLEST_FP32:.1e} or more, got low={low}; "
                "raise low, or drop log"
            )
        if self.log and step not in (None, 1):  # type: ignore[attr-defined]
            raise ConfigError("search space: log and step exclude each other (Optuna); drop one of the two")
        if step is not None and step <= 0:
            raise ConfigError(
                f"search space: step must be above 0, got {step}; leave it out for all values of the range"
            )
        if step is not None and low < high and _decimal(step) > _decimal(high) - _decimal(low):
            raise ConfigError(
                f"search space: step must be at most the range, or there is one value alone, got step={step} from "
                f"{low} to {high}; lower it, or fix the parameter"
            )
        if max(abs(low), abs(high)) > _LARGEST:
            raise ConfigError(f"search space: low and high must be within {_LARGEST:g} of 0; narrow the range")
        self._check_prior()

    def examples(self) -> list[Any]:
        """The least and the greatest value, and those between them that need not be whole, or even, where they are."""
        return [self.at(0.0), self._second(), self.at(1 / math.e), self._last()]  # type: ignore[attr-defined]

    def holds(self, value: Any) -> bool:
        """Whether it is a value that a trial can have: a number of this type, between the ends, on the step."""
        low, high, step = self.low, self.high, self.step  # type: ignore[attr-defined]
        if type(value) not in self.numbers or not low <= value <= high:  # type: ignore[attr-defined]
            return False
        # in decimals, as Optuna counts: 0.1 taken three times is 0.3
        return step is None or (_decimal(value) - _decimal(low)) % _decimal(step) == 0

    def description(self) -> str:
        """The values that `holds` accepts, in words."""
        low, high, step = self.low, self.high, self.step  # type: ignore[attr-defined]
        kind = "a whole number" if self.numbers == (int,) else "a number"  # type: ignore[attr-defined]
        return f"{kind} from {low} to {high}" + (f" in steps of {step}" if step not in (None, 1) else "")

    def share(self, value: float) -> float:
        """Place of `value` between the ends, 0 to 1."""
        low, high = self.low, self.high  # type: ignore[attr-defined]
        if low == high:
            return 0.0
        if self.log:  # type: ignore[attr-defined]
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def at_prior(self, share: float) -> Any:
        """The value below which the prior has `share` of its probability; without a prior as `at`."""
        if self.prior is None:
            return self.at(share)  # type: ignore[attr-defined]
        place = self.share(self.prior.center)  # type: ignore[arg-type]
        place += self.prior.spread * statistics.NormalDist().inv_cdf(min(max(share, 1e-6), 1 - 1e-6))
        return self.at(min(max(place, 0.0), 1 - 1e-9))  # type: ignore[attr-defined]


class FloatDimension(_Range):
    """A real number; Optuna's FloatDistribution."""

    type: Literal["float"]
    """Type of the dimension."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Sample evenly in the logarithm."""
    step: float | None = None
    """Distance of the values allowed; not together with `log`."""

    numbers: ClassVar = (float, int)

    def distribution(self) -> "BaseDistribution":
        """The dimension as Optuna's distribution."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self._known_step)

    def suggest(self, trial: "Trial", name: str) -> float:
        """The value that an Optuna trial chooses, on its step to the last bit: conditions ask for 0.3, not 3 * 0.1."""
        found = float(trial.suggest_float(name, self.low, self.high, log=self.log, step=self._known_step))
        if self.step is None:
            return found
        return self._value(min(round((found - self.low) / self.step), self._count() - 1))

    @property
    def _known_step(self) -> float | None:
        """The step that Optuna knows of: in floats, the values of a very small one would be off it."""
        return self.step if self.step is not None and self._count() <= _MOST_STEPS else None

    def at(self, share: float) -> float:
        """The value at `share` (0 to below 1) of the way."""
        if self.log:
            return min(self.high, float(self.low * (self.high / self.low) ** share))
        if self.step is None:
            return self.low + share * (self.high - self.low)
        return self._value(int(share * self._count()))

    def count(self) -> int | None:
        """Number of its values; None where there is no end of them."""
        if self.low == self.high:
            return 1
        return None if self.step is None else self._count()

    def grid(self) -> list[float] | None:
        """All values; None where there is no end of them."""
        if self.low == self.high:
            return [self.low]
        return None if self.step is None else [self._value(index) for index in range(self._count())]

    def _second(self) -> float:
        return self.low if self.step is None else self._value(min(1, self._count() - 1))

    def _last(self) -> float:
        return self.high if self.step is None else self._value(self._count() - 1)

    def _count(self) -> int:
        return int((_decimal(self.high) - _decimal(self.low)) / _decimal(self.step)) + 1

    def _value(self, index: int) -> float:
        return float(_decimal(self.low) + _decimal(self.step) * index)


class IntDimension(_Range):
    """A whole number; Optuna's IntDistribution."""

    type: Literal["int"]
    """Type of the dimension."""
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Sample evenly in the logarithm."""
    step: int = 1
    """Distance of the values allowed."""

    numbers: ClassVar = (int,)

    def distribution(self) -> "BaseDistribution":
        """The dimension as Optuna's distribution."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: "Trial", name: str) -> int:
        """The value that an Optuna trial chooses."""
        return int(trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step))

    def at(self, share: float) -> int:
        """The value at `share` (0 to below 1) of the way."""
        if self.log:
            return min(self.high, int(self.low * float((self.high + 1) / self.low) ** share))
        return self._values[int(share * len(self._values))]

    def count(self) -> int:
        """Number of its values."""
        return len(self._values)

    def grid(self) -> list[int]:
        """All values."""
        return list(self._values)

    @property
    def _values(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def _second(self) -> int:
        return self._values[:2][-1]

    def _last(self) -> int:
        return self._values[-1]


class CategoricalDimension(_Dimension):
    """One of a few values; Optuna's CategoricalDistribution."""

    type: Literal["categorical"]
    """Type of the dimension."""
    choices: tuple[bool | int | float | str | None, ...] = Field(min_length=1)
    """The values."""

    def check(self) -> None:
        """The choices are of one type (whole and real numbers count as one) and different."""
        kinds = {float if type(choice) is int else type(choice) for choice in self.choices if choice is not None}
        if len(kinds) > 1:
            raise ConfigError(
                f"choices must be of one type, got {', '.join(sorted(k.__name__ for k in kinds))}; write all of them "
                "as one"
            )
        if len(set(self.choices)) < len(self.choices):
            raise ConfigError(f"choices must differ from each other, got {list(self.choices)}; drop the repeats")
        self._check_prior()

    def distribution(self) -> "BaseDistribution":
        """The dimension as Optuna's distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def suggest(self, trial: "Trial", name: str) -> Any:
        """The value that an Optuna trial chooses."""
        return trial.suggest_categorical(name, self.choices)

    def examples(self) -> list[Any]:
        """All of them."""
        return list(self.choices)

    def holds(self, value: Any) -> bool:
        """Whether it is one of the choices; true is not 1."""
        return any(value == choice and (type(value) is bool) is (type(choice) is bool) for choice in self.choices)

    def description(self) -> str:
        """The choices, in words."""
        return f"one of {', '.join(map(repr, self.choices))}"

    def at(self, share: float) -> Any:
        """The choice at `share` (0 to below 1) of the way."""
        return self.choices[int(share * len(self.choices))]

    def at_prior(self, share: float) -> Any:
        """The choice below which the prior has `share` of its probability; without a prior as `at`."""
        if self.prior is None or len(self.choices) == 1:
            return self.at(share)
        if share >= self.prior.spread:
            return self.prior.center
        others = [choice for choice in self.choices if choice != self.prior.center]
        return others[int(share / self.prior.spread * len(others))]

    def count(self) -> int:
        """Number of them."""
        return len(self.choices)

    def grid(self) -> list[Any]:
        """All of them."""
        return list(self.choices)


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


def _decimal(number: Any) -> Decimal:
    return Decimal(str(number))
