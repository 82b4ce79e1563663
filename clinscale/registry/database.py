"""A tracking database that is a SQLite file: waited for while its folder is away, and never made anew in its place.

MLflow opens connections whenever it needs one, and SQLite makes a file that is missing: where a shared folder is away,
runs would go to an empty database on the disk below.
"""

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clinscale import interrupts
from clinscale.errors import ClusterError, RegistryError, with_causes
from clinscale.held import Held, opened, wait_while
from clinscale.registry.answers import patience_s

_MOVED = ("SQLITE_READONLY_DBMOVED", "SQLITE_CANTOPEN")
_KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_known: set[str] = set()
"""Paths of the files of which no connection makes another."""


class Database:
    """The file, which somebody has made, and its folder, which may go away and come back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._what = f"work with tracking database {path.name}"
        self._folder: Held | None = None
        _make_none_anew(str(path))

    def ask(self, call: Callable[..., Any], *args: Any, moves_files: bool = False, **named: Any) -> Any:
        """Answer of a call of MLflow's, which is repeated where the folder went away meanwhile.

        Raises:
            RegistryError: it is away for longer than `answers.waiting` says, or was deleted or replaced.
        """
        was_moved = False
        while True:
            self._wait()
            try:
                answer = call(*args, **named)
            except Exception as error:
                if self._is_there and (was_moved or not _is_of_moved(error)):
                    raise
                was_moved = self._is_there
            else:
                # a statement was written to the file that was known; a file may lie below the mount point
                if self._is_there or not moves_files:
                    return answer

    def begin(self) -> None:
        """Take what is in the place of a folder that was deleted or replaced, for work that begins with that."""
        if self._folder is not None and self._folder.state == "gone":
            self._folder.close()
            self._folder = None

    @property
    def _is_there(self) -> bool:
        return self._folder is not None and self._folder.state == "there"

    def _wait(self) -> None:
        if self._folder is not None and self._folder.state == "away" and not patience_s():
            raise RegistryError(
                f"tracking database {self._path} is away: nothing is in its folder, which is not there"
            )
        with _interruptible():
            try:
                if self._folder is None:
                    wait_while(lambda: not self._path.exists(), self._path.parent, self._what, patience_s())
                    self._folder = opened(self._path.parent, self._what, patience_s())
                self._folder.require_there(patience_s())
            except ClusterError as error:
                raise RegistryError(str(error)) from None


def _is_of_moved(error: BaseException | None) -> bool:
    """Whether SQLite missed the file under its name."""
    return any(getattr(getattr(one, "orig", None), "sqlite_errorname", "") in _MOVED for one in with_causes(error))


def _make_none_anew(path: str) -> None:
    from sqlalchemy import Engine, event

    _known.add(path)
    if not event.contains(Engine, "do_connect", _connect):
        event.listen(Engine, "do_connect", _connect)


def _connect(dialect: Any, record: Any, args: list[Any], named: dict[str, Any]) -> Any:
    """A connection to one of our files that is there; None leaves any other to SQLAlchemy."""
    if dialect.name != "sqlite" or not args or args[0] not in _known:
        return None
    return sqlite3.connect(f"{Path(args[0]).as_uri()}?mode=rw", *args[1:], **named, uri=True)


_set_aside: dict[signal.Signals, Any] = {}
"""Handlers of signals in whose place are those of `uninterrupted`."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal interrupt after the block and not within it; one that comes `TIDYING_S` later interrupts at once.

    A KeyboardInterrupt within a statement leaves SQLite's transaction open for as long as its traceback is held, so
    code that closes its runs after that finds the database locked by itself.
    """
    in_main = threading.current_thread() is threading.main_thread()  # the only one that signals interrupt
    handlers = {kind: found for kind in _KINDS if in_main and callable(found := signal.getsignal(kind))}
    came: list[tuple[int, Any, float]] = []

    def keep(kind: int, frame: Any) -> None:
        came.append((kind, frame, time.monotonic()))
        if len(came) > 1 and came[-1][2] - came[0][2] >= interrupts.TIDYING_S:  # the server hangs
            handlers[signal.Signals(kind)](kind, frame)

    is_outer = in_main and not _set_aside
    if is_outer:
        _set_aside.update(handlers)
    for kind in handlers:
        signal.signal(kind, keep)
    try:
        yield
    finally:
        if is_outer:
            _set_aside.clear()
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        for first, frame, _ in came[:1]:
            handlers[signal.Signals(first)](first, frame)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a signal interrupt within the block, in which no statement runs, though it is in `uninterrupted`."""
    in_main = threading.current_thread() is threading.main_thread()
    kept = {kind: signal.signal(kind, handler) for kind, handler in _set_aside.items()} if in_main else {}
    try:
        yield
    finally:
        for kind, handler in kept.items():
            signal.signal(kind, handler)
