"""Verbs in the process of the tests."""

import subprocess

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
