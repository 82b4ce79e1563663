"""Places that verbs write to: in no folder whose files are a model or a corpus together, and over no other file."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from clinscale.errors import ClinscaleError, ConfigError

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


def check_new(out: Path, is_one: Test | None = None) -> None:
    """Refuse a file that would take the place of another, unless that is one of its own sort; then as `check_place`.

    Raises:
        ConfigError: another file is there, or as `check_place`.
    """
    with contextlib.suppress(OSError):  # the writer says what is wrong with the name
        if out.is_file() and out.stat().st_size and not (is_one and is_one(out)):
            raise ConfigError(
                f"{out} must not take the place of a file {'of another kind' if is_one else 'that is there'}; choose "
                "another name, or remove that file"
            )
    check_place(out)


def is_page(path: Path) -> bool:
    """Whether a file is an HTML page."""
    with path.open("rb") as stream:
        return stream.read(len(_PAGE)).lower() == _PAGE


_PAGE = b"<!doctype html"


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
