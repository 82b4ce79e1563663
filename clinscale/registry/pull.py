"""From the registry to a local HF folder, trusting nothing but the digest.

A registered version of MLflow is not immutable, and loading a hostile one runs its code. So a pull never loads
anything: it compares names before it downloads and hashes after it, and shows the folder only when all is right.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clinscale.errors import DataError, RegistryError
from clinscale.registry.folders import FileFacts, check_names, digest_of, folder_digest, hash_folder
from clinscale.registry.mlflow_model import HF_FOLDER, MANIFEST
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import ModelVersion, resolve
from clinscale.storage import read_json


@dataclass(frozen=True)
class Pulled:
    """A verified local copy of a version."""

    name: str
    version: int
    path: Path
    digest: str


@dataclass(frozen=True)
class FetchedModel:
    """A model that a config names, ready to load."""

    path: str
    """Local HF folder, or a hub name for `from_pretrained`."""
    label: str
    """What lineage records: `NAME/VERSION` from the registry, path and digest of a folder, a hub's name."""
    digest: str = ""
    """Of a version or a folder that is safe to register; empty for a hub's name."""
    model_id: str = ""
    """Of a version's LoggedModel."""


def pull(tracking: Tracking, reference: str, out: str | Path, *, expected_digest: str | None = None) -> Pulled:
    """Copy the version that `reference` names to folder `out`, verified; nothing half-written is ever seen there.

    Args:
        tracking: where from.
        reference: `NAME`, `NAME@alias` or `NAME/3`.
        out: the folder to make. An equal one is returned as it is.
        expected_digest: a digest pinned outside the registry, whose tags can be rewritten.

    Raises:
        RegistryError: unknown reference, another digest than pinned, files that are unsafe, unlisted, missing or
            changed, or `out` holds something else.
    """
    out = Path(out).absolute()
    version = resolve(tracking, reference)
    if not version.digest:
        raise RegistryError(
            f"{version.label} was not registered by clinscale and has no digest; it cannot be verified"
        )
    if expected_digest not in (None, version.digest):
        raise RegistryError(
            f"{version.label} has digest {version.digest[:12]}, pinned is {str(expected_digest)[:12]}; "
            "somebody changed the version: ask its owner, or remove the pin if the change is meant"
        )
    pulled = Pulled(version.name, version.version, out, version.digest)
    if out.exists():
        if out.is_dir() and _digest_or_none(out) == version.digest:
            return pulled
        raise RegistryError(f"{out} exists and is not {version.label}; remove it, or give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        _download(tracking, version, Path(temporary)).replace(out)
    return pulled


def fetch_model(tracking: Tracking, model: str, *, home: str | Path) -> FetchedModel:
    """What a config calls a model: a folder, a registry reference (pulled to `home/models`) or a hub's `ORG/NAME`.

    Raises:
        RegistryError: a name without a slash that the registry does not hold, or a failing pull.
    """
    if Path(model).is_dir():
        digest = _digest_or_none(Path(model))
        return FetchedModel(
            str(Path(model).absolute()), f"{model}#{digest[:12]}" if digest else model, digest or ""
        )
    _, slash, last = model.partition("/")
    if slash and not last.isdigit():
        return FetchedModel(model, model)
    version = resolve(tracking, model)
    folder = Path(home) / "models" / f"{version.name}-{version.version}"
    return FetchedModel(str(pull(tracking, version.label, folder).path), version.label, version.digest, version.model_id)


def _download(tracking: Tracking, version: ModelVersion, temporary: Path) -> Path:
    """The verified HF folder below `temporary`."""
    import mlflow.artifacts

    with tracking.faults(f"download {version.label}"):
        uri = tracking.client.get_model_version_download_uri(version.name, str(version.version))
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{uri}/{MANIFEST}", dst_path=str(temporary), tracking_uri=tracking.uri
        )
        listed = _read_manifest(temporary / MANIFEST, version)
        stored = mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{HF_FOLDER}", tracking_uri=tracking.uri)
        _compare_names({PurePosixPath(item.path).name for item in stored}, set(listed), version)
        folder = temporary / "hf"
        folder.mkdir()
        for name in listed:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{uri}/{HF_FOLDER}/{name}", dst_path=str(folder), tracking_uri=tracking.uri
            )
    found = hash_folder(folder, source=version.label)
    changed = sorted(name for name in listed if found.get(name) != listed[name])
    if changed or found.keys() != listed.keys():
        raise RegistryError(
            f"{version.label}: {', '.join(changed) or 'its files'} differ from the manifest; "
            "the stored files were damaged or changed: register the model again"
        )
    return folder


def _read_manifest(path: Path, version: ModelVersion) -> dict[str, FileFacts]:
    """File names and hashes; refused unless they are the ones that the version's digest stands for."""
    try:
        manifest = read_json(path)
    except DataError:
        manifest = None
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict) or digest_of(listed) != version.digest:
        raise RegistryError(
            f"{version.label}: {MANIFEST} does not match the version's digest {version.digest[:12]}; "
            "the stored files were changed after registration: register the model again"
        )
    check_names(list(listed), source=version.label)
    return listed


def _compare_names(stored: set[str], listed: set[str], version: ModelVersion) -> None:
    if stored != listed:
        strange = sorted(stored - listed) or sorted(listed - stored)
        rule = "unlisted" if stored - listed else "missing"
        raise RegistryError(
            f"{version.label}: {rule} files {', '.join(map(repr, strange))}; "
            "the stored files were changed after registration: register the model again"
        )


def _digest_or_none(folder: Path) -> str | None:
    try:
        return folder_digest(folder)
    except RegistryError:
        return None
