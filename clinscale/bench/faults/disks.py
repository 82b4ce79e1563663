"""Disks that are full, read-only or slow: small file systems in memory or in a file, mounted for one try."""

import contextlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clinscale.bench.faults.loss import check

SLOW_BYTES_PER_S = 10**6
"""Speed of a slow disk's writes."""

_FILLER = "filler"
_SERVER_BYTES = 256 * 2**20
_AWAY_AT_MOST_S = 60.0
_SPEEDS = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
_PROGRAMS = ("mount", "losetup", "mkfs.ext4")


def why_no_disk() -> str | None:
    """Reason why this process may not mount a file system; None where it may."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "mounting a small disk needs root"
    return None if shutil.which("mount") else "mounting a small disk needs the program mount"


def why_no_slow_disk() -> str | None:
    """Reason why this process cannot slow a disk down; None where it can."""
    if missing := [name for name in _PROGRAMS if not shutil.which(name)]:
        return f"a slow disk needs the programs {' and '.join(missing)}"
    if not os.access(_SPEEDS, os.W_OK):
        return f"a slow disk needs root and the blkio controller of cgroup v1, {_SPEEDS}"
    return None if list(Path("/dev").glob("loop*")) else "a slow disk needs a loop device"


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    path: Path

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all room but `leave_bytes`, rounded down to pages; what others take meanwhile is not there to take."""
        free_bytes = shutil.disk_usage(self.path).free - leave_bytes
        with contextlib.suppress(OSError), (self.path / _FILLER).open("wb") as stream:
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


@dataclass(frozen=True)
class SharedFolder:
    """A folder that is mounted, as one of a file server is, and that may go away and come back."""

    path: Path
    _server: Path

    def leave(self) -> None:
        """Unmount it: files that are open stay so, and under its name is an empty folder."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def come_back(self) -> None:
        """Mount it again, as it was left."""
        _mount("--bind", str(self._server), str(self.path))


@contextlib.contextmanager
def shared_folder(path: Path) -> Iterator[SharedFolder]:
    """Mount an empty folder at `path`; when it is unmounted, no file may lie under its name.

    Raises:
        LossError: a file was written there while it was away.
    """
    with disk(path.with_name(f"{path.name}-server"), size_bytes=_SERVER_BYTES) as server:
        path.mkdir()
        place = SharedFolder(path, server.path)
        place.come_back()
        try:
            yield place
        finally:
            while path.is_mount():
                place.leave()
    written = sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())
    check(not written, f"while it was away, this was written in its place: {', '.join(written[:3])}")


@contextlib.contextmanager
def leaving_home(path: Path, rng: random.Random) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A shared folder for work, and a function that takes it away, once, and lets it come back within a minute."""
    with shared_folder(path) as place:
        back = threading.Timer(rng.uniform(1, _AWAY_AT_MOST_S), place.come_back)

        def leave() -> None:
            if not back.ident:
                place.leave()
                back.start()

        try:
            yield place.path, leave
        finally:
            if back.ident:
                back.join()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def slow_disk(path: Path, *, size_bytes: int) -> Iterator[Path]:
    """Mount an empty file system at `path` that takes `SLOW_BYTES_PER_S`; what waits for the disk waits for that.

    It is ext4 on a loop device of its own, whose writes the kernel delays, those of its page cache too.
    """
    path.mkdir(parents=True)
    image = path.with_name(f"{path.name}.image")
    with image.open("wb") as stream:
        stream.truncate(size_bytes)
    device = Path(_said("losetup", "--find", "--show", str(image)))
    number = (Path("/sys/block") / device.name / "dev").read_text().strip()
    try:
        _said("mkfs.ext4", "-q", str(device))
        _mount(str(device), str(path))
        path.chmod(0o700)
        _SPEEDS.write_text(f"{number} {SLOW_BYTES_PER_S}")
        try:
            yield path
        finally:
            _SPEEDS.write_text(f"{number} 0")  # no limit; what is not written yet need not wait
            subprocess.run(["umount", "--lazy", str(path)], check=True)
    finally:
        _said("losetup", "--detach", str(device))  # when the file system has gone


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
