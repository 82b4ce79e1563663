"""Leftovers of processes that were killed: what `clinscale doctor` shows, and what its `--repair` fixes.

Only what a process of this user on this host left, and which is surely gone: it is looked up by number and start, and a
lock by asking for it. What others own, or a living process uses, is neither shown nor touched.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale.errors import AccessError, ClusterError

if TYPE_CHECKING:
    from clinscale.registry import Tracking


@dataclass(frozen=True)
class Leftover:
    """Something that a killed process left."""

    kind: str
    """`orphaned run`, `zombie trial`, `torn checkpoint` or `stale lock`."""
    thing: str
    """Name or path."""
    outcome: str
    """Outcome of `fix`: closed, removed or set aside."""
    fix: Callable[[], bool]
    """Function that fixes it, and says whether there still was something to fix."""


def leftovers(tracking: "Tracking", home: Path) -> list[Leftover]:
    """Everything that was left in `home` and in its tracking server; RegistryError where that does not answer."""
    return [*_runs(tracking), *_checkpoints(tracking, home), *_locks(home)]


def _runs(tracking: "Tracking") -> Iterator[Leftover]:
    from clinscale import registry

    for record in registry.orphans(tracking):
        kind = "zombie trial" if record.kind == "trial" else "orphaned run"

        def close(run_id: str = record.id) -> bool:
            return bool(registry.close_orphans(tracking, only=run_id))

        yield Leftover(kind, f"{record.name} ({record.id})", "closed as KILLED", close)


def _checkpoints(tracking: "Tracking", home: Path) -> Iterator[Leftover]:
    """Torn checkpoints of pretrainings that nobody is running: a living one may be saving.

    What MLflow says of a name may be of another server, or of a clock set back; the lock of its folder is sure.
    """
    from clinscale import engine, registry
    from clinscale.pretrain import CHECKPOINTS
    from clinscale.runfolder import is_run, sole_writer

    there = {path.name: path for path in sorted((home / "pretrain").glob("*")) if _is_own(path)}
    for name in sorted(registry.gone_from_here(tracking, "pretrain") & there.keys()) if there else ():
        if is_run(there[name]):
            continue
        with contextlib.suppress(AccessError):  # another account may have written there; a resume says so
            for path, fault in engine.torn_checkpoints(there[name] / CHECKPOINTS).items():

                def fix(name: str = name, path: Path = path) -> bool:
                    with contextlib.suppress(ClusterError), sole_writer(there[name], patience_s=0):
                        # nobody has resumed or fixed it meanwhile
                        if path.exists() and name in registry.gone_from_here(tracking, "pretrain"):
                            engine.fix_torn(path)
                            return True
                    return False

                done = "removed" if path.name.startswith(".") else "set aside"
                yield Leftover("torn checkpoint", f"{path} ({fault})", done, fix)


def _locks(home: Path) -> Iterator[Leftover]:
    from clinscale import registry

    for path in registry.stale_locks(home / "models" / "cache"):
        yield Leftover("stale lock", str(path), "removed", functools.partial(registry.remove_stale_lock, path))


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.lstat().st_uid == os.geteuid()
