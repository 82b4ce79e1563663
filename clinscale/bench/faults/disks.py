"""Disks that are full or read-only: small file systems in memory, mounted for one try."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FILLER = "filler"


def why_no_disk() -> str | None:
    """Reason why this process may not mount a file system; None where it may."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "mounting a small disk needs root"
    return None if shutil.which("mount") else "mounting a small disk needs the program mount"


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    path: Path

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but `leave_bytes`, rounded down to pages."""
        free_bytes = shutil.disk_usage(self.path).free - leave_bytes
        with (self.path / _FILLER).open("wb") as stream, contextlib.suppress(OSError):
            stream.write(bytes(max(0, free_bytes)))

    def empty(self) -> None:
        """Give the room back."""
        (self.path / _FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        """Let nobody write; files that are open for writing must be closed first, or it stays as it is."""
        _mount("-o", "remount,ro", str(self.path))

    def open(self) -> None:
        """Let everybody write again."""
        _mount("-o", "remount,rw", str(self.path))


@contextlib.contextmanager
def disk(path: Path, *, size_bytes: int) -> Iterator[Disk]:
    """Mount an empty file system of `size_bytes` at `path`."""
    path.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        # lazily: a database that is open in this process would keep it busy
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
