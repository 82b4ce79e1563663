"""The Python, Ray, torch and clinscale that a cluster runs: those that this package was released with."""

import functools
import importlib.metadata
import re

from clinscale.errors import ConfigError


@functools.cache
def pins() -> dict[str, str]:
    """`{"python": "3.11", "ray": "2.60.0", "torch": "2.13.0", "clinscale": "0.1.0"}`, read from the package's metadata.

    All nodes of a cluster, and machines that join it, need the same ones; so every file names them exactly.

    Raises:
        ConfigError: clinscale was not installed, so there is no metadata.
    """
    try:
        metadata = importlib.metadata.metadata("clinscale")
        required = importlib.metadata.requires("clinscale") or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            "clinscale is not installed here, so its pinned versions are unknown; pip install it"
        ) from None
    found = {"python": _number(metadata["Requires-Python"]), "clinscale": metadata["Version"]}
    for requirement in required:
        name = re.match(r"[\w.-]+", requirement)
        if name and name[0] in ("ray", "torch"):
            found[name[0]] = _number(requirement.partition(";")[0].removeprefix(name[0]))
    return found


def _number(specifier: str) -> str:
    """The lower end of `<3.13,>=3.11` or `[tune]~=2.60.0`."""
    lower = re.search(r"(?:==|~=|>=)\s*([0-9.]+)", specifier)
    assert lower, specifier
    return lower[1]


def is_supported_python(minor: str) -> bool:
    """Whether clinscale runs on Python `minor`, e.g. "3.12"."""
    bounds = importlib.metadata.metadata("clinscale")["Requires-Python"]
    upper = re.search(r"<\s*([0-9.]+)", bounds)
    order = [tuple(map(int, text.split("."))) for text in (_number(bounds), minor, upper[1] if upper else "9.0")]
    return order[0] <= order[1] < order[2]
