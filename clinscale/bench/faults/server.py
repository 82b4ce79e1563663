"""A tracking server that goes away, answers nonsense or takes its time: a real one, behind a real proxy of ours."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Literal

from clinscale.bench.faults.loss import LossError

Answer = Literal["fair", "500", "nonsense", "slow", "cut"]
"""Behaviour of the proxy; `cut` passes the request on and loses the answer."""

_START_S = 300.0
_PROXY = Path(__file__).with_name("proxy.py")


class TrackingServer:
    """A process of `mlflow server` on a database of its own, and the process of a proxy in front of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._proxy_port = _free_port(), _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._proxy_port}"
        self.direct_uri = f"http://127.0.0.1:{self._port}"
        """The server's own, where nobody listens when it is down."""

    @property
    def _answer(self) -> Path:
        return self._folder / "answer"

    def start(self) -> None:
        """Start the server again, or for the first time, and wait until it answers."""
        database = f"sqlite:///{self._folder / 'mlflow.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", database]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise LossError("the tracking server did not start")

    def kill(self) -> None:
        """Kill it and its children at once, as a power cut does."""
        self._signal(signal.SIGKILL)
        if self._server:
            self._server.wait()

    def stop(self) -> None:
        """Stop all its processes, which keep what they have and answer nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def answer(self, how: Answer) -> None:
        """Have the proxy answer so from now on."""
        partial = self._answer.with_name("answer.new")
        partial.write_text(how, encoding="utf-8")
        partial.replace(self._answer)

    def _signal(self, number: signal.Signals) -> None:
        if self._server:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, number)

    def __enter__(self) -> "TrackingServer":
        self._folder.mkdir(parents=True, exist_ok=True)
        self.answer("fair")
        arguments = [str(self._proxy_port), str(self._port), str(self._answer)]
        self._proxy = subprocess.Popen([sys.executable, "-I", str(_PROXY), *arguments], stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._proxy:
            self._proxy.kill()
            self._proxy.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
