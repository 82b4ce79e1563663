"""A watch over this process: another one kills it when it has done no step for too long, stopped and hanging alike.

Who started a process hears at once that it died, and never that it is stopped or hangs; so one that does is killed.
The watcher is on the same machine, so that neither clocks nor networks between machines matter.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BEATS_PER_SILENCE = 4


@dataclass(frozen=True)
class _Watch:
    pipe: int
    """End of a pipe to the watcher."""
    silence_s: float


_watch: _Watch | None = None
"""The watch over this process, if there is one."""


@contextlib.contextmanager
def watched(silence_s: float) -> Iterator[None]:
    """Have this process killed when it has not called `beat` for `silence_s` seconds while the block runs."""
    global _watch
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    program = str(Path(__file__).with_name("watcher.py"))
    command = [sys.executable, "-I", "-S", program, str(os.getpid()), str(silence_s)]
    # a session of its own, so that Ctrl-C and what stops a terminal's processes pass it by
    watcher = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True)
    os.close(theirs)
    before, _watch = _watch, _Watch(ours, silence_s)
    try:
        yield
    finally:
        _watch = before
        os.close(ours)
        watcher.kill()  # a fork of this process may hold the pipe open
        watcher.wait()


def beat() -> None:
    """Say that this process has done a step; nothing happens where nobody watches."""
    if _watch:
        with contextlib.suppress(OSError):  # the pipe is full of beats, or the watcher was killed
            os.write(_watch.pipe, b".")


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """No step is expected of this process while the block runs, as it waits for another one.

    A thread beats meanwhile, so that the process must at least be able to run.
    """
    if not _watch:
        yield
        return
    is_over, interval_s = threading.Event(), _watch.silence_s / _BEATS_PER_SILENCE

    def beat_on() -> None:
        while not is_over.wait(interval_s):
            beat()

    beat()
    thread = threading.Thread(target=beat_on, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        beat()
