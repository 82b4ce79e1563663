"""Real clusters on this machine."""

import importlib.util
from pathlib import Path

import pytest


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


def _module(name):
    """A file beside this one: with pytest's importlib mode test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"launch_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
