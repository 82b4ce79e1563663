"""Versions of registered models: register, promote, resolve, list."""

import contextlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinscale import __version__
from clinscale.config import nearest
from clinscale.errors import RegistryError
from clinscale.registry.folders import FileFacts, digest_of, hash_folder
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.storage import write_json

CHAMPION = "champion"
MANIFEST = "manifest.json"
"""In the root of each registered model: `{"files": {name: {"sha256": ..., "bytes": ...}}}` of its HF folder."""
HF_FOLDER = "artifacts/hf"
"""Where the HF folder lies in a registered model."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<alias>{_NAME})|/(?P<version>[0-9]+))?")


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    """The run that made it."""
    tags: dict[str, str]
    digest: str
    """Of its HF folder; empty for a version that clinscale did not register."""

    @property
    def label(self) -> str:
        """`NAME/VERSION`, the reference that never moves."""
        return f"{self.name}/{self.version}"


def register(
    tracking: Tracking,
    run_id: str,
    folder: str | Path,
    *,
    name: str,
    tags: Mapping[str, str],
    pyfunc_code: Path | None = None,
    pip_requirements: Sequence[str] = (),
    alias: str | None = None,
) -> ModelVersion:
    """Store an HF folder as the next version of `name`; a folder that is a version already returns that one.

    Args:
        tracking: where to.
        run_id: the run that made the folder.
        folder: HF folder with safetensors.
        name: of the registered model, made on first use.
        tags: of the version.
        pyfunc_code: Python file that MLflow runs to load the model (a *model from code*); it gets artifact `hf`.
            None for a base model, which answers nothing yet.
        pip_requirements: what that file needs; given, because MLflow's guess starts the model.
        alias: set on the version.

    Raises:
        RegistryError: the folder holds what is not safe to hand on, the name is not plain, or the server fails.
    """
    if not re.fullmatch(_NAME, name):
        raise RegistryError(f"model name {name!r} must be letters, digits, dots, dashes and underscores")
    folder = Path(folder).absolute()
    files = hash_folder(folder, source=str(folder))
    digest = digest_of(files)
    version = next((known for known in _versions_of(tracking, name) if known.digest == digest), None)
    if version is None:
        with (
            tracking.faults(f"register a version of {name}"),
            _saved_model(folder, files, pyfunc_code, pip_requirements) as saved,
        ):
            version = _upload(
                tracking, run_id, saved, name, {**tags, Tag.CODE_VERSION: __version__, Tag.DIGEST: digest}
            )
    return promote(tracking, version, alias) if alias else version


def promote(tracking: Tracking, version: ModelVersion, alias: str = CHAMPION) -> ModelVersion:
    """Point `alias` at `version`; the version as it then is."""
    with tracking.faults(f"set alias {alias} of {version.label}"):
        tracking.client.set_registered_model_alias(version.name, alias, str(version.version))
    return resolve(tracking, version.label)


def resolve(tracking: Tracking, reference: str) -> ModelVersion:
    """The version that `NAME`, `NAME@alias` or `NAME/3` means; NAME alone is the champion, else the latest.

    Raises:
        RegistryError: there is no such name, alias or version; names the nearest known.
    """
    version = find_version(tracking, reference)
    if version is not None:
        return version
    name = _parse(reference)["name"]
    known = sorted({item.name for item in list_versions(tracking)})
    if name not in known:
        raise RegistryError(f"no model {name!r} in {tracking.place}; {nearest(str(name), known)}")
    versions = [item for item in list_versions(tracking) if item.name == name]
    has = ", ".join(f"{item.version}{''.join(f' @{alias}' for alias in item.aliases)}" for item in versions)
    raise RegistryError(f"model {name} has no {reference[len(str(name)) :]}; its versions: {has}")


def find_version(tracking: Tracking, reference: str) -> ModelVersion | None:
    """Like `resolve`, but None when there is no such version."""
    wanted = _parse(reference)
    versions = _versions_of(tracking, str(wanted["name"]))
    if wanted["version"]:
        return next((item for item in versions if item.version == int(wanted["version"])), None)
    champion = next((item for item in versions if (wanted["alias"] or CHAMPION) in item.aliases), None)
    if champion is None and not wanted["alias"]:
        return versions[-1] if versions else None
    return champion


def list_versions(tracking: Tracking) -> list[ModelVersion]:
    """All versions of all models, by name and number."""
    found = tracking.every("list models", lambda token: tracking.client.search_registered_models(page_token=token))
    return [version for name in sorted(model.name for model in found) for version in _versions_of(tracking, name)]


def _parse(reference: str) -> dict[str, str | None]:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(f"model reference {reference!r} must read NAME, NAME@alias or NAME/3")
    return match.groupdict()


def _versions_of(tracking: Tracking, name: str) -> list[ModelVersion]:
    """By number; empty for an unknown name."""
    from mlflow.exceptions import MlflowException

    action = f"read model {name}"
    with tracking.faults(action):
        try:
            aliases: dict[str, str] = tracking.client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
    quoted = name.replace("'", "''")
    versions = tracking.every(
        action, lambda token: tracking.client.search_model_versions(f"name = '{quoted}'", page_token=token)
    )
    found = [
        ModelVersion(
            name=item.name,
            version=int(item.version),
            aliases=tuple(sorted(alias for alias, target in aliases.items() if int(target) == int(item.version))),
            run_id=item.run_id or "",
            tags=dict(item.tags),
            digest=item.tags.get(Tag.DIGEST, ""),
        )
        for item in versions
    ]
    return sorted(found, key=lambda item: item.version)


@contextlib.contextmanager
def _saved_model(
    folder: Path, files: Mapping[str, FileFacts], pyfunc_code: Path | None, pip_requirements: Sequence[str]
) -> Iterator[Path]:
    """The MLflow model in a temporary folder; checked again there, since `folder` may have changed."""
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(prefix="clinscale-register-") as temporary:
        named = Path(temporary) / Path(HF_FOLDER).name
        shutil.copytree(folder, named)  # MLflow names an artifact folder after its source, and refuses links
        saved = Path(temporary) / "model"
        if pyfunc_code is None:
            (saved / HF_FOLDER).parent.mkdir(parents=True)
            named.rename(saved / HF_FOLDER)
        else:
            with warnings.catch_warnings(record=True):  # MLflow's advice on type hints; its own filter beats ours
                mlflow.pyfunc.save_model(
                    str(saved),
                    python_model=str(pyfunc_code),
                    artifacts={named.name: str(named)},
                    pip_requirements=list(pip_requirements),
                )
        if hash_folder(saved / HF_FOLDER, source=str(folder)) != files:
            raise RegistryError(
                f"{folder} changed while it was registered; register it when its writer has finished"
            )
        write_json(saved / MANIFEST, {"files": files})
        yield saved


def _upload(tracking: Tracking, run_id: str, saved: Path, name: str, tags: Mapping[str, str]) -> ModelVersion:
    """The version comes last and with all its tags, so that a cut upload leaves no half version behind."""
    from mlflow.exceptions import MlflowException

    client = tracking.client
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id)
    client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name, logged.artifact_location, run_id=run_id, tags=dict(tags), model_id=logged.model_id
    )
    return resolve(tracking, f"{name}/{created.version}")
