"""A command line in a terminal of its own, which sends Ctrl-C and may be closed."""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clinscale.bench.faults.command import MARK, kill_marked, marked, wait_gone

_CTRL_C = b"\x03"
_POLL_S = 0.05
_TAKE = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for kind in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # a shell's background job hands deafness on
    signal.signal(kind, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Script that makes the terminal the one of the session, and becomes the command."""


class Terminal:
    """A `clinscale VERB` in a terminal: its process is the leader of a session, as a shell's job is of its group."""

    def __init__(self, words: Sequence[str], home: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._seen = bytearray()
        self.scratch = Path(tempfile.mkdtemp(prefix="f"))
        self._screen: int | None
        self._screen, inside = pty.openpty()
        command = [sys.executable, "-I", "-c", _TAKE, sys.executable, "-m", "clinscale", *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {MARK: self._mark, "TMPDIR": str(self.scratch), "TERM": "xterm", "COLUMNS": "160"}
        environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), inside)
        self.process = subprocess.Popen(command, **streams, cwd=home, env=environment, start_new_session=True)
        os.close(inside)

    @property
    def said(self) -> str:
        """Text on the screen until now, without what steers it."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._seen.decode("utf-8", "replace"))

    def wait(self, patience_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Read the screen until that holds or the command ends; whether it ended, within the patience."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end and not until():
            ended = self.process.poll() is not None
            self._read()
            if ended:
                return True
        return False

    def _read(self) -> None:
        if self._screen is None:
            time.sleep(_POLL_S)
            return
        while select.select([self._screen], [], [], _POLL_S)[0]:
            try:
                self._seen += os.read(self._screen, 65536)
            except OSError:  # nobody has the other end open any more
                time.sleep(_POLL_S)
                return

    def press_ctrl_c(self) -> None:
        """Type Ctrl-C, which interrupts all processes that the terminal has in its foreground."""
        if self._screen is not None:
            os.write(self._screen, _CTRL_C)

    def close(self) -> None:
        """Close it, as a window or a connection is closed."""
        if self._screen is not None:
            os.close(self._screen)
            self._screen = None

    def wait_gone(self) -> None:
        """LossError unless all that it started ends soon."""
        wait_gone(lambda: marked(self._mark))

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        kill_marked(self._mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
