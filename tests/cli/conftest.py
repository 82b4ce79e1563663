"""Verbs in the process of the tests."""

import signal
import subprocess
import sys

import pytest

from clinscale.cli.main import app
from clinscale.cli.output import keep_stdout_clean


@pytest.fixture
def here(capfd):
    """A verb in this process, which has everything imported."""

    def run(*arguments) -> subprocess.CompletedProcess[str]:
        with keep_stdout_clean():
            code = app([*map(str, arguments)], standalone_mode=False)
        return subprocess.CompletedProcess(arguments, code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def as_a_process():
    """`main` may be called: the signals and the hook that it sets for the rest of a process are put back."""
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for kind, handler in handlers.items():
        signal.signal(kind, handler)
