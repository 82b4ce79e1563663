"""The base of every config: frozen, keyword-only, strict YAML in, dotted overrides, a fingerprint of the recipe.

Configs are pydantic models that live beside their owners. A config that starts work has two halves: `recipe`
(changes the numbers) and `runtime` (changes only speed, place or cost); only the recipe is fingerprinted.
"""

import difflib
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from clinscale.errors import ConfigError
from clinscale.strict_yaml import is_number, parse_scalar, read_yaml, shown_name

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that NumPy, torch and Optuna all take."""


def check_last_seed(first: int, count: int, *, of: str) -> None:
    """ConfigError where the last of `count` seeds, which the key `of` asks for, is none that all libraries take."""
    if first + count > 2**32:
        raise ConfigError(
            f"recipe.seed={first} and {of}={count} make seeds up to {first + count - 1}, and the last one is "
            f"{2**32 - 1}; lower recipe.seed"
        )


_NO_NUMBER = PydanticCustomError("number", "Input should be a number, and neither true nor false")
_NO_DIGITS = PydanticCustomError("digits", "Input should be a number as JSON writes one, such as 10 or 1e-4")


class Config(BaseModel):
    """A frozen config; an unknown key is an error that names the nearest known one.

    Text is a number where YAML 1.2 has it for one: `010`, which is eight to some readers, and `1_000` are refused.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,  # neither can be fingerprinted, and no setting means either
    )

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, values: Any) -> Any:
        """`values` with parts of sections over what this config's defaults say of the rest; no truth value for one."""
        if not isinstance(values, Mapping):
            return values
        meant, odd = dict(values), []
        for name, field in cls.model_fields.items():
            given = values.get(name)
            if isinstance(given, Mapping) and isinstance(field.default, Config):
                meant[name] = merge(field.default.model_dump(exclude_unset=True), given)
            elif (fault := _fault_of_number(given)) and _is_number(field.annotation):
                odd.append(InitErrorDetails(type=fault, loc=(name,), input=given))
        if odd:
            raise ValidationError.from_exception_data(cls.__name__, odd)
        return meant

    @model_validator(mode="after")
    def _run_check(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise ConfigError when fields contradict each other; the message says how to repair it."""

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        overrides: Sequence[str] = (),
        *,
        base: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read YAML at `path` over the plain values of `base`, apply `key.path=value` overrides, validate.

        Raises:
            ConfigError: the file is missing or not YAML, a key is unknown, a value breaks its rule, or two overrides
                give one key different values.
        """
        values = merge(base or {}, read_yaml(path) if path is not None else {})
        given: dict[str, Any] = {}
        for override in overrides:
            changes = _parse_override(override)
            for key, value in flatten(changes):
                if given.setdefault(key, value) != value:
                    raise ConfigError(
                        f"override {shown_name(key)} is given twice with different values; leave one of them out"
                    )
            values = merge(values, changes)
        return cls.parse(values, source=str(path) if path is not None else "options")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Validate plain `values`; `source` names them in errors."""
        _refuse_unusable(values, source)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, item, source) for item in error.errors())) from None

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Twelve hex digits that are equal exactly when all values are equal."""
        return fingerprint(self.plain())


def fingerprint(values: Any) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of `values`."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *, below: str = "") -> list[str]:
    """Changes between two plain configs, as `key.path: old -> new`, in key order.

    A section that only one of them has is one line. Paths begin with `below`.
    """
    found = list[str]()
    for key in sorted(before.keys() | after.keys()):
        path, old, new = f"{below}{key}", before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old and new:
            found += differences(old, new, below=f"{path}.")
        elif old != new:
            was, becomes = ("unset" if key not in one else _brief(one[key]) for one in (before, after))
            found.append(f"{path}: {was} -> {becomes}")
    return found


def _brief(value: Any) -> str:
    """The value, or the size of a long section."""
    count = len(dict(flatten(value))) if isinstance(value, Mapping) else 0
    return f"{count} settings" if count > _LONG_SECTION else str(value)


_LONG_SECTION = 5


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean X?` when some known name is close, case aside, else the known names in one clause."""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    if close:
        return f"did you mean {folded[close[0]]}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`; ConfigError when a key runs through a single value."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        here = nested
        for parent in parents:
            inner = here.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"key {path}: {parent} is a single value and has no keys below it; give one of the two"
                )
            here = inner
        here[last] = value
    return nested


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the nested `changes` laid over it; neither is modified."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def key_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a config class, those of nested configs included."""
    return [
        path
        for name, field in model.model_fields.items()
        for inner in [next(_models_in(field.annotation), None)]
        for path in (key_paths(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"])
    ]


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"override {override!r} must read key.path=value, e.g. recipe.seed=7")
    if not text.strip():  # as of a shell variable that is not set
        raise ConfigError(
            f"override {override!r} has no value; write {path.strip()}=null for none, or leave it out"
        )
    return nest({path.strip(): parse_scalar(text, f"override of {path}")})


def _refuse_unusable(values: Mapping[str, Any], source: str) -> None:
    """ConfigError for what no setting means and no file, name or fingerprint can hold, wherever it is in `values`."""
    left: list[tuple[str, Any]] = [("", values)]
    while left:
        path, value = left.pop()
        fault = ""
        if isinstance(value, Mapping):
            left += [(f"{path}.{shown_name(key)}".lstrip("."), inner) for key, inner in value.items()]
            fault = next((found for key in value if isinstance(key, str) and (found := _fault_of(key))), "")
        elif isinstance(value, list | tuple):
            left += [(f"{path}.{number}".lstrip("."), inner) for number, inner in enumerate(value)]
        elif isinstance(value, str):
            fault = _fault_of(value)
        elif isinstance(value, float) and not math.isfinite(value):
            fault = "must be a finite number, or in quotes where text such as 1e999 is meant"
        if fault:
            raise ConfigError(f"{source}: {path or 'a key'} {fault}; correct it")


def _fault_of(text: str) -> str:
    if "\0" in text:
        return "must not hold the character NUL"
    return "" if text.isascii() or not _SURROGATE.search(text) else "must be whole characters, got half of one"


_SURROGATE = re.compile("[\ud800-\udfff]")


def _explain(model: type[BaseModel], item: Mapping[str, Any], source: str) -> str:
    where = ".".join(map(shown_name, item["loc"]))
    given = item["input"]
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        hint = _hint_elsewhere(model, name) or nearest(name, _known_keys(model, item["loc"][:-1]))
        return f"{source}: {where} is not a known key; {hint}"
    if item["type"] == "missing":
        return f"{source}: {where} is required and has no default; add {where}=..."
    hint = ""
    if item["type"] == "literal_error":
        close = nearest(str(given), re.findall("'([^']*)'", item["ctx"]["expected"]))
        hint = f"; {close}" if close.startswith("did you mean") else ""
    elif item["type"] == "string_type" and isinstance(given, bool | int | float):
        text = "'TEXT'" if isinstance(given, float) else f"'{json.dumps(given)}'"  # 1e5 is no longer what it was
        if source == "options":  # on a command line, whose shell takes the outer quotation marks away
            text = f'{where}="{text}"'
        hint = f"; where it is meant as text, quote it: {text}"
    return f"{source}: {where}: {item['msg']}, got {reprlib.repr(given)[:80]}{hint}"


def _hint_elsewhere(model: type[BaseModel], name: str) -> str:
    """`did you mean PATH?` when one key of the config, at another depth, has just this name; else empty."""
    parts = [path.split(".") for path in key_paths(model)]
    found = {".".join(path[: path.index(name) + 1]) for path in parts if name in path}
    return f"did you mean {found.pop()}?" if len(found) == 1 else ""


def _known_keys(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """Field names of the model found by walking `path` down from `model`."""
    here: list[type[BaseModel]] = [model]
    for part in path:
        step = [
            inner
            for owner in here
            if str(part) in owner.model_fields
            for inner in _models_in(owner.model_fields[str(part)].annotation)
        ]
        # indices and union tags are no field names: stay here, or take the branch that the tag names
        branch = [m for m in here if any(part in get_args(field.annotation) for field in m.model_fields.values())]
        here = step or branch or here
    return [name for owner in here for name in owner.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _fault_of_number(given: Any) -> PydanticCustomError | None:
    """The reason why `given` is no number, or holds what is none, where pydantic would make one of it."""
    for one in given if isinstance(given, list | tuple) else [given]:
        if isinstance(one, bool):
            return _NO_NUMBER
        if isinstance(one, str) and any(mark.isdigit() for mark in one) and not is_number(one):
            return _NO_DIGITS
    return None


def _is_number(annotation: Any) -> bool:
    """Whether a field holds numbers alone, and neither truth values, which pydantic would read as 1 and 0, nor text."""
    types = set(_types_in(annotation))
    return not types.isdisjoint({int, float}) and types.isdisjoint({bool, str})


def _types_in(annotation: Any) -> Iterator[Any]:
    """Parts of an annotation; of a Literal the types of its values."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, parts)
    elif not parts:
        yield annotation
    for part in () if get_origin(annotation) is Literal else parts:
        yield from _types_in(part)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `("a.b", 1)`; an empty mapping stays a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
