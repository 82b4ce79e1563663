"""A Python that has heavy libraries imported and becomes, by a fork, whatever Python `launcher.py` is asked to be.

A Ray worker imports for eight seconds of CPU what a training needs; as a fork it has it. Ray itself is not imported
here: its client does not survive a fork. Run as `nursery.py SOCKET PID_FILE OWNER` with a
listening socket; ends with the process OWNER.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

IMPORTED = (
    "deepspeed",
    "pandas",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "transformers.models.big_bird.modeling_big_bird",
    "transformers.models.longformer.modeling_longformer",
)
NAMESPACES = ("ipc", "net", "uts", "mnt", "pid")
"""What a launcher may have of its own, as the tests' hosts have, in the order in which they are entered."""
LIBC = ctypes.CDLL(None, use_errno=True)


def serve(server, owner):
    """Answer launchers until the owner ends; returns in each fork, with the connection to its launcher."""
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    owned = os.pidfd_open(owner)
    forks = {}  # connection of a launcher -> pid of its fork
    poll = select.poll()
    for one in (server, awake, owned):
        poll.register(one, select.POLLIN)
    while True:
        ready = {file for file, _ in poll.poll()}
        if owned in ready:
            os._exit(0)  # the forks end with it
        if awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(awake, 4096)
            for connection in report_ended(forks):
                poll.unregister(connection)
                connection.close()
        for connection in [one for one in forks if one.fileno() in ready]:  # a launcher that was killed
            poll.unregister(connection)
            os.kill(forks.pop(connection), signal.SIGKILL)
            connection.close()
        if server.fileno() in ready:
            connection, _ = server.accept()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for one in (server, *forks):
                    one.close()
                for end in (awake, wake, owned):
                    os.close(end)
                return connection
            forks[connection] = pid
            poll.register(connection, select.POLLHUP | select.POLLRDHUP)  # what it says is for the fork to read


def report_ended(forks):
    """Tell the launchers of forks that have ended their exit codes; returns the connections to them."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            codes[child[0]] = os.waitstatus_to_exitcode(child[1])
    ended = [connection for connection, pid in forks.items() if pid in codes]
    for connection in ended:
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % codes[forks.pop(connection)])
    return ended


def enter(pid):
    """Be where that process is: its network, files, names, and among its processes."""
    mine = {name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in NAMESPACES}
    theirs = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES}
    for name, file in theirs.items():
        if os.fstat(file).st_ino != mine[name] and LIBC.setns(file, 0) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    if os.fstat(theirs["pid"]).st_ino != mine["pid"] and (child := os.fork()):  # only children are there
        os._exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    for file in theirs.values():
        os.close(file)


def become(connection):
    """Take the launcher's place: where it is, its files, environment, folder, mask, limits, arguments."""
    import torch

    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    enter(struct.unpack("3i", peer)[0])
    LIBC.prctl(1, signal.SIGKILL)
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    os.setsid()  # Ray ends the process group of a worker that has ended
    connection.sendall(b"%d\n" % os.getpid())
    connection.close()
    request = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    mine = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    for name, limits in request["limits"].items():
        resource.setrlimit(getattr(resource, name), tuple(limits))
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        # Ray replaces them, and what is collected then must not close the number under it
        stream = open(number, mode, buffering=1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = request["arguments"]
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    installed = [path for path in sys.path[1:] if path not in mine]
    sys.path[:] = [str(Path(sys.argv[0]).parent), *given, *installed]
    tempfile.tempdir = None
    random.seed()
    torch.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


if __name__ == "__main__":
    gc.disable()  # while what stays is imported
    for name in IMPORTED:
        importlib.import_module(name)
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a thread of this process would be missing in its forks"
    gc.collect()
    gc.freeze()
    gc.enable()
    listening, pid_file, owner = sys.argv[1:]
    Path(pid_file).write_text(str(os.getpid()))
    become(serve(socket.socket(fileno=int(listening)), int(owner)))
    runpy.run_path(sys.argv[0], run_name="__main__")
