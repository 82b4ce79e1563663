"""A Ray cluster of several nodes on this machine, each started by `ray start` with an environment of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forked_ray

from clinscale.runtime import PATIENT, one_start_at_a_time

_QUICK = {
    "OMP_NUM_THREADS": "1",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # at the end nobody is left to wait for
    "RAY_prestart_worker_first_driver": "0",  # workers that no test asks for
}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Loopback:
    """A head with its dashboard on loopback, and nodes that come and go; asks for a token unless told otherwise.

    `prefix` comes before `ray start` of the head, as `unshare` does.
    """

    def __init__(self, folder, *, token=True, prefix=()):
        self.folder = Path(folder)
        self.address = f"127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.token_file = self.folder / "token" / "auth_token"
        self.token_file.parent.mkdir(mode=0o700)
        self.token_file.write_text(secrets.token_hex(32))
        self.token_file.chmod(0o600)
        self.auth = {"RAY_AUTH_MODE": "disabled"}
        if token:
            self.auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        self._scratch = Path(tempfile.mkdtemp(prefix="cs-ray-"))  # Ray's sockets need a short path
        self._nodes = []
        host, port = self.address.split(":")
        options = [f"--port={port}", f"--node-ip-address={host}"]
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
        self._start("head", ["--head", *options, *dashboard], prefix)

    def add_node(self, name, prefix=(), **environment):
        """One more node; `prefix` comes before `ray start`, as `unshare` does."""
        return self._start(name, [f"--address={self.address}"], prefix, environment)

    def kill(self, node):
        """SIGKILL to all of a node at once, as a power cut does."""
        for process in _tree(node.pid):
            with contextlib.suppress(ProcessLookupError):  # ended by the death of another
                os.kill(process, signal.SIGKILL)
        node.wait()

    def stop(self):
        for node in reversed(self._nodes):
            if node.poll() is None:
                node.terminate()
        end = time.monotonic() + 20
        for node in reversed(self._nodes):
            try:
                node.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(node)
        shutil.rmtree(self._scratch, ignore_errors=True)

    @one_start_at_a_time()
    def _start(self, name, options, prefix=(), environment=None):
        """The node when it runs; on a busy machine Ray may give it up, and it is started again."""
        for _ in range(3):
            node, log = self._begin(name, options, prefix, environment or {})
            while node.poll() is None:
                if b"Ray runtime started" in log.read_bytes():
                    return node
                time.sleep(0.1)
            self._nodes.remove(node)
            with contextlib.suppress(ProcessLookupError):  # of what had come up
                os.killpg(node.pid, signal.SIGKILL)
            if b"timed out during startup" not in log.read_bytes():
                break
        raise AssertionError(log.read_text())

    def _begin(self, name, options, prefix, environment):
        clean = forked_ray.clean_environment()
        clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"  # jobs are run by `python`
        log = self.folder / f"{name}.log"
        # as on hosts of their own: no two nodes share a folder, and no two clusters a port
        scratch = ["--temp-dir", str(self._scratch / secrets.token_hex(2))]
        agent = [f"--dashboard-agent-listen-port={free_port()}"]
        small = ["--num-cpus=1", "--object-store-memory=100000000", "--include-log-monitor=false"]
        small += ["--disable-usage-stats", "--block"]
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        with log.open("wb") as stream:
            node = subprocess.Popen(
                [*prefix, *ray, "start", *options, *scratch, *agent, *small],
                env=clean | self.auth | PATIENT | _QUICK | environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._nodes.append(node)
        return node, log


def _tree(pid):
    import psutil

    try:
        own = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return []
    return [pid, *(child.pid for child in own.children(recursive=True))]
