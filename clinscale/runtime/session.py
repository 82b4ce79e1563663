"""Connect to a Ray cluster, or start one on this machine for the length of a `with` block."""

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinscale.errors import CapacityError, ClusterError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # each checkpoint waits for the controller's next look; Ray's is 2 s
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DS_SKIP_CUDA_CHECK": "1",
}
"""Environment of the driver and of every worker: no call home, no second progress display, no idle waiting."""

_LOCAL_OBJECT_STORE_BYTES = 160 * 2**20  # our objects are configs and metrics; data goes through files


@dataclass(frozen=True)
class Cluster:
    """What the connected Ray cluster has."""

    address: str
    num_cpus: int
    num_gpus: int
    num_nodes: int

    def slots(self, *, cpus: float, gpus: float) -> int:
        """How many processes asking for this much run at once; at least one."""
        by_cpu = self.num_cpus // cpus if cpus else self.num_cpus
        return max(1, int(min(by_cpu, self.num_gpus // gpus) if gpus else by_cpu))

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

    def require(self, *, processes: int, cpus: float, gpus: float) -> None:
        """CapacityError when `processes` asking for this much each cannot run at once."""
        if processes * cpus > self.num_cpus or processes * gpus > self.num_gpus:
            raise CapacityError(
                f"the cluster at {self.address} has {self.num_cpus} CPUs and {self.num_gpus} GPUs; {processes} workers "
                f"of {cpus:g} CPUs and {gpus:g} GPUs need more. Lower runtime.num_workers or add nodes"
            )


@contextlib.contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Join the cluster at `address` or `RAY_ADDRESS`, else start Ray here; leave no process of ours behind.

    A session inside a session is the same one. The local Ray has its dashboard on loopback, because the State
    API needs it to free the workers of stopped trials.

    Args:
        address: of a running head; None looks at RAY_ADDRESS, then starts a local Ray.
        num_cpus: CPUs of a local Ray; None is all of this machine.

    Raises:
        ClusterError: the address does not answer.
    """
    import ray

    if ray.is_initialized():
        yield _cluster()
        return
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
        context = ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": QUIET},
            **({} if address else _local_options(num_cpus)),
        )
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address or 'this machine'} cannot be joined ({type(error).__name__}); "
            "check the address and that the head runs, or unset RAY_ADDRESS to start Ray here"
        ) from None
    before = os.environ.get("RAY_ADDRESS")
    cluster = _cluster()
    # Ray's own helper processes look the cluster up by address: two clusters on one host would confuse them
    os.environ["RAY_ADDRESS"] = cluster.address
    failed = True
    try:
        yield cluster
        failed = False
    finally:
        ray.shutdown()
        if not address and not failed:  # after an error, its logs are worth keeping
            shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before


def ray_logs() -> str:
    """Where to read what Ray's processes wrote."""
    return f"Ray's logs: {_scratch()}/session_latest/logs on this machine, `ray logs` on a cluster"


def _scratch() -> Path:
    """Of a local Ray: readable by this user alone, and short, because Ray's sockets need a short path."""
    return Path(tempfile.gettempdir()) / f"clinscale-ray-{os.getuid()}"


def _knock(address: str) -> None:
    """OSError when nobody listens at `HOST:PORT` or `ray://HOST:PORT`; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # `auto` and the like are for Ray to find
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _local_options(num_cpus: int | None) -> dict[str, object]:
    _scratch().mkdir(mode=0o700, exist_ok=True)
    return {
        "num_cpus": num_cpus,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": 0,
        "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        "_temp_dir": str(_scratch()),
    }


def _cluster() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        num_nodes=sum(node["Alive"] for node in ray.nodes()),
    )
