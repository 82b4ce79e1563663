"""Workers of every Ray that a test starts, as forks of one process that has imported what they import.

Each has its own interpreter, files and signals as any worker; what is left out is eight seconds of CPU.
`CLINSCALE_TESTS_FORKED=no pytest ...` leaves Ray's workers as Ray starts them.
"""

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from launcher import settings

_SOURCE = Path(__file__).parent
_OFF = "off"
"""File beside the launcher that says to use Ray's own workers."""


def with_forks(runtime_env):
    """Ray's hook, RAY_RUNTIME_ENV_HOOK: the runtime environment with the launcher as its Python."""
    folder = Path(os.environ["CLINSCALE_TESTS_FORKED"])
    forked = {} if (folder / _OFF).exists() else {"py_executable": str(folder / "python")}
    return forked | dict(runtime_env or {})


@contextlib.contextmanager
def without_forks():
    """Drivers that begin meanwhile have Ray's own workers: forks are done before their like is there on other nodes."""
    if folder := os.environ.get("CLINSCALE_TESTS_FORKED"):
        Path(folder, _OFF).touch()
    yield
    if folder:
        Path(folder, _OFF).unlink()


def begin():
    """Begin the nursery and tell Ray, here and in all processes begun after it; returns how to clean up."""
    if os.environ.pop("CLINSCALE_TESTS_FORKED", "") == "no":
        return lambda: None
    from clinscale.runtime import QUIET  # what the workers have, and libraries read, too

    folder = Path(tempfile.mkdtemp(prefix="clinscale-forked-"))
    launcher = folder / "python"
    source = (_SOURCE / "launcher.py").read_text()
    launcher.write_text(f"#!{sys.executable} -IS\n{source}\n\nlaunch({sys.executable!r})\n")
    launcher.chmod(0o700)
    address = folder / settings()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(address))
    server.listen(64)  # launchers wait here while it imports
    given = [str(one) for one in (server.fileno(), address.with_suffix(".pid"), os.getpid())]
    command = [sys.executable, _SOURCE / "nursery.py", *given]
    # pyarrow's allocator would have a thread, which no fork has
    environment = os.environ | QUIET | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with (folder / "log").open("w") as log:
        if os.fork() == 0:  # it is nobody's child: tests look at what is left of theirs
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "pass_fds": [server.fileno()]}
            subprocess.Popen(command, env=environment, start_new_session=True, **files)
            os._exit(0)
        os.wait()
    server.close()
    os.environ["CLINSCALE_TESTS_FORKED"] = str(folder)
    os.environ["RAY_RUNTIME_ENV_HOOK"] = "forked_ray.with_forks"
    return functools.partial(shutil.rmtree, folder, ignore_errors=True)  # the nursery ends with this process


def forks():
    """The processes that are forks of this process's nursery; they are nobody's descendants here."""
    folder = Path(os.environ.get("CLINSCALE_TESTS_FORKED", "no"))
    nurseries = [psutil.Process(int(path.read_text())) for path in folder.glob("*.pid")]
    return [fork for nursery in nurseries for fork in nursery.children(recursive=True)]


def kept():
    """The variables by which another environment has forks, too."""
    names = ("CLINSCALE_TESTS_FORKED", "PYTHONPATH", "RAY_RUNTIME_ENV_HOOK")
    return {name: os.environ[name] for name in names if name in os.environ}


def clean_environment(*, forks=True):
    """This process's environment without what it has set for Ray and MLflow, with or without forks."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    return clean | kept() if forks else clean
