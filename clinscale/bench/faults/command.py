"""A pretraining by the command line in processes of its own, and the processes that a fault may be done to."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from clinscale import runtime
from clinscale.bench.faults.ground import Ground
from clinscale.bench.faults.loss import LossError
from clinscale.bench.faults.network import DEVICE, Network
from clinscale.config import merge
from clinscale.engine import newest_checkpoint
from clinscale.pretrain import CHECKPOINTS, PretrainConfig

EVERY_STEPS = 5
"""Steps between checkpoints, unless asked otherwise."""

_NAME = "base"
_PORT = 6379
_STARTS = 3
_SMALL_NODE = (
    "--block",
    "--num-cpus=1",
    "--object-store-memory=157286400",
    "--disable-usage-stats",
)
_STALL_S = 20.0
"""`runtime.collective_timeout_s`."""
_PATIENCE_S, _GONE_S = 480.0, 60.0
_POLL_S = 0.02
MARK = "CLINSCALE_BENCH_FAULT"
"""Environment variable that all processes of a command inherit."""


@dataclass(frozen=True)
class Place:
    """The Ray that a command runs on."""

    mark: str
    """Value of `MARK` of all its processes."""
    address: str | None = None
    """None: the command starts one of its own."""
    inside: tuple[str, ...] = ()
    """Words that begin a command on its head, where that is not this machine itself."""


@contextlib.contextmanager
def own_ray() -> Iterator[Place]:
    """A Ray that the command starts for itself."""
    yield Place(uuid.uuid4().hex)


@contextlib.contextmanager
def several_nodes(count: int) -> Iterator[Place]:
    """A Ray of that many nodes of one CPU each on this machine."""
    mark = uuid.uuid4().hex
    with runtime.several_nodes(count, num_cpus=1, **{MARK: mark}) as address:
        yield Place(mark, address)


@contextlib.contextmanager
def nodes_apart(net: Network) -> Iterator[Place]:
    """A Ray of a node of one CPU in each of the network's, the first of which is its head."""
    mark = uuid.uuid4().hex
    environment = os.environ | runtime.PATIENT | {MARK: mark, "GLOO_SOCKET_IFNAME": DEVICE}
    environment |= {"RAY_AUTH_MODE": "disabled"}  # nobody else is on their network
    head = f"{net.nodes[0].address}:{_PORT}"
    try:
        for node in net.nodes:
            as_head = ["--head", "--port", str(_PORT), "--include-dashboard=false"]
            role = as_head if node is net.nodes[0] else ["--address", head]
            # it ends with this process, however that ends
            begin = ["setpriv", "--pdeathsig", "TERM", *node.inside, str(Path(sys.executable).with_name("ray"))]
            _start_node([*begin, "start", *role, "--node-ip-address", node.address, *_SMALL_NODE], environment)
        yield Place(mark, head, tuple(net.nodes[0].inside))
    finally:
        kill_marked(mark)


def _start_node(words: list[str], environment: dict[str, str]) -> None:
    """A node of Ray, tried again where a busy machine brings up none in the time that Ray allows."""
    for _ in range(_STARTS):
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(words, env=environment, **streams)
        assert process.stdout is not None
        while line := process.stdout.readline():
            if b"runtime started" in line:
                return
        process.wait()
    raise LossError("a node of Ray did not start")


