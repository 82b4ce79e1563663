"""`cluster/constraints.txt`, by which an install can be repeated."""

import importlib.metadata
import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "constraints.txt"
ENTRY = r"([a-z0-9-]+)==(\S+)(?: ; (.*?))?(?:\s+--hash=sha256:[0-9a-f]{64})+"


@pytest.fixture(scope="module")
def drawn():
    """What pyproject.toml asks for, with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    return [one for one in map(Requirement, lines) if one.name != "clinscale"]


@pytest.fixture(scope="module")
def entries():
    """`(name, version, marker)` of each entry; all have hashes."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [re.fullmatch(ENTRY, line.strip()).groups() for line in text.splitlines()]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_requirement_has_one_version_that_it_allows(drawn, entries, python):
    here = {"sys_platform": "linux", "python_version": python, "python_full_version": f"{python}.0"}
    held = [(name, version) for name, version, marker in entries if not marker or Marker(marker).evaluate(here)]
    assert len(held) == len(dict(held))
    for requirement in drawn:
        assert requirement.specifier.contains(dict(held)[canonicalize_name(requirement.name)]), requirement


def test_all_that_is_drawn_is_held_and_nothing_else(drawn, entries):
    held = {name: {version for other, version, _ in entries if other == name} for name, *_ in entries}
    installed = {canonicalize_name(one.metadata["Name"]): one for one in importlib.metadata.distributions()}
    # what another release than the one that is held draws says nothing of the file
    others = {
        name for name in held.keys() & installed if installed[name].version.partition("+")[0] not in held[name]
    }
    seen, left = set(), [(canonicalize_name(one.name), extra) for one in drawn for extra in ("", *one.extras)]
    while left:
        name, extra = key = left.pop()
        if key not in seen and name in installed and name not in others:
            for requirement in map(Requirement, installed[name].requires or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    left += [(canonicalize_name(requirement.name), one) for one in ("", *requirement.extras)]
        seen.add(key)
    names = {name for name, _ in seen}
    assert names - held.keys() == set()
    if not others:
        assert (held.keys() & installed) - names == set()
