"""The process that writes a run: its name on the run, and signs that it is gone, by one host's clock at a time."""

import contextlib
import os
import socket
import time
from pathlib import Path

from clinscale.registry.spool import HEARTBEAT_S

_HEARTBEATS_MISSED = 15
_DAY_S = 86400.0


def owner() -> str:
    """`HOST PID START@BOOT` of this process."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid()):.0f}@{_boot()}"


def is_elsewhere(owner: str) -> bool:
    """Whether a process is one of another host, and so cannot be looked up here."""
    return owner.partition(" ")[0] != socket.gethostname()


def is_gone(owner: str) -> bool:
    """Whether `HOST PID START@BOOT` names a process of this host that no longer lives; its number may be reused."""
    import psutil  # type: ignore[import-untyped]

    if is_elsewhere(owner):
        return False
    pid, _, start = owner.partition(" ")[2].partition(" ")
    started, known, boot = start.partition("@")
    try:
        if not known:  # of an older version of clinscale: a time of day
            return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) > 2)
        return boot != _boot() or abs(_started(int(pid)) - float(started)) > 2
    except psutil.NoSuchProcess:
        return True


def seems_silent(alive_at: str) -> bool:
    """Whether a heartbeat looks old by this host's clock, which may be wrong: a reason to look again, no more."""
    return time.time() - float(alive_at) > _HEARTBEATS_MISSED * HEARTBEAT_S


def look_at(alive_at: str) -> str:
    """A look at a heartbeat, for `has_stopped` to compare with: `ALIVE_AT HOST@BOOT SECONDS-SINCE-BOOT SECONDS`."""
    return f"{alive_at} {socket.gethostname()}@{_boot()} {time.monotonic():.0f} {time.time():.0f}"


def is_look_at(look: str, alive_at: str) -> bool:
    """Whether the look was at this very heartbeat."""
    return look.partition(" ")[0] == alive_at


def has_stopped(look: str, alive_at: str) -> bool:
    """Whether no heartbeat came after an earlier look, for long.

    A look of this host was a quarter of an hour ago, fifteen heartbeats, by the time since its boot, which nobody sets.
    One of another host was a day ago: more than its clock and this one differ.
    """
    if not is_look_at(look, alive_at):
        return False
    _, looker, since_boot_s, at_s = look.split()
    if looker == f"{socket.gethostname()}@{_boot()}":
        return time.monotonic() - float(since_boot_s) > _HEARTBEATS_MISSED * HEARTBEAT_S
    return time.time() - float(at_s) > _DAY_S


def _started(pid: int) -> float:
    """Seconds from the boot of this host to the start of a process: unlike a time of day, a clock set back keeps it."""
    import psutil

    booted_s = psutil.boot_time()  # first: older versions of psutil reckon the other from what this found
    return float(psutil.Process(pid).create_time() - booted_s)


def _boot() -> str:
    """Id of the present boot of this host; empty where the system gives none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    return ""
