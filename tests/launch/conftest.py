"""Real clusters on this machine: Ray nodes on loopback, and hosts that are machines of their own to ssh."""

import importlib.util
from pathlib import Path

import pytest


def _module(name):
    """A file beside this one: with pytest's importlib mode test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"launch_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def loopback_class():
    """`Loopback(folder, token=True)`; see `loopback.py`."""
    return _module("loopback").Loopback


@pytest.fixture(scope="session")
def loopback(loopback_class, tmp_path_factory):
    """A healthy cluster of two nodes that asks for its token."""
    cluster = loopback_class(tmp_path_factory.mktemp("loopback"))
    try:
        cluster.add_node("node")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def hosts():
    """A launcher and two hosts, `head` and `worker`, of the tests of one file; see `hosts.py`."""
    module = _module("hosts")
    if reason := module.why_not():
        pytest.skip(reason)
    made = module.Hosts("head", "worker")
    try:
        yield made
    finally:
        made.close()
