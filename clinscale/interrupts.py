"""Ctrl-C, SIGTERM and a closed terminal: one interruption at a time, so that a second one breaks no tidying up."""

import contextlib
import os
import signal
import stat
import time
from types import FrameType

TIDYING_S = 10.0
"""Time after an interruption in which others are not heard: impatient fingers, and supervisors that ask twice."""
EXIT_CODE = 130
"""Exit code of a command that was interrupted."""
GO_ON = "the same command does what is left"
"""Words in which an interrupted command says how to go on."""

_heard_s = float("-inf")


def listen() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal interrupt this process, unless it was started deaf to them."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job of a shell is deaf
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, _hang_up)


def listen_no_more() -> None:
    """Ignore Ctrl-C and a closed terminal: all is said and done, and the process ends by itself."""
    for kind in (signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)


def forget() -> None:
    """Hear the next one, whenever the last one was: that one was lost on its way."""
    global _heard_s
    _heard_s = float("-inf")


def _interrupt(kind: int, frame: FrameType | None) -> None:
    global _heard_s
    now_s = time.monotonic()
    if now_s - _heard_s < TIDYING_S:
        with contextlib.suppress(OSError):
            os.write(
                2,
                f"\nit is tidying up; press again {TIDYING_S:g} s after the first time to break that off\n".encode(),
            )
        return
    _heard_s = now_s
    raise KeyboardInterrupt


def _hang_up(kind: int, frame: FrameType | None) -> None:
    """Interrupt, and let what is still printed to the closed terminal go nowhere: failing would break tidying up."""
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):  # a stream that was closed before
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    _interrupt(kind, frame)
