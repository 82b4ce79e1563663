"""Start and end the cluster of a Ray launch file, and believe only what its nodes say.

`ray up` exits 0 without a single worker, on a head that runs it ends all jobs, and `ray down` leaves the workers of
one's own hosts running. The commands are Ray's own; what is around them is here.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import AccessError, CapacityError, ClusterError, ConfigError
from clinscale.launch.check import check
from clinscale.runtime import make_token
from clinscale.strict_yaml import read_yaml
from clinscale.visible import run_visibly

_TOKEN_MOUNT = "~/.ray"
_REACH_S = 10
"""Seconds in which a host must take a connection, and then the key."""
_REFUSED = "Permission denied"
"""Message of ssh when a host does not know the key."""


@dataclass(frozen=True)
class LaunchFile:
    """The fields that are needed of a Ray cluster launcher file, whatever the provider."""

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "LaunchFile":
        """Read a Ray launch file; ConfigError when it is none or has faults, each named with its fix."""
        file = cls(Path(path), read_yaml(path, dialect="1.1"))
        if "provider" not in file.values:
            raise ConfigError(
                f"{path} is no Ray launch file: it has no provider; `clinscale cluster render on-prem` writes one"
            )
        return file

    @property
    def workers(self) -> list[str]:
        """One's own hosts beside the head; clouds have none."""
        return list(self.values["provider"].get("worker_ips", []))

    @property
    def head(self) -> str | None:
        """One's own head; clouds choose theirs."""
        host: str | None = self.values["provider"].get("head_ip")
        return host

    @property
    def least_nodes(self) -> int:
        """Nodes that it starts with, the head included."""
        types = self.values.get("available_node_types") or {}
        kinds = [kind.get("min_workers", 0) for kind in types.values()]
        return 1 + (sum(kinds) if types else int(self.values.get("min_workers", len(self.workers))))

    def command(self, *words: str) -> str:
        """`ray` or `python` on the head, as its start command calls it: with its variables and from its folder."""
        [start, *_] = [line for line in self.values.get("head_start_ray_commands", []) if "ray start" in line]
        variables = re.findall(r"\b([A-Z][A-Z0-9_]*=\S+)", start[: start.index("ray start")])
        folder = re.findall(r"(\S*/)ray start", start)
        path = [f"PATH={folder[0]}:$PATH"] if folder else []
        return " ".join([*variables, *path, *map(shlex.quote, words)])

    def ssh(self, host: str, command: str) -> list[str]:
        """The command line that runs `command` on one of one's own hosts."""
        auth = self.values.get("auth", {})
        key = ["-i", str(Path(auth["ssh_private_key"]).expanduser())] if "ssh_private_key" in auth else []
        options = ["BatchMode=yes", f"ConnectTimeout={_REACH_S}", "StrictHostKeyChecking=accept-new"]
        flags = [flag for option in options for flag in ("-o", option)]
        return ["ssh", *key, *flags, f"{auth['ssh_user']}@{host}", command]


def up(
    path: str | Path,
    *,
    restart: bool = False,
    shared: str | None = None,
    wait_s: float = 900.0,
    on_progress: Callable[[str], None] = lambda what: None,
) -> None:
    """Start the cluster, and return when all its nodes have joined and are fit.

    Args:
        path: launch file.
        restart: start it anew where it runs already, which ends its jobs.
        shared: folder that all nodes must see as one.
        wait_s: for all nodes to join.
        on_progress: receives what is done next.

    Raises:
        ConfigError: faults of the file. ClusterError: a host cannot be reached, or `ray up` fails. AccessError: a host
        refuses the key. CapacityError: not all nodes joined, or one is unfit.
    """
    file = LaunchFile.read(path)
    token = file.values.get("file_mounts", {}).get(_TOKEN_MOUNT)
    if token:
        made, is_new = make_token(token)
        on_progress(f"{'a new token is' if is_new else 'the token is'} in {made}")
    if faults := check(Path(path)):
        listed = "; ".join(f"{fault.rule}: {fault.found}; {fault.mend}" for fault in faults)
        raise ConfigError(f"{path} has {len(faults)} faults: {listed}")
    reach(file, on_progress)
    on_progress("looking whether it runs already")
    if _ray("exec", path, file.command("ray", "status"), quiet=True) == 0 and not restart:
        raise ConfigError(
            f"the cluster of {path} runs already, and starting it anew ends its jobs; add --restart if that is meant, "
            "or use it: clinscale submit http://127.0.0.1:8265 -- VERB ..."
        )
    on_progress("ray up")
    if _ray("up", path, "--yes", "--no-config-cache"):
        raise ClusterError(f"`ray up` of {path} failed; fix what its lines above name, and run the command again")
    on_progress(f"waiting for {file.least_nodes} nodes")
    options = ["--address", "auto", "--nodes", str(file.least_nodes), "--wait", f"{wait_s:g}"]
    options += ["--shared", shared] if shared else []
    if _ray("exec", path, file.command("python", "-m", "clinscale", "cluster", "preflight", *options)):
        raise CapacityError(
            f"the cluster of {path} is not fit, or a node is missing; fix what the table above shows, and run the "
            "command again"
        )


