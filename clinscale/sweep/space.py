"""Search spaces: YAML in, Optuna's distributions out, every value checked against the fine-tuning recipe."""

import itertools
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter

import clinscale
from clinscale.config import Config, key_paths, merge, nearest, nest
from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe
from clinscale.strict_yaml import read_yaml
from clinscale.sweep.dimensions import CategoricalDimension, Dimension, FloatDimension

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


class Constraints(Config):
    """Limits that a trial must keep to; one that does not is infeasible, which the sampler learns from."""

    minutes_per_trial: float | None = None
    """Device-minutes of a whole trial; one whose first epoch shows that it will need more is ended there."""

    memory_gb: float | None = None
    """Memory that one trial may use: of its GPU, or of the host where there is none."""

    def check(self) -> None:
        """Limits are positive."""
        for name in ("minutes_per_trial", "memory_gb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(
                    f"search space: constraints.{name} must be above 0, got {value:g}; null is no limit"
                )


class SearchSpace(Config):
    """Fields of the fine-tuning recipe that are searched, those that are fixed, and the first trials."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Recipe fields (dotted) with one value for all trials."""

    parameters: dict[str, Dimension]
    """Recipe fields (dotted) that are searched."""

    first_trials: tuple[dict[str, Any], ...] = ()
    """Points tried before the sampler takes over: published settings, or the winners of earlier sweeps."""

    constraints: Constraints = Constraints()
    """Limits that a trial must keep to."""

    def check(self) -> None:
        """Every key is a field of the recipe, every end of every range is a legal value there."""
        if not self.parameters:
            raise ConfigError("a search space needs at least one entry under parameters, got none; add one")
        known = [path for path in key_paths(FinetuneRecipe) if path not in ("model", "seed")]
        for key in [*self.fixed, *self.parameters]:
            if key == "seed":  # it would be that of every trial, of those of other seeds as well
                raise ConfigError(
                    "search space: seed must be left to recipe.seed of the sweep, and to confirm_seeds for several; "
                    "take it out of the space"
                )
            if key not in known:
                raise ConfigError(
                    f"search space: {key} is no field of the fine-tuning recipe; {nearest(key, known)}"
                )
        both = sorted(set(self.fixed) & set(self.parameters))
        if both:
            raise ConfigError(f"search space: {both[0]} is both fixed and searched; drop one of the two")
        self._check_conditions()
        for point in self.first_trials:
            odd = sorted(
                set(point) ^ set(self.active(point)) | set(self.active(point)) ^ set(self._searched_at(point))
            )
            if odd:
                raise ConfigError(
                    "search space: each first trial must give every parameter once, and one of them does not so with "
                    f"{odd[0]}; add it, or take it out"
                )
            self._check_within(point)
            self.recipe("-", point)
        self._check_effects()

    def _check_effects(self) -> None:
        """Values are legal in the recipe, and each of them is another training."""
        anchor = {key: dimension.examples()[0] for key, dimension in self.parameters.items()}
        deciding = [key for key in ("optimizer.schedule", "optimizer.warmup_steps") if key in self.parameters]
        met = [
            self._met(anchor, dict(zip(deciding, values, strict=True)))
            for values in itertools.product(*(self.parameters[key].examples() for key in deciding))
        ]
        unused = set.intersection(*({*self.recipe("-", point).optimizer.unused} for point in met))
        if idle := sorted({f"optimizer.{name}" for name in unused} & self.parameters.keys()):
            raise ConfigError(
                f"search space: {idle[0]} changes nothing beside warmup_steps and schedule as they are fixed or "
                "searched, so there is nothing to search; take it out, or change the other one"
            )
        for key, dimension in self.parameters.items():
            meant: dict[str, Any] = {}
            for value in dimension.examples():
                same = meant.setdefault(self.recipe("-", self._met(anchor, {key: value})).fingerprint(), value)
                if same != value:
                    raise ConfigError(
                        f"search space: values of {key} must be different trainings, and {same!r} is the same as "
                        f"{value!r}; leave one of them out"
                    )
        self._check_pairs(anchor)

    def _check_pairs(self, anchor: Mapping[str, Any]) -> None:
        """Values of two parameters are legal together, where both are searched; rules are of one section's fields."""
        for pair in itertools.combinations(self.parameters, 2):
            if len({key.rpartition(".")[0] for key in pair}) > 1:
                continue
            for values in itertools.product(*(self.parameters[key].examples() for key in pair)):
                point = self._met(anchor, dict(zip(pair, values, strict=True)))
                if not all(self.parameters[key].active(point) for key in pair):
                    continue
                try:
                    self.recipe("-", point)
                except ConfigError as error:
                    both = " and ".join(f"{key}={value!r}" for key, value in zip(pair, values, strict=True))
                    raise ConfigError(
                        f"search space: {both} must be a training together, but {error}; narrow one of the two"
                    ) from None

    def _met(self, anchor: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The chosen values, at a point near `anchor` where they are searched, without parameters that are not."""
        met = {other: values[0] for key in chosen for other, values in self.parameters[key].when.items()}
        return {**self.active({**anchor, **met, **chosen}), **chosen}

    @classmethod
    def of_any(cls, parameters: Mapping[str, Any]) -> "SearchSpace":
        """A space of parameters that are no fields of the fine-tuning recipe, as tables of other people have them."""
        dimensions = TypeAdapter(dict[str, Dimension]).validate_python(parameters)
        return cls.model_construct(parameters=dimensions)

    def recipe(self, model: str, sampled: Mapping[str, Any], seed: int = 0) -> FinetuneRecipe:
        """The fine-tuning that one point of the space means."""
        values = merge(nest(self.fixed), nest(sampled))
        return FinetuneRecipe.parse({"seed": seed, **values, "model": model}, source="search space")

    @property
    def epochs(self) -> int:
        """Epochs of a trial that goes to its end; the most that the space allows."""
        dimension = self.parameters.get("epochs")
        most = dimension.examples() if dimension else []
        if not dimension or dimension.when:  # where it is not searched, the recipe's own number holds
            most = [*most, self.recipe("-", {}).epochs]
        return max(int(epochs) for epochs in most)

    def distributions(self, params: Mapping[str, Any]) -> "dict[str, BaseDistribution]":
        """Optuna's distributions of the parameters of one point."""
        return {key: self.parameters[key].distribution() for key in params}

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """The point that an Optuna trial chooses."""
        params: dict[str, Any] = {}
        for key, dimension in self.parameters.items():
            if dimension.active(params):
                params[key] = dimension.suggest(trial, key)
        return params

    def active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The members of `params` that are searched at this point."""
        kept: dict[str, Any] = {}
        for key, dimension in self.parameters.items():
            if key in params and dimension.active(kept):
                kept[key] = params[key]
        return kept

    @property
    def has_priors(self) -> bool:
        """Whether the best value of a parameter is expected somewhere."""
        return any(dimension.prior for dimension in self.parameters.values())

    def quasi_random(self, count: int, seed: int = 0, *, by_prior: bool = False) -> list[dict[str, Any]]:
        """The first `count` points of a scrambled Sobol sequence over the space, or as its priors are distributed."""
        import warnings

        import numpy as np
        from scipy.stats import qmc

        with warnings.catch_warnings():  # that balance needs a power of two
            warnings.simplefilter("ignore")
            shares = qmc.Sobol(len(self.parameters), seed=np.random.default_rng(seed)).random(count)
        return [
            self.active(
                {
                    key: (dimension.at_prior if by_prior else dimension.at)(float(share))
                    for (key, dimension), share in zip(self.parameters.items(), point, strict=True)
                }
            )
            for point in shares
        ]

    def in_order(self, names: Sequence[str]) -> "SearchSpace":
        """The same space with its parameters in the order of `names`, which are all of them."""
        return self.model_copy(update={"parameters": {name: self.parameters[name] for name in names}})

    def with_models(self, count: int) -> "SearchSpace":
        """The space of a study of several base models: which of them is one more dimension."""
        if count == 1:
            return self
        model = CategoricalDimension(type="categorical", choices=tuple(range(count)))
        points = tuple({MODEL: index, **point} for point in self.first_trials for index in range(count))
        # not `parse`: the base model is chosen beside the recipe's fields, not among them
        return self.model_copy(update={"parameters": {MODEL: model, **self.parameters}, "first_trials": points})

    def with_fixed(self, values: Mapping[str, Any], *, source: str) -> "SearchSpace":
        """The space with one value for these recipe fields, whether it searched them or not.

        Parameters that are searched only at other values of them go too, and so do first trials that then lack one.

        Raises:
            ConfigError: a key is no field of the recipe, a value is not legal there, or nothing is left to search.
        """
        parameters: dict[str, Any] = {}
        for key, dimension in self.parameters.items():
            unmet = {other: allowed for other, allowed in dimension.when.items() if other not in values}
            met = all(values[other] in allowed for other, allowed in dimension.when.items() if other in values)
            if key not in values and met and all(other in parameters for other in unmet):
                parameters[key] = {**dimension.plain(), "when": unmet}
        points = [{key: value for key, value in point.items() if key in parameters} for point in self.first_trials]
        changed = {"fixed": {**self.fixed, **values}, "parameters": parameters, "first_trials": []}
        fixed = SearchSpace.parse({**self.plain(), **changed}, source=source)
        whole = [point for point in points if set(point) == set(fixed._searched_at(point))]
        return SearchSpace.parse({**fixed.plain(), "first_trials": whole}, source=source)

    def _searched_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter that a point like this must give."""
        here: dict[str, Any] = {}
        for key, dimension in self.parameters.items():
            if dimension.active(here):
                here[key] = point.get(key)
        return here

    def _check_conditions(self) -> None:
        """Each condition is on parameters above, by values that they can have, and can be met."""
        above: dict[str, dict[str, list[Any]]] = {}  # parameter -> what others must be for it to be searched
        for key, dimension in self.parameters.items():
            needs: dict[str, list[Any]] = {}
            for other, values in dimension.when.items():
                if other not in above:
                    raise ConfigError(
                        f"search space: {key} depends on {other}, which is no parameter above it; "
                        f"{nearest(other, [*above])}"
                    )
                self._check_condition(key, other, values)
                for needed, allowed in [(other, list(values)), *above[other].items()]:
                    needs[needed] = [value for value in needs.get(needed, allowed) if value in allowed]
                    if not needs[needed]:
                        raise ConfigError(
                            f"search space: {key} would never be searched: what it depends on asks for different "
                            f"values of {needed}; change one when"
                        )
            above[key] = needs

    def _check_condition(self, key: str, other: str, values: Sequence[Any]) -> None:
        above = self.parameters[other]
        if isinstance(above, FloatDimension) and above.count() is None:
            raise ConfigError(
                f"search space: {key} depends on {other}, whose values have no end; give {other} a step or choices"
            )
        odd = [value for value in values if not above.holds(value)]
        if odd or not values:
            raise ConfigError(
                f"search space: {key} would never be searched where {other} is "
                f"{reprlib.repr(odd[0]) if odd else 'one of no values'}; {other} is {above.description()}"
            )

    def _check_within(self, point: Mapping[str, Any]) -> None:
        for key, value in point.items():
            dimension = self.parameters[key]
            if not dimension.holds(value):
                raise ConfigError(
                    f"search space: a first trial has {key}={reprlib.repr(value)}, which the space does not hold: "
                    f"{key} is {dimension.description()}; widen {key} or change the first trial"
                )


MODEL = "model"
"""The dimension that exists when a study has several base models: their number in `models`."""


def load_space(path_or_names: str | Path | Sequence[str]) -> SearchSpace:
    """The space in a YAML file, or the first of `names` (task, then kind) that `search_spaces/` has.

    Raises:
        ConfigError: no such file, an unknown field, or an empty or inverted range.
    """
    if isinstance(path_or_names, str | Path):
        return SearchSpace.load(path_or_names)
    folder = spaces_folder()
    for name in path_or_names:
        if (folder / f"{name}.yaml").exists():
            own = read_yaml(folder / f"{name}.yaml")
            defaults = read_yaml(folder / "_defaults.yaml")
            searched = own.get("parameters", {})
            defaults["fixed"] = {key: value for key, value in defaults["fixed"].items() if key not in searched}
            return SearchSpace.parse(merge(defaults, own), source=f"search_spaces/{name}.yaml")
    raise ConfigError(f"search_spaces/ has no space for {' or '.join(path_or_names)}; give one with --space FILE")


def spaces_folder() -> Path:
    """Folder of the spaces that clinscale ships: in the wheel, or beside the package in a checkout."""
    package = Path(clinscale.__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


if __name__ == "__main__":  # the schema by which editors complete and check the YAML files
    import json

    from clinscale.sweep import space  # inherited fields of a class of `__main__` have no docstrings

    text = json.dumps(space.SearchSpace.model_json_schema(), indent=2)
    (spaces_folder() / "schema.json").write_text(f"{text}\n", encoding="utf-8")
