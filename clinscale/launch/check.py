"""One check for all launch files: what a file is, is seen from what it holds."""

import re
from pathlib import Path
from typing import Any

from clinscale.errors import ConfigError
from clinscale.launch.image import check_compose, check_dockerfile
from clinscale.launch.kubernetes import check_kubernetes
from clinscale.launch.launcher import check_launcher
from clinscale.launch.problem import Problem
from clinscale.launch.slurm import check_slurm
from clinscale.strict_yaml import parse_yaml, read_config_text

_KNOWN = "Ray launcher YAML, Kubernetes manifests, Slurm batch scripts, Dockerfiles and compose files"
_LAUNCHER_KEYS = {"cluster_name", "provider", "available_node_types", "head_start_ray_commands"}


def check(path: Path, crds: Path | None = None) -> list[Problem]:
    """All faults of the launch file at `path`; nothing is started, and nobody outside this machine is asked.

    `crds` is a folder with KubeRay's definitions, against which manifests are then held as well.

    Raises:
        ConfigError: there is no such file, it is none of the known kinds, or is not YAML where it should be.
    """
    file = str(path)
    text = read_config_text(path)
    if re.search(r"^#SBATCH\b", text, re.MULTILINE):
        found = check_slurm(file, text, path)
    elif re.match(r"(\s*(#.*)?\n|ARG .*\n)*FROM\s+\S", text):
        found = check_dockerfile(file, text)
    else:
        documents = _documents(path, text)
        first = documents[0]
        if all("apiVersion" in document and "kind" in document for document in documents):
            found = check_kubernetes(file, text, documents, crds)
        elif len(documents) > 1:
            raise ConfigError(f"{path} must hold one YAML document, got {len(documents)}; remove the others")
        elif "services" in first:
            found = check_compose(file, text, first)
        elif first.keys() & _LAUNCHER_KEYS:
            found = check_launcher(file, text, first)
        else:
            raise ConfigError(f"{path} is no launch file that is known here; known are {_KNOWN}")
    return sorted(set(found))


def _documents(path: Path, text: str) -> list[dict[str, Any]]:
    # as Ray, Kubernetes and Docker read what is theirs
    documents = [one for one in parse_yaml(text, str(path), dialect="1.1") if one is not None]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise ConfigError(f"{path} is no launch file that is known here; known are {_KNOWN}")
    return documents
