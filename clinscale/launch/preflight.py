"""Checks of what a cluster must have before anything expensive starts, made from each of its nodes."""

import contextlib
import importlib.metadata
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import ClinscaleError
from clinscale.runtime import Cluster
from clinscale.units import format_bytes

PACKAGES = ("clinscale", "ray", "torch", "transformers", "deepspeed", "mlflow", "optuna")
"""Packages whose versions all nodes must share."""
_PAYLOAD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a cluster is unfit."""

    free_bytes: int = 5 * 2**30
    """Free bytes of each node's disk with Ray's files, and of the shared storage."""
    skew_s: float = 2.0
    """Largest difference in seconds between the clocks of a node and of the one that checks."""
    bytes_per_s: float = 20 * 2**20
    """Bandwidth from node to node; ZeRO sends the whole model in every step."""
    answer_s: float = 60.0
    """Seconds in which a node must answer."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one node."""

    check: str
    node: str
    ok: bool
    found: str
    mend: str = ""


def preflight(
    cluster: Cluster,
    *,
    nodes: int | None = None,
    shared: str | Path | None = None,
    tracking_uri: str | None = None,
    limits: Limits | None = None,
    wait_s: float = 0.0,
    on_progress: Callable[[str], None] = lambda node: None,
) -> list[Finding]:
    """Look at every node of the cluster that is joined: with `ray_session(address) as cluster`.

    Args:
        cluster: that is joined.
        nodes: how many there must be, the head included; None takes those that are there.
        shared: folder that all nodes must see as one, made where it is missing; None leaves that out.
        tracking_uri: MLflow server that each node must reach; None, or a file, leaves that out.
        limits: from where on it is unfit.
        wait_s: how long to wait for `nodes`.
        on_progress: receives the name of the node that is looked at.

    Returns:
        All findings, good ones too: of the cluster first, then node by node.
    """
    limits = limits or Limits()
    alive = _wait_for(nodes, wait_s)
    findings = [*_count(alive, nodes), _state_api(cluster, len(alive))]
    probe = f"preflight-{secrets.token_hex(8)}"
    if shared:
        with contextlib.suppress(OSError):  # each node says what it finds
            Path(shared).mkdir(parents=True, exist_ok=True)
    looks = {}
    try:
        asked = [_ask(node, shared, probe, tracking_uri) for node in alive]  # a process each: they start at once
        findings.append(_token(cluster))
        for node, (node_actor, answer) in zip(alive, asked, strict=True):
            on_progress(_name(node))
            look = _look(node, node_actor, answer, limits)
            if isinstance(look, Finding):
                findings.append(look)
            else:
                looks[_name(node)] = look
                findings += _of_node(_name(node), node, look, limits)
        if shared:
            findings += _shared(Path(shared), probe, looks, limits)
        findings += _bandwidth(looks, limits)
    finally:
        if shared:
            for file in Path(shared).glob(f"{probe}-*"):
                file.unlink(missing_ok=True)
    return findings


def _wait_for(nodes: int | None, wait_s: float) -> list[dict[str, Any]]:
    import ray

    end = time.monotonic() + wait_s
    while True:
        alive = [node for node in ray.nodes() if node["Alive"]]
        if not nodes or len(alive) >= nodes or time.monotonic() >= end:
            return sorted(alive, key=lambda node: ("node:__internal_head__" not in node["Resources"], _name(node)))
        time.sleep(0.5)


def _name(node: dict[str, Any]) -> str:
    """`HOST (ADDRESS)`, and the node's id where several run on one host."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def _count(alive: list[dict[str, Any]], nodes: int | None) -> Iterator[Finding]:
    names = ", ".join(_name(node) for node in alive)
    if nodes and len(alive) < nodes:
        mend = "see why the others did not join: `ray status`, their /tmp/ray/session_latest/logs, their firewall"
        yield Finding("nodes", "cluster", False, f"{len(alive)} of {nodes}: {names}", mend)
    else:
        yield Finding("nodes", "cluster", True, f"{len(alive)}: {names}")


def _state_api(cluster: Cluster, alive: int) -> Finding:
    try:
        listed = cluster.state_api_nodes()
    except ClinscaleError as error:
        return Finding("State API", "cluster", False, str(error), "install ray[default] on the head, restart it")
    except Exception as error:  # noqa: BLE001 - Ray's client raises what its HTTP library does
        mend = "the head's dashboard must run: it is part of ray[default]"
        return Finding("State API", "cluster", False, type(error).__name__, mend)
    mend = "" if listed == alive else "wait until nodes that left are forgotten, or restart the head"
    return Finding("State API", "cluster", listed == alive, f"lists {listed} of {alive} nodes", mend)


def _token(cluster: Cluster) -> Finding:
    """Whether a stranger without a token is refused: Ray's own health check, made without a token."""
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    asked = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", cluster.address],
        env=stranger | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    if asked.returncode:
        return Finding("token", "cluster", True, "who has none is refused")
    mend = (
        "anyone who reaches a port runs code on all nodes: restart it with RAY_AUTH_MODE=token and one token on all "
        "nodes; `clinscale cluster render` writes files that do"
    )
    return Finding("token", "cluster", False, "anybody is let in", mend)


