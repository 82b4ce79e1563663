"""Folders that work is held in, and that may be away for a minute: shared ones, unmounted and mounted again.

While such a folder is away, nothing is under its name, or an empty folder of the disk below. What is written there is
hidden from the work once the folder is back, on a disk where nobody expects it. `permissions` asks here before
it makes a folder or opens a file for writing; what only reads, or writes by a library, asks itself.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from clinscale.errors import ClusterError
from clinscale.patience import PATIENCE_S, Patience

_RETRY_S = 0.5

_Answer = TypeVar("_Answer")

State = Literal["there", "away", "gone"]

log = logging.getLogger(__name__)


class Held:
    """A folder that is held open, so that its file system knows it by the same number when it is mounted again."""

    def __init__(self, folder: Path, what: str, patience_s: float, descriptor: int) -> None:
        self.folder, self._what, self._patience_s, self._descriptor = folder, what, patience_s, descriptor
        self._known = os.fstat(descriptor)

    @property
    def state(self) -> State:
        """Whether it is under its name; `away` is also where an empty folder is."""
        try:
            if os.path.samestat(self._known, os.stat(self.folder)):  # noqa: PTH116  asked for each file that is made
                return "there"
            is_empty = not any(self.folder.iterdir())
        except OSError:
            is_empty = True
        return "away" if is_empty and not self._is_deleted() else "gone"

    def _is_deleted(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink == 0
        except OSError:  # its file system has ended
            return False

    def wait(self, patience_s: float | None = None) -> None:
        """Wait while it is away, for its patience unless another is said."""
        patience_s = self._patience_s if patience_s is None else patience_s
        wait_while(lambda: self.state == "away", self.folder, self._what, patience_s)

    def require_there(self, patience_s: float | None = None) -> None:
        """Wait until it is there; ClusterError where it cannot be."""
        while self.state != "there":
            self.wait(patience_s)
            if self.state == "gone":
                raise ClusterError(
                    f"{self._what} ends, as its folder {self.folder} was deleted or replaced while it ran; nothing "
                    "more is written there. Put back what is to be gone on with, then run the same command again"
                )

    def close(self) -> None:
        """Hold it no more."""
        os.close(self._descriptor)


_held: list[Held] = []
"""The folders that are held in this process."""


@contextlib.contextmanager
def hold(folder: str | Path, what: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Let nothing be written in place of `folder`, nor it be made anew, while the block runs.

    It must have been made, if by another process; one that is away is waited for, here and in the block.

    Args:
        folder: with all files of the work.
        what: the work, as a person knows it.
        patience_s: seconds for which it is waited for each time.

    Raises:
        ClusterError: it is away for longer; in the block also where it was deleted or replaced.
    """
    one = opened(folder, what, patience_s)
    _held.append(one)
    try:
        yield
    finally:
        _held.remove(one)
        one.close()


def opened(folder: str | Path, what: str, patience_s: float = PATIENCE_S) -> Held:
    """The folder, held open for one who asks it himself; waited for while it is missing, as `hold` waits."""
    folder = Path(folder).absolute()
    found: list[int] = []

    def is_missing() -> bool:
        with contextlib.suppress(OSError):
            found.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return not found

    wait_while(is_missing, folder, what, patience_s)
    return Held(folder, what, patience_s, found[0])


def is_away(path: str | Path) -> bool:
    """Whether a held folder that is `path`, or that it is in, is away now."""
    return any(one.state == "away" for one in _around(path))


def wait_while_away(path: str | Path) -> None:
    """Wait while a held folder that is `path`, or that it is in, is away; ClusterError when that takes too long."""
    for one in _around(path):
        one.wait()


def again_if_away(path: str | Path, ask: Callable[[], _Answer]) -> _Answer:
    """Answer of `ask`, called again where a held folder around `path` was away meanwhile, which it must bear."""
    while True:
        wait_while_away(path)
        try:
            return ask()
        except Exception as error:
            if isinstance(error, ClusterError) or not is_away(path):  # the first was waited for already
                raise


def require_there(path: str | Path) -> None:
    """Wait as `wait_while_away`; ClusterError, too, where such a folder was deleted or replaced."""
    for one in _around(path):
        one.require_there()


def keep_from_making(folder: Path) -> bool:
    """Whether `folder`, which is missing, is or has in it one that is held; it is waited for as `require_there`."""
    folder = folder.absolute()
    found = [one for one in _held if one.folder.is_relative_to(folder)]
    for one in found:
        one.require_there()
    return bool(found)


def pinned_if_held(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Path of `folder` for this process, under which it stays the same while one that is held around it is away."""
    return pinned(folder) if _around(folder) else contextlib.nullcontext(folder)


@contextlib.contextmanager
def pinned(folder: Path) -> Iterator[Path]:
    """Another path of `folder`, under which no library can make it anew while it is away, where the system has such."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = Path(f"/proc/self/fd/{descriptor}")
        yield path if path.exists() else folder
    finally:
        os.close(descriptor)


def _around(path: str | Path) -> list[Held]:
    if not _held:
        return []
    path = Path(path).absolute()
    return [one for one in _held if path.is_relative_to(one.folder)]


def wait_while(is_away: Callable[[], bool], folder: Path, what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until that holds no more of a folder of the work `what`; ClusterError when it takes too long."""
    patience, was_told = Patience(patience_s, longest_pause_s=_RETRY_S), False
    while is_away():
        if not was_told and patience_s:
            log.warning("%s waits for its folder %s, which is away, for at most %.0f s", what, folder, patience_s)
            was_told = True
        if not patience.pause():
            raise ClusterError(
                f"{what} ends, as its folder {folder} has been away for {patience_s:g} s: it is not mounted, or was "
                "moved or deleted, and every process and node of the work needs it under this name. Nothing was "
                "written in its place; bring it back, then run the same command again, which goes on from there"
            )
    if was_told:
        log.warning("folder %s is back; %s goes on", folder, what)
