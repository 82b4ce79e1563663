"""Verified HF folders below `HOME/models/cache`, each under the digest of its content.

What is under a digest was checked before it was put there, is checked again whenever it is asked for, and is
handed out as a copy where somebody may edit it.
"""

import contextlib
import fcntl
import logging
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from clinscale.errors import CapacityError, ConfigError, RegistryError
from clinscale.patience import Patience
from clinscale.permissions import make_folder, open_private, refuse_foreign
from clinscale.registry.folders import folder_digest

LOCK_PATIENCE_S = 1800.0
"""Seconds that a process waits for another one that holds a lock: as many as a large model may take to arrive."""

_POLL_S = 0.1
_SCRATCH_BYTES = 4

log = logging.getLogger(__name__)


class Cache:
    """The folders below one place; any number of processes may use it at once."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        make_folder(self.root)

    def find(self, digest: str) -> Path | None:
        """The folder with this digest; None when there is none, or a damaged one."""
        folder = self.root / digest
        if os.path.lexists(folder):
            refuse_foreign(folder)
        return folder if digest_or_none(folder) == digest else None

    def obtain(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """The folder with this digest; where there is none, what `fetch` makes of the path that it is given.

        One process at a time fetches a digest. It may find there what an earlier one left when it was cut, and must
        leave nothing else than the whole, checked folder when it returns.
        """
        folder, lock = self.root / digest, self.root / f"{digest}.lock"
        if not self.find(digest):
            with exclusive(lock):
                if not self.find(digest):  # nobody else was faster
                    partial = self.root / f"{digest}.partial"
                    if os.path.lexists(partial):
                        refuse_foreign(partial)
                    fetch(partial)
                    _make_way(folder, partial)
                    partial.replace(folder)
        return folder


def _make_way(folder: Path, whole: Path) -> None:
    """Remove a damaged folder of the cache; one to which somebody has added files gets another name."""
    if not folder.is_dir():
        return
    others = {path.name for path in folder.iterdir()} - {path.name for path in whole.iterdir()}
    if not others:
        shutil.rmtree(folder, ignore_errors=True)
        return
    kept = folder.with_name(f"{folder.name}-before-{secrets.token_hex(_SCRATCH_BYTES)}")
    folder.rename(kept)
    log.warning("%s held %r, which is not the model's: what was there is in %s now", folder, min(others), kept)


@contextlib.contextmanager
def exclusive(path: Path, *, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the lock file `path` against all others; it is made on first use, says who holds it, and goes afterwards.

    Raises:
        CapacityError: another process held it for `patience_s`; says which.
        ConfigError: it is a link or another user's.
    """
    patience, is_told = Patience(patience_s, longest_pause_s=_POLL_S), False
    while True:
        with open_private(path, "a+", follow=False, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it up when a process is killed
            except BlockingIOError:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                if patience_s and not is_told:
                    log.warning(f"waiting at most {patience_s:g} s for {holder}, which holds {path}")
                    is_told = True
                if not patience.pause():
                    raise CapacityError(
                        f"{path} has been held by {holder} for more than {patience_s:g} s; wait for it to end, "
                        "or end it"
                    ) from None
                continue
            if not _is_still(path, file.fileno()):
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} of user {os.getuid()} on {platform.node()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A new hidden folder beside `place`, for what is to be moved there; it goes with the block."""
    make_folder(place.parent)
    folder = place.with_name(f".{place.name}.{secrets.token_hex(_SCRATCH_BYTES)}.partial")
    lock = folder.with_suffix(".lock")
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a file system without locks; one that takes no file says so below
            held.enter_context(exclusive(lock))
        try:
            yield make_folder(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def clear_scratch(place: Path) -> None:
    """Remove what processes that were killed left of `scratch`: each holds a lock for as long as it lives."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{{2 * _SCRATCH_BYTES}}}\.(?:partial|lock)")
    there = place.parent.iterdir() if place.parent.is_dir() else ()
    for left in sorted(path for path in there if name.fullmatch(path.name)):
        # what another user has put there stays, as does what a living process holds
        with contextlib.suppress(CapacityError, ConfigError, OSError):
            refuse_foreign(left)
            with exclusive(left.with_suffix(".lock"), patience_s=0):
                shutil.rmtree(left.with_suffix(".partial"), ignore_errors=True)


def stale_locks(folder: Path) -> list[Path]:
    """Lock files of `exclusive` in `folder` that nobody holds: their processes were killed. Only this user's.

    What holds anything but the words of `exclusive` is somebody's file, whatever its name.
    """
    return [path for path in sorted(folder.glob("*.lock")) if _is_stale(path)]


def remove_stale_lock(path: Path) -> bool:
    """Take a lock and let it go, which removes its file; one that somebody holds by now is left to him: False."""
    with contextlib.suppress(CapacityError), exclusive(path, patience_s=0):
        return True
    return False


def _is_stale(path: Path) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return not found.st_size or _HOLDER.fullmatch(file.read(1000).strip()) is not None
    except OSError:  # held, gone, or not ours to open
        return False


_HOLDER = re.compile(rb"process [0-9]+ of user [0-9]+ on [^\n]*")


def digest_or_none(folder: Path) -> str | None:
    """The digest of a safe HF folder; None for anything else."""
    try:
        return folder_digest(folder)
    except RegistryError:
        return None


def _is_still(path: Path, handle: int) -> bool:
    """Whether `path` is the file that was opened, rather than one that has replaced it since."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