def _ask(node: dict[str, Any], shared: str | Path | None, probe: str, tracking_uri: str | None) -> tuple[Any, Any]:
    """An actor on the node, and the reference to its answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # pickled by value: a node with another clinscale, or none, must be able to say so
    actor = ray.remote(num_cpus=0)(_node_actor_class()).options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    )
    url = tracking_uri if tracking_uri and tracking_uri.startswith("http") else None
    node_actor = actor.remote()
    return node_actor, node_actor.look.remote(PACKAGES, str(shared) if shared else None, probe, url)


def _look(node: dict[str, Any], node_actor: Any, answer: Any, limits: Limits) -> Any:
    """A `_Look` with its answers, or the finding that the node does not answer."""
    import ray

    try:
        response = ray.get(answer, timeout=limits.answer_s)
        before_s = time.time()
        there_s = ray.get(node_actor.clock.remote(), timeout=limits.answer_s)
        after_s = time.time()
    except Exception as error:  # noqa: BLE001 - whatever a sick node does, it is a finding
        mend = "read its logs with `ray logs`, then take it out of the cluster or restart Ray on it"
        return Finding("answers", _name(node), False, type(error).__name__, mend)
    return _Look(node_actor, response, there_s - (before_s + after_s) / 2, (after_s - before_s) / 2)


@dataclass(frozen=True)
class _Look:
    node_actor: Any
    answer: dict[str, Any]
    skew_s: float
    skew_error_s: float


def _of_node(name: str, node: dict[str, Any], look: _Look, limits: Limits) -> Iterator[Finding]:
    answer = look.answer
    mine = {package: importlib.metadata.version(package) for package in PACKAGES} | {
        "Python": ".".join(map(str, sys.version_info[:3]))
    }
    others = [
        f"{package} {theirs or 'missing'} instead of {mine[package]}"
        for package, theirs in answer["versions"].items()
        if theirs != mine[package]
    ]
    yield Finding(
        "versions",
        name,
        not others,
        ", ".join(others) or f"as here: clinscale {mine['clinscale']}, ray {mine['ray']}",
        "install the same environment or image on it as on this node" if others else "",
    )
    asked = int(node["Resources"].get("GPU", 0))
    yield Finding(
        "GPUs",
        name,
        asked <= answer["gpus"],
        f"Ray counts {asked}, the driver shows {answer['gpus']}",
        ""
        if asked <= answer["gpus"]
        else "fix the NVIDIA driver there (nvidia-smi), or start Ray with --num-gpus",
    )
    yield _room("disk", name, answer["free_bytes"], limits, answer["scratch"])
    skew = abs(look.skew_s) - look.skew_error_s
    fits = skew <= limits.skew_s
    yield Finding(
        "clock",
        name,
        fits,
        f"{look.skew_s:+.1f} s beside this node's, within {look.skew_error_s:.1f} s",
        "" if fits else "let it follow a time server (chrony, systemd-timesyncd)",
    )
    if "mlflow" in answer:
        fits = answer["mlflow"] == 200
        mend = "" if fits else "open the way from this node to the server, or fix --tracking-uri"
        yield Finding("MLflow", name, fits, f"answers {answer['mlflow']}", mend)


def _room(check: str, name: str, free_bytes: int | None, limits: Limits, place: str) -> Finding:
    fits = free_bytes is not None and free_bytes >= limits.free_bytes
    found = f"{format_bytes(free_bytes)} free at {place}" if free_bytes is not None else f"{place} cannot be asked"
    mend = "" if fits else f"make room, or use another disk; {format_bytes(limits.free_bytes)} are needed"
    return Finding(check, name, fits, found, mend)


def _shared(shared: Path, probe: str, looks: dict[str, _Look], limits: Limits) -> Iterator[Finding]:
    """Each node left a file: every node must find those of all."""
    import ray

    for name, look in looks.items():
        wrote = look.answer["wrote"]
        if isinstance(wrote, str):
            mend = f"mount the shared storage at {shared} on this node, writable for Ray's user"
            yield Finding("shared storage", name, False, f"{shared} cannot be written: {wrote}", mend)
            continue
        seen = set(ray.get(look.node_actor.read.remote(str(shared), probe), timeout=limits.answer_s))
        missing = [
            other
            for other, theirs in looks.items()
            if not isinstance(theirs.answer["wrote"], str) and theirs.answer["id"] not in seen
        ]
        mend = f"{shared} is another folder there: mount the same storage on all nodes" if missing else ""
        found = f"does not see what {', '.join(missing)} wrote" if missing else f"written and read at {shared}"
        yield Finding("shared storage", name, not missing, found, mend)
        yield _room("shared disk", name, look.answer["shared_free_bytes"], limits, str(shared))


def _bandwidth(looks: dict[str, _Look], limits: Limits) -> Iterator[Finding]:
    """Findings on bandwidth from the first node to each other one, through Ray's object store as training data goes."""
    import ray

    if len(looks) < 2:
        return
    (first, source), *others = looks.items()
    for name, look in others:
        try:
            held = ray.get(source.node_actor.hold.remote(_PAYLOAD_BYTES), timeout=limits.answer_s)
            took_s = ray.get(look.node_actor.fetch.remote(held), timeout=limits.answer_s)
        except Exception as error:  # noqa: BLE001 - whatever a sick node does, it is a finding
            mend = "open all ports between the nodes to each other"
            yield Finding("bandwidth", name, False, f"nothing comes from {first} ({type(error).__name__})", mend)
            continue
        per_s = _PAYLOAD_BYTES / took_s
        fits = per_s >= limits.bytes_per_s
        mend = (
            ""
            if fits
            else f"{format_bytes(int(limits.bytes_per_s))}/s are needed; use a faster network, or one node"
        )
        yield Finding("bandwidth", name, fits, f"{format_bytes(int(per_s))}/s from {first}", mend)


