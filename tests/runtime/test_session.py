"""Joining a cluster, asking what it has, and leaving nothing of ours behind."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import forked_ray
import pytest

from clinscale.errors import CapacityError, ClusterError
from clinscale.runtime import Cluster, one_start_at_a_time, ray_session, session

CLUSTER = Cluster(address="head:6379", num_cpus=8, num_gpus=2, num_nodes=2)


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"), [(1, 0, 8), (3, 0, 2), (0.5, 0, 16), (1, 1, 2), (1, 0.5, 4), (9, 0, 1), (1, 4, 1)]
)
def test_slots_are_what_fits_at_once_and_at_least_one(cpus, gpus, slots):
    assert CLUSTER.slots(cpus=cpus, gpus=gpus) == slots


def test_a_folder_for_temporary_files_whose_path_is_too_long_for_sockets_is_named(tmp_path):
    """As jobs of a Slurm have one."""
    long = tmp_path / ("scratch-" * 8)
    long.mkdir()
    script = "from clinscale import runtime\nwith runtime.ray_session(num_cpus=1): print('started')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1
    assert f"its sockets would be below {long}/clinscale-" in ran.stderr
    assert "set TMPDIR to a shorter one, such as /tmp" in ran.stderr


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_an_address_where_nobody_listens_is_named_at_once(prefix, by_environment, monkeypatch):
    import ray

    # the tests of the `ray` tier may have joined one already, and a session inside a session is the same one
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{unused.getsockname()[1]}"
        if by_environment:
            monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=rf"Ray at {address} cannot be joined \(ConnectionRefusedError\)"):
            with ray_session(None if by_environment else address):
                pytest.fail("joined nothing")


BUSY = """
import time, types
from ray._private import node, services
from clinscale.runtime import ray_session, session

first, found, options = [], services.get_node, session._local_options

def get_node(address, node_id):
    if node_id in first or not first:
        first.append(node_id)
        raise RuntimeError("not yet")
    return found(address, node_id)

services.get_node = get_node
# half a minute for each time that Ray has looked for that node
later = lambda: time.monotonic() + 30 * len(first)
node.time = types.SimpleNamespace(monotonic=later, sleep=time.sleep, time=time.time)
session._local_options = lambda num_cpus: options(num_cpus) | {"include_dashboard": False}  # not needed here
with ray_session(num_cpus=1) as cluster:
    import psutil
    heads = [one for one in psutil.Process().children(recursive=True) if one.name() == "gcs_server"]
    print(cluster.num_nodes, len(heads))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_local_ray_that_a_busy_machine_does_not_start_is_started_again():
    """Ray gives up a node that has not come up in 30 s."""
    clean = forked_ray.clean_environment()
    ran = subprocess.run([sys.executable, "-c", BUSY], env=clean, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["1", "1"], "what had come up the first time is gone"


def test_a_local_ray_waits_for_another_that_is_starting_on_this_machine(monkeypatch):
    order = []
    monkeypatch.setattr(session, "_init", lambda *_: order.append("second"))
    waits = threading.Thread(target=session._start_here, args=({},))
    with one_start_at_a_time():
        waits.start()
        waits.join(0.3)
        order.append("first")
    waits.join()
    assert order == ["first", "second"]


@pytest.mark.ray
def test_a_session_inside_a_session_is_the_same_one(ray_cluster):
    import ray

    assert os.environ["RAY_ADDRESS"] == ray_cluster.address
    with ray_session() as inner:
        assert inner == ray_cluster
    assert ray.is_initialized()
    assert ray_cluster.num_cpus == 2
    assert ray_cluster.state_api_nodes() == 1
    assert ray_cluster.hardware().startswith("2 CPUs of ")
    assert ray_cluster.hardware().endswith(" on 1 node")


@pytest.mark.ray
@pytest.mark.parametrize(("processes", "cpus", "gpus"), [(3, 1, 0), (1, 3, 0), (1, 1, 1)])
def test_what_never_fits_into_a_ray_of_our_own_is_refused_at_once(processes, cpus, gpus, ray_cluster):
    with pytest.raises(
        CapacityError, match=r"workers of .* CPU.* do not fit .* CPU.* Lower|lower runtime\.num_workers"
    ):
        ray_cluster.wait_for(processes=processes, cpus=cpus, gpus=gpus, timeout_s=600)


@pytest.mark.ray
def test_a_worker_writes_for_its_owner_alone_whatever_the_umask_of_its_node(ray_cluster):
    import ray

    before = os.umask(0o022)
    os.umask(before)
    assert before != 0o077, "the umask that this Ray was started with is an open one"
    assert ray.get(ray.remote(num_cpus=1)(lambda: os.umask(0o077)).remote()) == 0o077


@pytest.mark.ray
def test_workers_wait_for_what_others_hold_and_say_so(ray_cluster):
    import ray

    other = ray.remote(num_cpus=1)(dict).remote()
    ray.get(other.__ray_ready__.remote())
    with pytest.raises(CapacityError, match=r"2 workers of 1 CPU each were not free within 1 s .*1 of 2 CPU free"):
        ray_cluster.wait_for(processes=2, cpus=1, gpus=0, timeout_s=1)
    told = []

    def on_wait(sentence):
        told.append(sentence)
        ray.kill(other)

    ray_cluster.wait_for(processes=2, cpus=1, gpus=0, timeout_s=60, on_wait=on_wait)
    assert told[0].startswith("waiting for 2 workers of 1 CPU each, 60 s at most")
    while ray.available_resources().get("CPU") != 2:  # nothing stays reserved
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/api/jobs/", {}),  # CVE-2023-48022: a job of anybody who reaches the port
        ("POST", "/api/jobs/", {"User-Agent": "x", "Host": "evil.example"}),  # CVE-2025-62593: by a page, rebound
        ("POST", "/api/jobs/", {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}),
        ("DELETE", "/api/jobs/raysubmit_1", {"Host": "evil.example"}),  # CVE-2026-27482: jobs and Serve deleted
        ("DELETE", "/api/serve/applications/", {}),
    ],
)
def test_no_known_hole_of_ray_is_open(ray_cluster, method, path, headers):
    import urllib.error
    import urllib.request

    from ray._private.worker import get_dashboard_url

    data = b'{"entrypoint": "true"}' if method == "POST" else None
    headers = {"Content-Type": "application/json", **headers}
    asked = urllib.request.Request(f"http://{get_dashboard_url()}{path}", data, headers, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    assert refused.value.code in (401, 403)


@pytest.mark.ray
def test_a_local_ray_is_closed_to_the_other_users_of_the_machine(ray_cluster):
    import psutil

    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert [stat.S_IMODE(place.stat().st_mode) for place in (token, token.parent)] == [0o600, 0o700]
    assert (token.parent / "ray").is_dir(), "what Ray opens to everybody lies below a closed folder"
    processes = psutil.Process().children(recursive=True)
    listening = {
        end.laddr.ip for one in processes for end in one.net_connections() if end.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
