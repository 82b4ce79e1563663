"""Places that verbs write to: in no folder whose files are a model or a corpus together, and over no other file."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from clinscale.errors import ClinscaleError, ConfigError
from clinscale.storage import refuse_device

Test = Callable[[Path], bool]
"""Whether a file is of the sort that is written."""


def check_place(out: str | Path) -> None:
    """Refuse a file or folder below that of a model or a ShardSet, which would be another by it to its readers.

    Raises:
        ConfigError: it would be in such a folder.
    """
    for folder in Path(out).resolve().parents:
        if what := _whole(folder):
            raise ConfigError(f"{out} must not be in the folder of {what}, got {folder}; choose a place elsewhere")


def check_new(out: Path, is_one: Test | None = None) -> Path:
    """Refuse a file that would take the place of another, unless that is one of its own sort; then as `check_place`.

    Returns:
        The file to write: where `out` is a link, the one that it leads to, so that it stays a link.

    Raises:
        ConfigError: another file, a pipe or a device is there, or as `check_place`.
    """
    refuse_device(out)
    with contextlib.suppress(OSError):  # the writer says what is wrong with the name
        if out.is_file() and out.stat().st_size and not (is_one and is_one(out)):
            raise ConfigError(
                f"{out} must not take the place of a file {'of another kind' if is_one else 'that is there'}; choose "
                "another name, or remove that file"
            )
    check_place(out)
    return out.resolve() if os.path.islink(out) else out  # noqa: PTH114  pathlib raises for too long a name


def is_report(path: Path) -> bool:
    """Whether a file is an HTML page that `report` wrote: other pages are somebody's."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return head.lower().startswith(b"<!doctype html") and b"<title>clinscale report</title>" in head


_HEAD_BYTES = 1024
"""Length within which a page of `report` has its title."""


def is_bill(path: Path) -> bool:
    """Whether a file is a bill of materials of CycloneDX."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("bomFormat") == "CycloneDX"


def _whole(folder: Path) -> str:
    """Names what the files of a folder are together; empty where they are each for itself."""
    with contextlib.suppress(ClinscaleError, OSError):
        if (folder / "config.json").is_file():
            from clinscale import models

            models.check_hf_folder(folder)
            return "a model"
    with contextlib.suppress(ClinscaleError, OSError):
        if (folder / "manifest.json").is_file():
            from clinscale import corpus

            corpus.open_shards(folder)
            return "a ShardSet"
    return ""
