"""The packages with which a model answers elsewhere as it does here: few, exact, in a file beside its weights."""

import functools
import importlib.metadata
import platform
from pathlib import Path

from clinscale import __version__

REQUIREMENTS_FILE = "requirements.txt"

_DIRECT = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas"),
    *("pydantic", "pyyaml", "fsspec", "ijson"),
    *("mlflow-skinny", "cryptography", "typer", "rich"),  # to be served, pulled, and asked on the command line
)
"""Packages that prediction imports: neither Ray nor DeepSpeed, and of MLflow the part without its server."""
_OF_TORCH = ("nvidia-", "cuda-", "triton")
"""Beginnings of the packages that a build of torch for GPUs brings by itself."""


def write_requirements(folder: str | Path) -> None:
    """Store the list in an HF folder, for `pip install -r`; the same environment writes the same bytes."""
    python = ".".join(platform.python_version_tuple()[:2])
    head = f"# made with Python {python}; to this list belongs: pip install --no-deps clinscale=={__version__}"
    text = "\n".join([head, *locked_requirements()]) + "\n"
    (Path(folder) / REQUIREMENTS_FILE).write_text(text, encoding="utf-8")


def read_requirements(folder: str | Path) -> tuple[str, ...]:
    """The list in an HF folder; that of this environment where the folder has none."""
    path = Path(folder) / REQUIREMENTS_FILE
    if not path.exists():
        return locked_requirements()
    return tuple(line for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))


@functools.cache
def locked_requirements() -> tuple[str, ...]:
    """`name==version` of each package that prediction imports, directly or not, as installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    waiting = list(_DIRECT)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in versions or name.startswith(_OF_TORCH):
            continue
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # what is not here was not needed here
            continue
        versions[name] = installed.version.partition("+")[0]
        needs = [Requirement(line) for line in installed.requires or ()]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))
