"""YAML files that a user gave: read strictly, as YAML 1.2 means them, in bounded time and memory.

PyYAML reads YAML 1.1, where `no` is false, `010` is eight, `12:30` is 750 and `1e-4` is a text. Here a plain word is a
number only as JSON writes numbers, and true or false only by those names: a label `no` and an id `007` stay what they
are.
"""

import os
import re
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from clinscale.errors import ConfigError

Dialect = Literal["1.2", "1.1"]
"""`1.1` is how Ray, Kubernetes and Docker read the files that are theirs."""

MAX_BYTES = 2**20
"""Most bytes of one file: a hundred thousand ids fit, and a file of data that was named by mistake does not."""

MAX_VALUES = 200_000
"""Most values in one file, with every alias written out: ten lines of aliases can expand to billions."""

MAX_DEPTH = 50
"""Levels of values within values."""


def read_yaml(path: str | Path, *, dialect: Dialect = "1.2") -> dict[str, Any]:
    """One mapping of keys to values; nothing is an empty one.

    Raises:
        ConfigError: the file is missing, no regular file, too large, not UTF-8 or not YAML, repeats a key, or holds
            something other than a mapping; with the line where there is one.
    """
    found = read_documents(path, dialect=dialect)
    if len(found) > 1:
        raise ConfigError(f"config {path} must hold one YAML document, got {len(found)}; remove the others")
    values = found[0] if found else None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"config {path} must be a mapping of keys to values, got a {type(values).__name__}; write lines of KEY: "
            "VALUE"
        )
    return values


def read_documents(path: str | Path, *, dialect: Dialect = "1.2") -> list[Any]:
    """The values of all YAML documents of a file; ConfigError as `read_yaml`."""
    return parse_yaml(read_config_text(path), f"config {path}", dialect=dialect)


def read_config_text(path: str | Path) -> str:
    """The whole of a small text file; ConfigError for what is missing, no regular file, too large or not UTF-8."""
    try:
        # without waiting: a pipe would keep us for ever, and is refused below
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ConfigError(f"config {path} cannot be read: it is no regular file; give the path of a file")
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"config {path} does not exist; give the path of a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a path that holds what no path can hold
        raise ConfigError(f"config {path} cannot be read ({type(error).__name__}); check the path") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"config {path} has more than {MAX_BYTES:,} bytes, and no config needs so many; give a config, not a file "
            "of data"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config {path} cannot be read as UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None


def parse_yaml(text: str, source: str, *, dialect: Dialect = "1.2") -> list[Any]:
    """The values of the YAML documents in `text`, which errors call `source`.

    Raises:
        ConfigError: broken YAML, a repeated key, a value that cannot be what its tag says, aliases without end.
    """
    loader = _LOADERS[dialect]
    try:
        _refuse_endless(yaml.parse(text, Loader=loader))
        return list(yaml.load_all(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        # libyaml finds that something is not closed on the line after the last
        line = min(error.problem_mark.line, text.rstrip().count("\n")) + 1 if error.problem_mark else "?"
        raise ConfigError(f"{source} line {line}: {_without_values(error)}; fix the YAML there") from None
    except (yaml.YAMLError, UnicodeError):  # UnicodeError: half of a character that takes two
        raise ConfigError(f"{source} is not YAML; fix or replace the file") from None


def parse_scalar(text: str, source: str) -> Any:
    """The one value in `text`, as it is on a command line: no comment may follow it, nor a second one.

    Raises:
        ConfigError: it is not YAML, or YAML would read only a part of it.
    """
    try:
        found = parse_yaml(text, source)
    except ConfigError:
        raise ConfigError(f"{source}: the value is not YAML; quote it") from None
    node = yaml.compose(text, Loader=_Strict) if len(found) == 1 else None
    if isinstance(node, yaml.ScalarNode) and not node.style:
        is_whole = node.value == text.strip()
    else:
        end = node.end_mark.index if node else 0  # of a comment alone nothing is read
        is_whole = len(found) < 2 and not text[end:].strip()
    if not is_whole:
        raise ConfigError(f"{source}: YAML reads only a part of the value; quote it")
    return found[0] if found else None


def is_number(text: str) -> bool:
    """Whether `text`, without blanks around it, is a number as YAML 1.2 and JSON write them."""
    return bool(re.fullmatch(_NUMBER, text.strip()))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses repeated keys and names the line of whatever it cannot read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # noqa: BLE001  PyYAML lets through what int(), datetime and others raise
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"a value cannot be read as {kind} ({type(error).__name__})", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # super() says so with its line
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{shown_name(key)}' is given twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Strict(_Loader):
    """YAML 1.2, of its numbers those that JSON has, and no values but those that JSON has."""

    yaml_constructors = {  # noqa: RUF012  PyYAML's own name and type
        tag: read
        for tag, read in _Loader.yaml_constructors.items()
        if str(tag).rpartition(":")[2] not in ("binary", "timestamp", "omap", "pairs", "set")
    }
    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own name and type
        first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
        for first, known in _Loader.yaml_implicit_resolvers.items()
    }


_WHOLE = r"[-+]?(0|[1-9][0-9]*)"
_NUMBER = rf"{_WHOLE}(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", _WHOLE, "-+0123456789"),
    (
        "float",
        rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Strict.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))

