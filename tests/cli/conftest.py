"""Commands as a shell runs them, without the seconds that Python takes to import their libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clinscale(tmp_path_factory):
    """`clinscale(*arguments, cwd=..., **environment)` -> CompletedProcess; `warm.py` says how."""
    folder = tmp_path_factory.mktemp("commands")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    inherited["HF_HUB_OFFLINE"] = "1"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    warm = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm.py")], env=inherited, text=True, bufsize=1, **pipes
    )

    def run(*arguments, cwd=folder, **environment):
        said = {name: folder / name for name in ("stdout", "stderr")}
        for path in said.values():
            path.write_text("")
        asked = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "environment": inherited | environment}
        warm.stdin.write(json.dumps(asked | {name: str(path) for name, path in said.items()}) + "\n")
        code = int(warm.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in said.values()))

    yield run
    warm.stdin.close()
    assert warm.wait() == 0
