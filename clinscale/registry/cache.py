"""Verified HF folders below `HOME/models/cache`, each under the digest of its content.

What lies under a digest was checked before it was put there, is checked again whenever it is asked for, and is
handed out as a copy where somebody may edit it.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from clinscale.errors import RegistryError
from clinscale.registry.folders import folder_digest


class Cache:
    """The folders below one place; any number of processes may use it at once."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.root.mkdir(parents=True, exist_ok=True)

    def find(self, digest: str) -> Path | None:
        """The folder with this digest; None when there is none, or a damaged one."""
        folder = self.root / digest
        return folder if digest_or_none(folder) == digest else None

    def obtain(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """The folder with this digest; where there is none, what `fetch` makes of the path that it is given.

        One process at a time fetches a digest. It may find there what an earlier one left when it was cut, and must
        leave nothing else than the whole, checked folder when it returns.
        """
        folder, lock = self.root / digest, self.root / f"{digest}.lock"
        if not self.find(digest):
            with exclusive(lock):
                try:
                    if not self.find(digest):  # nobody else was faster
                        partial = self.root / f"{digest}.partial"
                        fetch(partial)
                        shutil.rmtree(folder, ignore_errors=True)  # damaged
                        partial.replace(folder)
                finally:
                    lock.unlink()
        return folder


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the file `path`, made on first use, against all others; it may be replaced or removed meanwhile."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(path, handle):
                yield
                return
        finally:
            os.close(handle)  # with it goes the lock, as it does when a process is killed


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