_LOADERS: dict[Dialect, type[_Loader]] = {"1.2": _Strict, "1.1": _Loader}


def shown_name(name: object) -> str:
    """A key as a message may show it: a file of notes that is named as a config by mistake has its text for keys."""
    text = str(name)
    return text if re.fullmatch(r"[\w.:/@\[\]-]{1,60}|tuple\[\w+, \.\.\.\]", text) else f"({len(text)} characters)"


def _without_values(error: yaml.MarkedYAMLError) -> str:
    """The fault, without the names of tags and anchors that PyYAML quotes from the file."""
    problem = error.problem or "it is malformed"
    foreign = isinstance(error, yaml.composer.ComposerError | yaml.constructor.ConstructorError)
    return re.sub(r" '[^\n]*'", "", problem) if foreign and not problem.startswith("key ") else problem


def _refuse_endless(events: Iterator[yaml.Event]) -> None:
    """Count what the document would hold with all aliases written out, before any of it is built."""
    anchored: dict[str | None, tuple[int, int]] = {}  # anchor -> its values, its levels
    opened: list[tuple[yaml.Event, int, int]] = []  # around us: event, values before it, levels below it
    count = 0
    for event in events:
        levels = 0
        if isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one, _, _ in opened):  # type: ignore[attr-defined]
                raise _endless("aliases make a value contain itself", event)
            values, levels = anchored.get(event.anchor, (1, 0))
            count += values
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            anchored[event.anchor] = (1, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event, count, 0))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            start, before, below = opened.pop()
            levels = below + 1
            anchored[start.anchor] = (count - before, levels)  # type: ignore[attr-defined]
        if opened and levels:
            start, before, below = opened[-1]
            opened[-1] = (start, before, max(below, levels))
        if len(opened) + levels > MAX_DEPTH:
            raise _endless(f"a value is more than {MAX_DEPTH} levels deep", event)
        if count > MAX_VALUES:
            raise _endless(f"aliases or values make more than {MAX_VALUES:,} values", event)


def _endless(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def write_yaml(values: dict[str, Any]) -> str:
    """`values` as YAML that both dialects read back as they are: no text is left that either takes for a number."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Quotes also what YAML 1.1 has for text and we for a number, such as `1e5`."""


_Dumper.yaml_implicit_resolvers = {
    first: [*_Dumper.yaml_implicit_resolvers.get(first, []), *_Strict.yaml_implicit_resolvers.get(first, [])]
    for first in {*_Dumper.yaml_implicit_resolvers, *_Strict.yaml_implicit_resolvers}
}