def _node_actor_class() -> type:
    """A class that knows nothing of this module: Ray then sends its code, and not its name."""

    class NodeActor:
        def look(self, packages: Iterable[str], shared: str | None, probe: str, url: str | None) -> dict[str, Any]:
            import importlib.metadata
            import platform
            import shutil
            import subprocess
            import tempfile
            import uuid
            from pathlib import Path

            def version(package: str) -> str | None:
                try:
                    return importlib.metadata.version(package)
                except importlib.metadata.PackageNotFoundError:
                    return None

            gpus = 0
            if shutil.which("nvidia-smi"):
                listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
                gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
            scratch = tempfile.gettempdir()
            answer: dict[str, Any] = {
                "id": uuid.uuid4().hex,
                "versions": {package: version(package) for package in packages}
                | {"Python": platform.python_version()},
                "gpus": gpus,
                "scratch": scratch,
                "free_bytes": shutil.disk_usage(scratch).free,
                "wrote": True,
            }
            if shared:
                try:
                    (Path(shared) / f"{probe}-{answer['id']}").write_text(answer["id"])
                    answer["shared_free_bytes"] = shutil.disk_usage(shared).free
                except OSError as error:
                    answer["wrote"] = type(error).__name__
            if url:
                answer["mlflow"] = self._ask(url)
            return answer

        def _ask(self, url: str) -> Any:
            import urllib.error
            import urllib.request

            try:
                with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10) as response:
                    return response.status
            except urllib.error.HTTPError as error:
                return error.code
            except OSError as error:
                return type(error).__name__

        def clock(self) -> float:
            import time

            return time.time()

        def read(self, shared: str, probe: str) -> list[str]:
            from pathlib import Path

            return [file.read_text() for file in Path(shared).glob(f"{probe}-*")]

        def hold(self, size: int) -> list[Any]:
            import numpy
            import ray

            return [ray.put(numpy.zeros(size, dtype=numpy.uint8))]

        def fetch(self, held: list[Any]) -> float:
            import time

            import ray

            began_s = time.monotonic()
            ray.get(held[0])
            return time.monotonic() - began_s

    NodeActor.__module__ = "__main__"
    return NodeActor