class Command:
    """A `clinscale pretrain` in processes of its own."""

    def __init__(self, folder: Path, config: Path, place: Place) -> None:
        self.home = folder / "home"
        self._said = folder / f"said-{uuid.uuid4().hex}"
        self._place = place
        self.checkpoints = self.home / "pretrain" / _NAME / CHECKPOINTS
        self._spool = self.checkpoints.with_name("metrics.jsonl")
        command = [
            *place.inside,
            sys.executable,
            "-m",
            "clinscale",
            "pretrain",
            str(config),
            "--home",
            str(self.home),
        ]
        command += ["--address", place.address] if place.address else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {MARK: place.mark, "MLFLOW_TRACKING_URI": self.tracking_uri}
        self.began_s = time.monotonic()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=said, env=environment, start_new_session=True
            )

    @property
    def tracking_uri(self) -> str:
        """Database of its home."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def said(self) -> str:
        """Text that it printed for people until now."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def losses(self) -> dict[int, float]:
        """Losses by step, as the driver has them."""
        if not self._spool.exists():
            return {}
        whole = self._spool.read_bytes().rpartition(b"\n")[0].splitlines()
        logged = [json.loads(line) for line in whole]
        return {one["step"]: one["metrics"]["train/loss"] for one in logged if "train/loss" in one["metrics"]}

    @property
    def step(self) -> int:
        """Last step that the driver knows of."""
        return max(self.losses, default=0)

    @property
    def unsaved_steps(self) -> int:
        """Steps since the last save, which may be seen before the line of its step."""
        return max(0, self.step - self.saved_step)

    @property
    def saved_step(self) -> int:
        """Step of the newest whole checkpoint."""
        newest = newest_checkpoint(self.checkpoints)
        return int(newest.name.removeprefix("step-")) if newest else 0

    def processes(self) -> list[Any]:
        """All that it started, directly or not, and that is still there."""
        return marked(self._place.mark)

    def wait_until(self, what: str, holds: Callable[[], bool], *, patience_s: float = _PATIENCE_S) -> bool:
        """Whether that held before the command ended; LossError after too long a time."""
        end = time.monotonic() + patience_s
        while not holds():
            if self.process.poll() is not None:
                return holds()
            if time.monotonic() > end:
                raise LossError(f"waited {patience_s:g} s in vain for {what}")
            time.sleep(_POLL_S)
        return True

    def wait(self) -> int:
        """Exit code; LossError when it does not end or leaves processes behind."""
        self.wait_until("the command to end", lambda: False)
        self.wait_gone()
        return int(self.process.returncode)

    def wait_gone(self) -> None:
        """LossError unless all its processes end soon."""
        wait_gone(lambda: titled(self, "Train") if self._place.address else self.processes())

    def end(self) -> None:
        """Kill whatever is left, and what that starts meanwhile."""
        self.process.kill()
        self.process.wait()
        if not self._place.address:
            kill_marked(self._place.mark)


def marked(mark: str) -> list[Any]:
    """Processes whose environment has this value of `MARK`, zombies left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_gone(processes: Callable[[], list[Any]]) -> None:
    """LossError unless there are none soon."""
    end = time.monotonic() + _GONE_S
    while left := processes():
        if time.monotonic() > end:
            raise LossError(f"left behind: {', '.join(sorted({title(one) for one in left}))}")
        time.sleep(0.2)


def kill_marked(mark: str) -> None:
    """Kill all processes with this value of `MARK`, and what they start meanwhile."""
    end = time.monotonic() + _GONE_S
    while (left := marked(mark)) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.2)


def title(process: Any) -> str:
    """Name that the process gives itself, without its folder."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return Path(words[0]).name if words else str(process.name())
    return "a process that ends"


def titled(command: Command, *words: str) -> list[Any]:
    """Processes of the command whose titles hold one of the words."""
    return [process for process in command.processes() if any(word in title(process) for word in words)]


def workers(command: Command) -> list[Any]:
    """Train workers."""
    return titled(command, "TrainWorker")


def controllers(command: Command) -> list[Any]:
    """The process of Ray Train's controller."""
    return titled(command, "TrainController")


def raylets(command: Command) -> list[Any]:
    """Raylets, one for each node."""
    return titled(command, "raylet")


def raylets_of_workers(command: Command) -> list[Any]:
    """Raylets of nodes with a worker, but not with the driver's own actors."""
    heads = {process.ppid() for process in controllers(command)}
    return [psutil.Process(one) for one in {process.ppid() for process in workers(command)} if one not in heads]


def heads(command: Command) -> list[Any]:
    """The process of Ray's head."""
    return titled(command, "gcs_server")


def drivers(command: Command) -> list[Any]:
    """The process of the command itself; none when it has ended."""
    return [psutil.Process(command.process.pid)] if command.process.poll() is None else []


@contextlib.contextmanager
def commands(
    ground: Ground, folder: Path, place: Place, *, steps: int, **settings: Any
) -> Iterator[Callable[[], Command]]:
    """A function that starts a pretraining of that length, again and again in one home; no process is left afterwards.

    The home is a new one where somebody has removed it. `settings` are of the config's `runtime`.
    """
    changes = {
        "recipe": {"duration": f"{steps}steps", "rows_per_step": 32},
        "runtime": {
            "checkpoint_every_steps": EVERY_STEPS,
            "collective_timeout_s": _STALL_S,
            "start_timeout_s": 120.0,
            "zero": {"stage": 2},
            **settings,
        },
    }
    config = PretrainConfig.parse(merge(ground.pretraining(_NAME).plain(), changes), source="faults")
    path = folder / "config.json"
    path.write_text(json.dumps(config.plain()), encoding="utf-8")
    started: list[Command] = []

    def start() -> Command:
        if not (folder / "home").exists():
            (folder / "home").mkdir()
            ground.tracking(folder / "home")
        started.append(Command(folder, path, place))
        return started[-1]

    try:
        yield start
    finally:
        for command in started:
            command.end()
