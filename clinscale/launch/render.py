"""Launch files from a few answers."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.launch.answers import KINDS, Answers
from clinscale.launch.versions import pins
from clinscale.runtime import PATIENT

_FILES = {
    "aws": ["aws.yaml"],
    "azure": ["azure.yaml"],
    "docker": ["Dockerfile"],
    "gcp": ["gcp.yaml"],
    "kuberay": ["kuberay/cluster.yaml", "kuberay/pretrain.yaml", "kuberay/tune.yaml"],
    "mlflow": ["mlflow/compose.yaml"],
    "on-prem": ["on-prem.yaml"],
    "slurm": ["slurm/sweep.sbatch"],
}
"""Files that each kind writes; the template of `a/b.yaml` is `a/b.yaml.j2`."""


def answers(kind: str, given: Sequence[str]) -> Answers:
    """The answers of `kind` from `key=value` words.

    Raises:
        ConfigError: there is no such kind or answer, a needed one is missing, or a value breaks its rule.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind {kind!r} is not known; {nearest(kind, list(KINDS))}")
    return KINDS[kind].load(None, given)


def render(kind: str, given: Answers) -> dict[str, str]:
    """Path below the output folder -> text of each file of `kind`; equal answers give equal bytes.

    Raises:
        ConfigError: this release has no template of the kind.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clinscale.launch"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: (
            value.rstrip("\n") if isinstance(value, str) else value
        ),  # a macro ends its own lines
    )
    environment.globals["patient"] = PATIENT
    values: dict[str, Any] = {"a": given, "pins": pins(), "made_by": _command(kind, given)}
    try:
        return {name: environment.get_template(f"{name}.j2").render(values) for name in _FILES[kind]}
    except jinja2.TemplateNotFound as error:
        raise ConfigError(
            f"kind {kind} has no template {error.name} in this release of clinscale; install clinscale again"
        ) from None


def write(files: Mapping[str, str], out: Path, *, force: bool = False) -> list[Path]:
    """Write `files` below `out`; those that are there with the same text are left as they are.

    Raises:
        ConfigError: a file is there with another text and `force` is not set, or cannot be written.
    """
    paths = {out / name: text for name, text in files.items()}
    try:
        other = [path for path, text in paths.items() if path.exists() and path.read_text() != text]
        if other and not force:
            raise ConfigError(
                f"{', '.join(map(str, other))} is there and differs; --force overwrites it, --out names another folder"
            )
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{out} cannot be written to ({type(error).__name__}); give another --out") from None
    return list(paths)


def _command(kind: str, given: Answers) -> str:
    """The command that makes the files, with what differs from the defaults."""
    words = ["clinscale", "cluster", "render", kind]
    for name, value in given.model_dump(mode="json", exclude_defaults=True).items():
        is_names = isinstance(value, list) and all(isinstance(item, str) for item in value)
        text = (
            ",".join(value) if is_names else str(value).replace(" ", "") if isinstance(value, list) else str(value)
        )
        words.append(shlex.quote(f"{name}={text}"))
    return " ".join(words)