def down(path: str | Path, *, on_progress: Callable[[str], None] = lambda what: None) -> None:
    """End the cluster on all of its nodes.

    Raises:
        ClusterError: `ray down` fails, or a worker could not be reached; it is named.
    """
    file = LaunchFile.read(path)
    on_progress("ray down")
    if _ray("down", path, "--yes"):
        raise ClusterError(
            f"`ray down` of {path} failed; fix what its lines above name, and run the command again"
        )
    stop = file.command("ray", "stop")
    left = [host for host in file.workers if run_visibly(file.ssh(host, stop))]
    if left:
        raise ClusterError(f"Ray may still run on {', '.join(left)}: on each of them run `ray stop`")


def reach(file: LaunchFile, on_progress: Callable[[str], None] = lambda what: None) -> None:
    """Take a connection to each of one's own hosts, and try the key there.

    Raises:
        ClusterError: hosts that cannot be reached within 10 seconds. AccessError: hosts that refuse the key.
        ConfigError: there is no key.
    """
    hosts = [host for host in (file.head, *file.workers) if host]
    if not hosts:
        return
    auth = file.values["auth"]
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        raise ConfigError(
            f"ssh_private_key {key} does not exist here; make it with ssh-keygen, or name the right one"
        )
    on_progress(f"reaching {', '.join(hosts)}")
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = dict(zip(hosts, pool.map(lambda host: _why_no_ssh(file, host), hosts), strict=True))
    if silent := [f"{host} ({why})" for host, why in found.items() if why not in ("", _REFUSED)]:
        raise ClusterError(
            f"no SSH connection within {_REACH_S} s to {', '.join(silent)}; see that the host is on, its address right "
            "and port 22 open from here"
        )
    if refused := [host for host, why in found.items() if why == _REFUSED]:
        raise AccessError(
            f"{', '.join(refused)} refuse the key {key or 'of the agent'} for user {auth['ssh_user']}; put its public "
            "half into that user's authorized_keys there"
        )


def _why_no_ssh(file: LaunchFile, host: str) -> str:
    """Reason why SSH cannot connect, `_REFUSED` if the host refuses the key; empty if it connects."""
    try:
        socket.create_connection((host, 22), timeout=_REACH_S).close()
        ssh = subprocess.run(
            file.ssh(host, "true"), capture_output=True, text=True, check=False, timeout=3 * _REACH_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if ssh.returncode == 0:
        return ""
    return _REFUSED if _REFUSED in ssh.stderr else "no SSH server that lets commands run"


def _ray(verb: str, path: str | Path, *arguments: str, quiet: bool = False) -> int:
    """Run Ray's launcher, which writes to stderr here; its exit code."""
    # on its default this Ray starts no worker of one's own hosts
    environment = os.environ | {"RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.setdefault("AUTOSCALER_NODE_START_WAIT_S", "300")
    command = [sys.executable, "-m", "ray.scripts.scripts", verb, str(path), *arguments]
    if quiet:
        silence: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return int(subprocess.run(command, env=environment, check=False, **silence).returncode)
    return run_visibly(command, env=environment | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL)
