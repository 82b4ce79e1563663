"""Search spaces: YAML in, Optuna's distributions out, every value checked against the fine-tuning recipe."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

import clinscale
from clinscale.config import Config, key_paths, merge, nearest, nest, read_yaml
from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class FloatDimension(Config):
    """A real number; Optuna's FloatDistribution."""

    type: Literal["float"]
    """Which kind of dimension this is."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Sample evenly in the logarithm."""
    step: float | None = None
    """Distance of the values allowed; not together with `log`."""

    def check(self) -> None:
        """The range is a range."""
        _check_range(self)

    def distribution(self) -> "BaseDistribution":
        """For Optuna."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def examples(self) -> list[Any]:
        """Its ends."""
        return [self.low, self.high]

    def at(self, share: float) -> float:
        """The value at `share` (0 to below 1) of the way."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        if self.step is None:
            return self.low + share * (self.high - self.low)
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        return self.low + self.step * int(share * (steps + 1))

    def share(self, value: float) -> float:
        """Where `value` lies between the ends, 0 to 1: what `at` undoes."""
        if self.low == self.high:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class IntDimension(Config):
    """A whole number; Optuna's IntDistribution."""

    type: Literal["int"]
    """Which kind of dimension this is."""
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Sample evenly in the logarithm."""
    step: int = 1
    """Distance of the values allowed."""

    def check(self) -> None:
        """The range is a range."""
        _check_range(self)

    def distribution(self) -> "BaseDistribution":
        """For Optuna."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def examples(self) -> list[Any]:
        """Its ends."""
        return [self.low, self.high]

    def at(self, share: float) -> int:
        """The value at `share` (0 to below 1) of the way."""
        if self.log:
            return min(self.high, int(self.low * ((self.high + 1) / self.low) ** share))
        return self.low + self.step * int(share * ((self.high - self.low) // self.step + 1))

    def share(self, value: int) -> float:
        """Where `value` lies between the ends, 0 to 1."""
        if self.low == self.high:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class CategoricalDimension(Config):
    """One of a few values; Optuna's CategoricalDistribution."""

    type: Literal["categorical"]
    """Which kind of dimension this is."""
    choices: tuple[bool | int | float | str | None, ...] = Field(min_length=1)
    """The values, all of one type."""

    def check(self) -> None:
        """Choices are of one type (whole and real numbers count as one) and different."""
        kinds = {float if type(choice) is int else type(choice) for choice in self.choices if choice is not None}
        if len(kinds) > 1:
            raise ConfigError(f"choices must be of one type, got {', '.join(sorted(k.__name__ for k in kinds))}")
        if len(set(self.choices)) < len(self.choices):
            raise ConfigError(f"choices must differ from each other, got {list(self.choices)}")

    def distribution(self) -> "BaseDistribution":
        """For Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def examples(self) -> list[Any]:
        """All of them."""
        return list(self.choices)

    def at(self, share: float) -> Any:
        """The choice at `share` (0 to below 1) of the way."""
        return self.choices[int(share * len(self.choices))]


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


class SearchSpace(Config):
    """Which fields of the fine-tuning recipe are searched, which are fixed, and what is tried first."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields (dotted) with one value for all trials."""

    parameters: dict[str, Dimension]
    """Recipe fields (dotted) that are searched."""

    first_trials: tuple[dict[str, Any], ...] = ()
    """Points tried before the sampler takes over: published settings, or the winners of earlier sweeps."""

    def check(self) -> None:
        """Every key is a field of the recipe, every end of every range is a legal value there."""
        if not self.parameters:
            raise ConfigError("a search space needs at least one entry under parameters")
        known = [path for path in key_paths(FinetuneRecipe) if path != "model"]
        for key in [*self.fixed, *self.parameters]:
            if key not in known:
                raise ConfigError(
                    f"search space: {key} is no field of the fine-tuning recipe; {nearest(key, known)}"
                )
        both = sorted(set(self.fixed) & set(self.parameters))
        if both:
            raise ConfigError(f"search space: {both[0]} is both fixed and searched; drop one of the two")
        for point in self.first_trials:
            odd = sorted(set(point) ^ set(self.parameters))
            if odd:
                raise ConfigError(f"search space: each first trial gives every parameter once; look at {odd[0]}")
            self.recipe("-", point)
        anchor = {key: dimension.examples()[0] for key, dimension in self.parameters.items()}
        for key, dimension in self.parameters.items():
            for value in dimension.examples():
                self.recipe("-", anchor | {key: value})

    def recipe(self, model: str, sampled: Mapping[str, Any], seed: int = 0) -> FinetuneRecipe:
        """The fine-tuning that one point of the space means."""
        values = merge(nest(self.fixed), nest(sampled))
        return FinetuneRecipe.parse({"seed": seed, **values, "model": model}, source="search space")

    def distributions(self) -> "dict[str, BaseDistribution]":
        """For OptunaSearch."""
        return {key: dimension.distribution() for key, dimension in self.parameters.items()}


def load_space(path_or_names: str | Path | list[str]) -> SearchSpace:
    """The space in a YAML file, or the first of `names` (task, then kind) that `search_spaces/` has.

    Raises:
        ConfigError: no such file, an unknown field, or an empty or inverted range.
    """
    if not isinstance(path_or_names, list):
        return SearchSpace.load(path_or_names)
    folder = spaces_folder()
    for name in path_or_names:
        if (folder / f"{name}.yaml").exists():
            defaults = read_yaml(folder / "_defaults.yaml")
            own = read_yaml(folder / f"{name}.yaml")
            return SearchSpace.parse(merge(defaults, own), source=f"search_spaces/{name}.yaml")
    raise ConfigError(f"search_spaces/ has no space for {' or '.join(path_or_names)}; give one with --space FILE")


def spaces_folder() -> Path:
    """Where the spaces that clinscale ships lie: in the wheel, or beside the package in a checkout."""
    package = Path(clinscale.__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def _check_range(dimension: FloatDimension | IntDimension) -> None:
    low, high = dimension.low, dimension.high
    if low > high:
        raise ConfigError(f"search space: low must not exceed high, got low={low} and high={high}; swap them")
    if dimension.log and low <= 0:
        raise ConfigError(f"search space: a log range must start above 0, got low={low}")
    if dimension.log and dimension.step not in (None, 1):
        raise ConfigError("search space: log and step exclude each other (Optuna); drop one of the two")
