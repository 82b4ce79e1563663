"""Installed packages that a database of advisories names. The database is a file, so nothing calls out."""

import importlib.metadata
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from clinscale.errors import DataError
from clinscale.storage import parse_json, read_bytes, refuse_bomb


class Advisory(NamedTuple):
    """An advisory that touches an installed package."""

    package: str
    version: str
    id: str
    fixed_in: tuple[str, ...]
    """Versions that end it; none where there is none yet."""


def installed() -> dict[str, str]:
    """Version of every installed package, by its canonical name."""
    found = importlib.metadata.distributions()
    return {canonicalize_name(one.metadata["Name"]): one.version for one in found if one.metadata["Name"]}


def touching(path: Path, packages: Mapping[str, str]) -> tuple[int, list[Advisory]]:
    """Count the advisories on Python packages in a file, and list those that concern `packages`.

    Args:
        path: in the format of OSV (https://ossf.github.io/osv-schema): its `all.zip` of PyPI, or JSON of one or a list,
            or JSON lines.
        packages: versions by canonical name.

    Raises:
        DataError: the file cannot be read or holds no advisory for Python packages.
    """
    count, found = 0, set()
    for entry in _entries(path):
        affected = [one for one in entry.get("affected", []) if one.get("package", {}).get("ecosystem") == "PyPI"]
        count += bool(affected) and "withdrawn" not in entry
        for one in affected if "withdrawn" not in entry else ():
            name = canonicalize_name(str(one["package"].get("name", "")))
            if name in packages and _is_affected(packages[name], one):
                found.add(Advisory(name, packages[name], str(entry.get("id", "?")), _fixes(one)))
    if not count:
        raise DataError(
            f"{path} must hold advisories for PyPI in OSV's format, got none; take "
            "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip"
        )
    return count, sorted(found)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_bomb(path, path.stat().st_size, sum(part.file_size for part in archive.infolist()))
                texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".json")]
        else:
            text = read_bytes(path).decode()
            texts = text.splitlines() if path.suffix in (".jsonl", ".ndjson") else [text]
        for text in filter(str.strip, texts):
            loaded = parse_json(text)
            for entry in loaded if isinstance(loaded, list) else [loaded]:
                if not isinstance(entry, dict):
                    raise ValueError
                yield entry
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(
            f"{path} must be a file of advisories in OSV's format, and cannot be read ({type(error).__name__}); "
            "fetch it again"
        ) from None


def _is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Whether OSV's rules cover a version: it is named, or is between two events of a range."""
    mine = _version(version)
    if version in affected.get("versions", []) or mine in map(_version, affected.get("versions", [])):
        return True
    events = [range.get("events", []) for range in affected.get("ranges", []) if range.get("type") != "GIT"]
    return any(_is_between(mine, of_range) for of_range in events)


def _is_between(version: Version, events: list[Mapping[str, str]]) -> bool:
    inside = False
    for kind, at in sorted(
        ((kind, _version(at)) for event in events for kind, at in event.items() if kind != "limit"),
        key=lambda event: (event[1], event[0] == "last_affected"),
    ):
        if kind == "last_affected":
            inside = inside and version <= at
        elif version >= at:
            inside = kind == "introduced"
    return inside


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # older than all that can be installed
        return Version("0.dev0")


def _fixes(affected: Mapping[str, Any]) -> tuple[str, ...]:
    events = [event for one in affected.get("ranges", []) if one.get("type") != "GIT" for event in one["events"]]
    return tuple(event["fixed"] for event in events if "fixed" in event)
