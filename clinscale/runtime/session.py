"""Connect to a Ray cluster, or start one on this machine for the length of a `with` block."""

import contextlib
import fcntl
import functools
import json
import logging
import os
import platform
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import CapacityError, ClusterError
from clinscale.permissions import for_workers, open_private, own_temporary_folder
from clinscale.runtime.node import interrupted_without_ray
from clinscale.runtime.token import replace_open_token, session_token
from clinscale.telemetry import TELEMETRY_OFF, switch_off

QUIET = {
    "RAY_worker_niceness": "0",  # Ray's 15 lets whatever else runs on the host go before training
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the controller sees that a worker died; Ray's is 2 s
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # clouds give 30 s of notice, Ray would spend 5 of them
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # a dead peer never answers; Ray would wait 30 s for it
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed",  # a paragraph each, beside our own sentence
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DS_SKIP_CUDA_CHECK": "1",
}
"""Environment of the driver and of every worker: no second progress display, no idle waiting; what is set, stays."""

PATIENT = {
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "120",
}
"""Environment of whatever starts a Ray node: Ray gives each part of it 30 s, too few for busy cores or a cold disk.

No setting changes the 15 s after which a raylet ends whose agents have not written their ports: who starts a node there
starts it again.
"""

_LOCAL_OBJECT_STORE_BYTES = 160 * 2**20  # our objects are configs and metrics; data goes through files

_OF_RAY = "ray"
"""Name of Ray's folder below ours, because Ray opens the folder that it is given to everybody."""

_LONGEST_SOCKET = f"session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/dash_MetricsHead"
"""A name as long as the longest that a local Ray gives a socket below its folder."""
_LONGEST_PATH_BYTES = 107
"""Linux's limit for the path of a socket (`man 7 unix`)."""
_STARTS = 3
"""Number of times that a local Ray is started before giving up."""

_started_here: set[str] = set()
"""GCS addresses of the clusters that this process started."""

without_ray: "Cluster | None" = None
"""The cluster of an open `fork_session`."""


