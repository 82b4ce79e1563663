"""One check for all launch files: what a file is, is seen from what it holds."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clinscale.config import read_yaml
from clinscale.errors import ConfigError
from clinscale.launch.image import check_compose, check_dockerfile
from clinscale.launch.kubernetes import check_kubernetes
from clinscale.launch.launcher import check_launcher
from clinscale.launch.problem import Problem
from clinscale.launch.slurm import check_slurm

_KNOWN = "Ray launcher YAML, Kubernetes manifests, Slurm batch scripts, Dockerfiles and compose files"
_LAUNCHER_KEYS = {"cluster_name", "provider", "available_node_types", "head_start_ray_commands"}


def check(path: Path, crds: Path | None = None) -> list[Problem]:
    """All that is to mend in the launch file at `path`; nothing is started, and nobody outside this machine is asked.

    `crds` is a folder with KubeRay's definitions, against which manifests are then held as well.

    Raises:
        ConfigError: there is no such file, it is none of the known kinds, or is not YAML where it should be.
    """
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a launch file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text ({type(error).__name__}); known are {_KNOWN}"
        ) from None
    if re.search(r"^#SBATCH\b", text, re.MULTILINE):
        found = check_slurm(file, text, path)
    elif re.match(r"(\s*(#.*)?\n|ARG .*\n)*FROM\s+\S", text):
        found = check_dockerfile(file, text)
    else:
        documents = _documents(path, text)
        first = documents[0]
        if all("apiVersion" in document and "kind" in document for document in documents):
            found = check_kubernetes(file, text, documents, crds)
        elif "services" in first:
            found = check_compose(file, text, read_yaml(path))
        elif first.keys() & _LAUNCHER_KEYS:
            found = check_launcher(file, text, read_yaml(path))
        else:
            raise ConfigError(f"{path} is no launch file that is known here; known are {_KNOWN}")
    return sorted(set(found))


def _documents(path: Path, text: str) -> list[Mapping[str, Any]]:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path} line {line}: {error.problem}; mend the YAML there") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path} is not YAML; known are {_KNOWN}") from None
    if not documents or not all(isinstance(document, Mapping) for document in documents):
        raise ConfigError(f"{path} is no launch file that is known here; known are {_KNOWN}")
    return documents
