"""A `python SCRIPT ARGUMENTS` that is a fork of a `nursery.py` which was begun with the same settings.

Where there is none, it is an ordinary Python. It lives as long as its fork, passes signals on to it, and takes its exit
code; when it is killed, so is the fork. CLINSCALE_TESTS_FORKED is the folder with the addresses of the nurseries.
"""

import ctypes
import hashlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

READ_BY_IMPORTS = ("CUDA_", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HOME", "LD_", "MKL_", "OMP_")
"""Beginnings of the environment variables that libraries read when they are imported, and that tests may set.

TMPDIR is none of them, and hosts and jobs of Slurm have their own.
"""
LIMITS = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE")


def settings():
    """What a nursery and its forks have in common, as a short name."""
    read = {name: value for name, value in os.environ.items() if name.startswith(READ_BY_IMPORTS) and value}
    return hashlib.sha256(json.dumps([read, os.getuid()], sort_keys=True).encode()).hexdigest()[:16]


def launch(python):
    """Be the fork's place among the processes until it ends."""
    arguments = sys.argv[1:]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    umask = os.umask(0)
    os.umask(umask)
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS}
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd()), "umask": umask}
    message = json.dumps(request | {"limits": limits}).encode() + b"\n"
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(Path(os.environ["CLINSCALE_TESTS_FORKED"]) / settings()))
        connection.sendall(message[socket.send_fds(connection, [message], [0, 1, 2]) :])
        answers = connection.makefile()
        fork = int(answers.readline())
    except (OSError, ValueError):  # there is no nursery, or none any more
        os.execv(python, [python, *arguments])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(fork, number))
    code = int(answers.readline() or -signal.SIGKILL)
    if code < 0:
        if code not in (-signal.SIGKILL, -signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