@dataclass(frozen=True)
class Cluster:
    """Resources of the connected Ray cluster."""

    address: str
    num_cpus: int
    num_gpus: int
    num_nodes: int
    started_here: bool = False
    """Whether this process started it for itself: nothing else runs there and no node will ever join."""

    def slots(self, *, cpus: float, gpus: float) -> int:
        """Number of processes asking for this much that run at once; at least one."""
        by_cpu = self.num_cpus // cpus if cpus else self.num_cpus
        return max(1, int(min(by_cpu, self.num_gpus // gpus) if gpus else by_cpu))

    def now(self) -> "Cluster":
        """The same cluster as it is now: nodes may have come and gone."""
        return current_cluster()

    def state_api_nodes(self) -> int:
        """Nodes that the State API lists; without an answer Tune would leak the workers of stopped trials."""
        from ray.util.state import list_nodes
        from ray.util.state.exception import RayStateApiException

        try:
            return sum(node.state == "ALIVE" for node in list_nodes(address=self.address))
        except RayStateApiException as error:
            raise ClusterError(
                f"the State API of {self.address} does not answer ({type(error).__name__}); install ray[default]"
            ) from None

    def wait_for(
        self,
        *,
        processes: int,
        cpus: float,
        gpus: float,
        timeout_s: float,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Return as soon as `processes` asking for this much each can start at once; an autoscaler gets the demand.

        `on_wait` is called with what is needed and what is free, at first and whenever that changes.

        Raises:
            CapacityError: a Ray that we started is too small, or the resources were not free within `timeout_s`.
        """
        from ray.util import placement_group, remove_placement_group

        share = {kind: asked for kind, asked in {"CPU": cpus, "GPU": gpus}.items() if asked}
        needed = (
            f"{processes} workers of {' and '.join(f'{asked:g} {kind}' for kind, asked in share.items())} each"
        )
        if self.started_here and processes > sum(_slots(node, share) for node in _nodes()):
            raise CapacityError(
                f"{needed} do not fit into {self._room(share)}; lower runtime.num_workers or join a larger cluster"
            )
        # Ray's own answer to whether all fit, each on one node; removed again because Ray Train makes its own
        group = placement_group([share] * processes)
        end, reported = time.monotonic() + timeout_s, ""
        try:
            while not group.wait(max(0.0, min(1.0, end - time.monotonic()))):
                room = self._room(share)
                if time.monotonic() >= end:
                    raise CapacityError(
                        f"{needed} were not free within {timeout_s:g} s in {room}; lower runtime.num_workers, "
                        "wait for other jobs, add nodes, or raise runtime.start_timeout_s"
                    )
                if on_wait and room != reported:
                    on_wait(f"waiting for {needed}, {timeout_s:g} s at most, in {room}")
                reported = room
        finally:
            remove_placement_group(group)

    def hardware(self) -> str:
        """The computing hardware, e.g. `4 x H100 on 2 nodes`; the CPU's model only of a Ray that we started."""
        kind = "GPU" if self.num_gpus else "CPU"
        nodes = [node for node in _nodes() if node["Resources"].get(kind)]
        where = f"on {len(nodes)} node" + "s" * (len(nodes) > 1)
        if self.num_gpus:
            kinds = {kind for node in nodes if (kind := node["Labels"].get("ray.io/accelerator-type"))}
            return f"{self.num_gpus} x {' and '.join(sorted(kinds)) or 'GPU'} {where}"
        model = f" of {cpu_model()}" if self.started_here else ""
        return f"{self.num_cpus} CPUs{model} {where}"

    def _room(self, share: dict[str, float]) -> str:
        """The free resources, and the number of processes of that share that fit at best."""
        import ray

        total, free, nodes = ray.cluster_resources(), ray.available_resources(), _nodes()
        amounts = (f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}" for kind in share)
        return (
            f"the cluster at {self.address} ({' and '.join(amounts)} free; its {len(nodes)} nodes hold "
            f"{sum(_slots(node, share) for node in nodes)} such workers when empty)"
        )


@contextlib.contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Join the cluster at `address` or `RAY_ADDRESS`, else start Ray here; leave no process of ours behind.

    A session inside a session is the same one, a `fork_session` too. The local Ray listens on loopback and asks for a
    token of its own; it has a dashboard, because the State API needs that to free the workers of stopped trials.

    Args:
        address: of a running head; None looks at RAY_ADDRESS, then starts a local Ray.
        num_cpus: CPUs of a local Ray; None is all of this machine.

    Raises:
        ClusterError: the address does not answer, or Ray does not start here.
    """
    import ray

    if without_ray or ray.is_initialized():
        yield current_cluster()
        return
    switch_off()
    os.environ.update({key: os.environ.get(key, value) for key, value in {**QUIET, **PATIENT}.items()})
    address = address or os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    own = contextlib.ExitStack()
    try:
        if address:
            _check_reachable(address)
            context = _init(address, {})
        else:
            _check_socket_paths()
            replace_open_token()
            own.enter_context(session_token(_scratch()))
            context = _start_here(_local_options(num_cpus))
    except ClusterError:
        own.close()
        raise
    except (OSError, ValueError) as error:
        own.close()
        raise ClusterError(_why_no_ray(address, error)) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the process before it has tidied up
    if not address:
        _started_here.add(ray.get_runtime_context().gcs_address)
    cluster = current_cluster()
    # Ray's own helper processes look the cluster up by address: two clusters on one host would confuse them
    with own, variables(RAY_ADDRESS=cluster.address):
        failed = True
        try:
            with interrupted_without_ray(own=not address):
                yield cluster
            failed = False
        finally:
            ray.shutdown()
            _started_here.discard(cluster.address)
            if not address and not failed:  # after an error, its logs are worth keeping
                shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)


def _check_socket_paths() -> None:
    """ClusterError where a socket's path would be too long; a dashboard without one fails unseen, minutes later."""
    most = _LONGEST_PATH_BYTES - len(f"/{_OF_RAY}/{_LONGEST_SOCKET}")
    if (length := len(os.fsencode(_scratch()))) > most:
        raise ClusterError(
            f"Ray cannot start on this machine: its sockets would be below {_scratch()}, whose path must have at most "
            f"{most} characters, got {length}; set TMPDIR to a shorter one, such as /tmp"
        )


def _why_no_ray(address: str | None, error: Exception) -> str:
    if address:
        return (
            f"Ray at {address} cannot be joined ({type(error).__name__}); "
            "check the address and that the head runs, or unset RAY_ADDRESS to start Ray here"
        )
    return f"Ray cannot start on this machine ({type(error).__name__}); clinscale doctor looks for the reason"


@contextlib.contextmanager
def variables(**values: str) -> Iterator[None]:
    """The environment has these while the block runs: settings that Ray takes from nowhere else."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ray_logs() -> str:
    """Folder with the logs of Ray's processes."""
    return f"Ray's logs: {_scratch() / _OF_RAY}/session_latest/logs on this machine, `ray logs` on a cluster"


@functools.cache
def _scratch() -> Path:
    """Folder of a local Ray: for this user alone, and short, because Ray's sockets need a short path."""
    return own_temporary_folder("clinscale")


def _environment(address: str | None) -> dict[str, str]:
    """Environment of every worker.

    Ray refuses a name that the job which this process belongs to has set for its workers.
    """
    values = {name: os.environ[name] for name in (*QUIET, *TELEMETRY_OFF)}
    if address and "://" not in address and address != "auto":
        values["RAY_ADDRESS"] = address  # with two clusters on a host, a worker's helpers must find their own
    of_job = _of_job().get("env_vars") or {}
    return {name: value for name, value in values.items() if name not in of_job}


def _of_job() -> dict[str, Any]:
    """The runtime environment of the job which this process belongs to."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return dict(job.get("runtime_env") or {})


def _check_reachable(address: str) -> None:
    """OSError when nobody listens at `HOST:PORT` or `ray://HOST:PORT`; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # `auto` and the like are for Ray to find
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _init(address: str | None, options: dict[str, object]) -> Any:
    import ray

    environment: dict[str, Any] = {"env_vars": _environment(address)}
    # a job may have a hook of its own, and Ray's client sends none
    if "worker_process_setup_hook" not in _of_job() and not (address or "").startswith("ray://"):
        environment["worker_process_setup_hook"] = for_workers()
    return ray.init(
        address=address or "local",
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env=environment,
        **options,
    )


def _start_here(options: dict[str, object]) -> Any:
    """A local Ray, tried again where a busy machine brings up no node in the time that `PATIENT` allows."""
    import psutil  # type: ignore[import-untyped]
    import ray

    failure: Exception | None = None
    for _ in range(_STARTS):
        before = set(psutil.Process().children(recursive=True))
        try:
            with one_start_at_a_time(), _loopback_is_an_address():
                return _init(None, options)
        except Exception as error:
            # Ray says it with these two, and keeps what it had started
            if type(error) not in (Exception, RuntimeError):
                raise
            failure = error
        ray.shutdown()
        started = set(psutil.Process().children(recursive=True)) - before
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(started, timeout=10)
    raise ClusterError(
        f"Ray did not start on this machine in {_STARTS} tries ({str(failure).partition('.')[0]}; load "
        f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs); end other work here, or set RAY_ADDRESS to a running "
        "cluster"
    ) from failure


@contextlib.contextmanager
def one_start_at_a_time() -> Iterator[None]:
    """Nodes that this user starts on this machine wait for one another: two at once miss Ray's 15 s on few cores."""
    with open_private(_scratch() / "starting", "w", follow=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system gives it up when a process is killed
        yield


@contextlib.contextmanager
def _loopback_is_an_address() -> Iterator[None]:
    """Ray takes the machine's own address in the place of 127.0.0.1 on Linux, and then listens on all of them."""
    from ray._private import services

    before = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


def _local_options(num_cpus: int | None) -> dict[str, object]:
    return {
        "num_cpus": num_cpus,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": 0,
        "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",  # by which all its parts, the metrics too, listen on loopback alone
        "_temp_dir": str(_scratch() / _OF_RAY),
    }


def current_cluster() -> Cluster:
    """The cluster of the open session, as it is now: nodes may have come and gone since it began."""
    if without_ray:
        return without_ray
    import ray

    resources = ray.cluster_resources()
    address = ray.get_runtime_context().gcs_address
    return Cluster(
        address=address,
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        num_nodes=len(_nodes()),
        started_here=address in _started_here,
    )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _slots(node: dict[str, Any], share: dict[str, float]) -> int:
    """Number of processes of that share that the node can hold when it is empty."""
    return int(min(node["Resources"].get(kind, 0) // asked for kind, asked in share.items()))


def cpu_model() -> str:
    """The processor of this machine as its kernel names it."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
