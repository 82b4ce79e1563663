"""A driver that loses the Ray of its machine ends in order."""

import subprocess
import sys
import threading

import psutil
import pytest

from clinscale.errors import ClusterError, was_interrupted
from clinscale.runtime import node


@pytest.fixture
def raylet(monkeypatch):
    """A process in the place of the raylet."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = psutil.Process(process.pid)
    found.info = {"name": "raylet"}
    monkeypatch.setattr(node, "_of_session", lambda own: [found])
    yield process
    process.kill()
    process.communicate()


def wait_for_ever(raylet, closed):
    with node.interrupted_without_ray(own=True):
        try:
            raylet.kill()
            threading.Event().wait()
        finally:
            closed.append(True)


def test_work_is_interrupted_when_the_raylet_is_killed_and_the_error_says_how_to_go_on(raylet):
    closed = []
    with pytest.raises(ClusterError, match=r"Ray's raylet on this machine was lost.*same command") as error:
        wait_for_ever(raylet, closed)
    assert closed
    assert not was_interrupted(error.value), "the command would end as after a Ctrl-C"


def test_an_interrupt_of_another_kind_is_left_alone(raylet):
    with pytest.raises(KeyboardInterrupt), node.interrupted_without_ray(own=True):
        raise KeyboardInterrupt


@pytest.mark.ray
def test_both_processes_of_a_local_ray_are_found(ray_cluster):
    assert {process.info["name"] for process in node._of_session(own=True)} == {"raylet", "gcs_server"}
