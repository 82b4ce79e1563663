"""The folder of a named run: one name belongs to one recipe, so that resuming never mixes two experiments."""

import contextlib
import fcntl
import functools
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from clinscale import held
from clinscale.config import differences
from clinscale.errors import ChangedDataError, ClusterError, ConfigError
from clinscale.patience import PATIENCE_S
from clinscale.permissions import open_private
from clinscale.storage import read_json_object, write_json
from clinscale.visible import visible

RECIPE_FILE = "recipe.json"

PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Names that file systems, URLs and the registry all accept, so that a reference `NAME@alias` can be parsed."""

_LOCK_FILE = "lock"

_INPUTS_FILE = "inputs.json"
"""Fingerprints of inputs that the recipe names by their place."""

_MOST_CHARACTERS = 200
"""Most characters of a name: file systems end at 255 bytes, MLflow's columns at 250, and more is added to it."""


def check_plain_name(thing: str, name: str, *, advice: str = "choose another") -> None:
    """Raise ConfigError unless `name` can be a folder and a registered model; `thing` says what it names.

    Asked before anything is trained: a run must not fail at its very end.
    """
    if not re.fullmatch(PLAIN_NAME, name) or len(name) > _MOST_CHARACTERS:
        raise ConfigError(
            f"{thing} {name!r} must be a plain word of letters from A to Z, digits, dots, dashes and underscores that "
            f"starts with a letter or digit, of at most {_MOST_CHARACTERS} characters; {advice}"
        )


def claim_run_folder(home: str | Path, kind: str, name: str, recipe: Mapping[str, Any]) -> Path:
    """`HOME/KIND/NAME`, made on first use and tied to `recipe`; the same name and recipe resume there.

    Ray Train resumes silently from whatever is under a run's name, even when the config changed; this is the
    guard in front of it.

    Raises:
        ConfigError: the name is no plain file name, or belongs to another recipe (names what differs), or the folder
            holds files that no run has left there.
    """
    folder = check_run_folder(home, kind, name, recipe)
    known = folder / RECIPE_FILE
    if not known.exists():
        _write_first(known, recipe)
    return check_run_folder(home, kind, name, recipe)


def check_run_folder(home: str | Path, kind: str, name: str, recipe: Mapping[str, Any]) -> Path:
    """`HOME/KIND/NAME`, which may not be there yet; what `claim_run_folder` refuses is refused, and nothing written."""
    check_plain_name(f"{kind} name", name)
    folder = Path(home).absolute() / kind / name
    known = folder / RECIPE_FILE
    if not known.exists():
        _refuse_others(folder, known, f"{kind} run {name!r}")
    changed = differences(read_json_object(known), recipe) if known.exists() else []
    if changed:
        raise ConfigError(
            f"{kind} run {name!r} exists in {home} with another recipe; differing: {'; '.join(changed)}. "
            "Use another name, or the old values to resume it"
        )
    return folder


def _refuse_others(folder: Path, known: Path, what: str) -> None:
    """Raise ConfigError where a folder holds files without being a run's: it would replace those of its names.

    A run writes its recipe before all else. Hidden files are those of a killed start, or of a file system.
    """
    others = [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    if others and not known.exists():  # no other process has begun the run meanwhile
        raise ConfigError(
            f"{folder} must be a new or an empty folder for {what}, and holds {visible(min(others))!r} without the "
            f"{RECIPE_FILE} with which every run begins; use another name, or move what is there elsewhere"
        )


def check_unchanged(
    folder: Path, what: str, fingerprint: str, *, is_new: bool = False, records: bool = True
) -> None:
    """Record the fingerprint of `what`, which the run in `folder` reads or has made, when it is first used.

    One that `is_new`, as the run has just made it, takes the place of an earlier one.
    Without `records` nothing is written.

    Raises:
        ChangedDataError: it was another one before: what is finished is not of this input.
    """
    known = folder / _INPUTS_FILE
    recorded = read_json_object(known) if known.exists() else {}
    if is_new:
        recorded.pop(what, None)
    before = recorded.setdefault(what, fingerprint)
    if before != fingerprint:
        raise ChangedDataError.of(what, before=before, now=fingerprint)
    if records:
        write_json(known, recorded)


def refuse_copy(config: Path) -> None:
    """Raise ConfigError where the run whose `config` is this file has another name than the folder that holds it.

    It was copied or renamed, and to go on with it by its folder's name would go on with the run that it was made from.
    """
    folder, name = config.parent, read_json_object(config).get("name")
    if name != folder.name:
        raise ConfigError(
            f"{folder} holds {folder.parent.name} run {name}, which it was copied or renamed from; give the folder "
            f"that name again, or begin {folder.name} anew with all options"
        )


def _write_first(known: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe, unless another process that claims the same name was first: a file is never replaced."""
    mine = known.with_name(f".{known.name}.{uuid.uuid4().hex}")
    write_json(mine, dict(recipe))
    try:
        known.hardlink_to(mine)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        write_json(known, dict(recipe))
    finally:
        mine.unlink()


@contextlib.contextmanager
def sole_writer(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[Callable[..., None]]:
    """Hold a run's folder, that of `claim_run_folder`, while the block runs; the system lets go of it when we die.

    Yields `check_in_place` for it, which raises when the folder is no longer the one that is held. While the folder is
    away, writers wait for `patience_s` as `held` says.

    Raises:
        ClusterError: another process, or another part of this one, holds it.
    """
    what = f"{folder.parent.name} run {folder.name}"
    with open_private(folder / _LOCK_FILE, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"{what} is being run by another process, in {folder}; wait for it to end, or use another name"
            ) from None
        except OSError:  # a file system without locks
            pass
        with held.hold(folder, what, patience_s=patience_s):
            still_held = functools.partial(check_in_place, file, what)
            still_held()
            yield still_held


def is_run(folder: Path) -> bool:
    """Whether a process holds a run's folder, as `sole_writer` does."""
    try:
        with (folder / _LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has run it, or a file system without locks
        return False
    return False


def check_in_place(file: IO[Any], what: str, *, may_be_away: bool = False) -> None:
    """Raise ClusterError unless the open `file` still is the one of its name, by which all others find it.

    A home that was deleted, or put back from a backup, while `what` ran: what is written to the file is lost, its lock
    keeps nobody out, and other files are of another time. A folder that is away, and held, is waited for, unless
    `may_be_away`: then it passes.
    """
    if may_be_away and held.is_away(file.name):
        return
    held.wait_while_away(file.name)
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):  # noqa: PTH116
            return
    raise ClusterError(
        f"{what} ends, as {file.name} was deleted or replaced while it ran; nothing more is written there. Put back "
        "what is to be gone on with, then run the same command again"
    )
