"""Hosts for the tests of how clusters are launched."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("hosts.py"))
_hosts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_hosts)


@pytest.fixture(scope="module")
def hosts():
    """A launcher and two hosts, `head` and `worker`, of the tests of one file; see `hosts.py`."""
    if reason := _hosts.why_not():
        pytest.skip(reason)
    made = _hosts.Hosts("head", "worker")
    try:
        yield made
    finally:
        made.close()
