"""The files of a version, checked before and after they come: names and sizes first, then hashes and content."""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clinscale.errors import CapacityError, RegistryError
from clinscale.permissions import make_folder
from clinscale.registry.folders import (
    MAX_PARSED_BYTES,
    FileFacts,
    check_names,
    check_one_case,
    check_plain,
    digest_of,
    hash_folder,
    read_bounded_json,
)
from clinscale.registry.mlflow_model import HF_FOLDER, MANIFEST, manifest_digest
from clinscale.registry.stored import StoredFiles
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import ModelVersion
from clinscale.storage import sha256

Progress = Callable[[int, int], None]
"""Callback that gets `(done_bytes, total_bytes)` while files arrive."""

_AT_ONCE = 8

REQUIREMENTS = "requirements.txt"

_OF_MLFLOW = {"MLmodel", "conda.yaml", "python_env.yaml", REQUIREMENTS}
"""Files that `log_model` puts beside a model."""


def download(tracking: Tracking, version: ModelVersion, folder: Path, on_progress: Progress) -> None:
    """Download a version into `folder` until it matches the manifest; files of an earlier download are reused.

    Raises:
        RegistryError: the server is away, and what has come stays; or files are unsafe, unlisted, missing or
            changed, and `folder` is gone.
        CapacityError: the disk does not hold what the manifest says.
    """
    stored = StoredFiles(tracking, version)
    with tempfile.TemporaryDirectory() as temporary:
        manifest = Path(temporary) / MANIFEST
        stored.fetch(MANIFEST, manifest, MAX_PARSED_BYTES)
        sizes = stored.sizes(HF_FOLDER)
        with _gone_if_refused(folder):
            listed, around = _read_manifest(manifest, version)
            _compare(sizes, listed, version)
            if version.manifest:
                _check_around(stored, around, version, Path(temporary))
    places = {name: (f"{HF_FOLDER}/{name}", facts["bytes"]) for name, facts in listed.items()}
    hashed = _fetch(
        stored, places, folder, version, on_progress, lambda file: sha256(file) == listed[file.name]["sha256"]
    )
    with _gone_if_refused(folder):
        found = hash_folder(folder, source=version.label, known=hashed)
        _refuse_changed([name for name in listed if found.get(name) != listed[name]], version)


def stored_files(tracking: Tracking, version: ModelVersion) -> tuple[dict[str, FileFacts], tuple[str, ...]]:
    """Facts of every file of a version by its path, as its manifest says, and the lines of its `requirements.txt`.

    Raises:
        RegistryError: clinscale did not register the version, or what is stored is not what was registered.
    """
    if not version.digest:
        raise RegistryError(
            f"{version.label} must have a manifest, got none: clinscale did not register it; pull it, and register it"
        )
    stored = StoredFiles(tracking, version)
    with tempfile.TemporaryDirectory() as temporary:
        manifest, requirements = Path(temporary) / MANIFEST, Path(temporary) / REQUIREMENTS
        stored.fetch(MANIFEST, manifest, MAX_PARSED_BYTES)
        listed, around = _read_manifest(manifest, version)
        lines: list[str] = []
        if REQUIREMENTS in listed:
            stored.fetch(f"{HF_FOLDER}/{REQUIREMENTS}", requirements, MAX_PARSED_BYTES)
            if sha256(requirements) != listed[REQUIREMENTS]["sha256"]:
                _refuse_changed([REQUIREMENTS], version)
            lines = requirements.read_text("utf-8").splitlines()
    return {**{f"{HF_FOLDER}/{name}": facts for name, facts in listed.items()}, **around}, tuple(lines)


def download_foreign(tracking: Tracking, version: ModelVersion, folder: Path, on_progress: Progress) -> str:
    """Make `folder` the HF folder of a version without a manifest; the digest of what has come.

    Raises:
        RegistryError: the server is away, or the version holds no HF folder, or an unsafe one.
        CapacityError: the disk does not hold what the store lists.
    """
    stored = StoredFiles(tracking, version)
    places = _hf_files(stored, version)
    check_names(list(places), source=version.label)
    hashed = _fetch(stored, places, folder, version, on_progress, lambda file: False)
    found = hash_folder(folder, source=version.label, known=hashed)
    _refuse_changed(
        [name for name, (_, size_bytes) in places.items() if found[name]["bytes"] != size_bytes], version
    )
    return digest_of(found)


def _hf_files(stored: StoredFiles, version: ModelVersion) -> dict[str, tuple[str, int]]:
    """Path and size by name of a plain HF folder, or of `mlflow.transformers`'s `model` and `components/*`."""
    top = {name: size for name, size in stored.sizes().items() if name not in _OF_MLFLOW}
    if "config.json" in top:
        listings = {"": top}
    else:
        folders = ["model"] if "model" in top else []
        if folders and "components" in top:
            folders += [f"components/{name}" for name in stored.sizes("components")]
        for name in folders:
            check_plain(name.rpartition("/")[2], source=version.label)
        listings = {f"{name}/": stored.sizes(name) for name in folders}
    places: dict[str, tuple[str, int]] = {}
    for folder, sizes in listings.items():
        for name, size_bytes in sizes.items():
            if size_bytes is None or name in places:
                raise RegistryError(
                    f"{version.label}: {folder}{name} is a folder, or there twice, and a model folder is flat; "
                    "register the model again"
                )
            places[name] = (f"{folder}{name}", size_bytes)
    return places


def _fetch(
    stored: StoredFiles,
    places: Mapping[str, tuple[str, int]],
    folder: Path,
    version: ModelVersion,
    on_progress: Progress,
    is_whole: Callable[[Path], bool],
) -> dict[str, str]:
    """Bring each file to `folder` by name; one that is there already goes on where it ends.

    The answer has the SHA-256 of each file that has come as a whole.
    """
    total_bytes = sum(size_bytes for _, size_bytes in places.values())
    there_bytes = sum(file.stat().st_size for file in folder.iterdir()) if folder.exists() else 0
    free_bytes = shutil.disk_usage(folder.parent).free
    if total_bytes - there_bytes > free_bytes:
        raise CapacityError(
            f"{version.label} needs {total_bytes - there_bytes:,} bytes, {folder.parent} has {free_bytes:,} free; "
            "make room, or give another --home"
        )
    make_folder(folder)
    done_bytes, hashed = 0, {}
    for name, (path, size_bytes) in places.items():
        file = folder / name

        def report(file_bytes: int, before_bytes: int = done_bytes) -> None:
            on_progress(before_bytes + file_bytes, total_bytes)

        fetch = functools.partial(stored.fetch, path, file, size_bytes, report)
        if not (file.exists() and is_whole(file)):
            if file.exists() and file.stat().st_size >= size_bytes:
                file.unlink()
            resumed = file.exists()
            content = fetch()
            if resumed and not is_whole(file):  # what was there was not its beginning
                file.unlink()
                content = fetch()
            if content:
                hashed[name] = content
        done_bytes += size_bytes
    on_progress(done_bytes, total_bytes)
    return hashed


def _check_around(
    stored: StoredFiles, around: Mapping[str, FileFacts], version: ModelVersion, folder: Path
) -> None:
    """Look at the files that are not handed out, code above all: MLflow runs them where the version is served.

    They are many and small, so they come side by side.
    """
    sizes = {path: size for path, size in _tree(stored, "") if path != MANIFEST}
    check_one_case(around, source=version.label)
    _compare(sizes, around, version)

    def is_whole(number: int, path: str) -> bool:
        file = folder / f"{number}"
        stored.fetch(path, file, around[path]["bytes"])
        return sha256(file) == around[path]["sha256"]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        whole = dict(zip(around, pool.map(is_whole, range(len(around)), around), strict=True))
    _refuse_changed([path for path in around if not whole[path]], version)


def _tree(stored: StoredFiles, folder: str) -> Iterator[tuple[str, int]]:
    """Path and size of all stored files but those of the HF folder, which is flat and was looked at."""
    for name, size_bytes in stored.sizes(folder).items():
        path = f"{folder}/{name}".lstrip("/")
        if size_bytes is not None:
            yield path, size_bytes
        elif path != HF_FOLDER:
            yield from _tree(stored, path)


def _read_manifest(path: Path, version: ModelVersion) -> tuple[dict[str, FileFacts], dict[str, FileFacts]]:
    """The files of the HF folder and those around it; refused unless the version's digests cover them."""
    try:
        manifest = read_bounded_json(path)
    except RegistryError:
        manifest = None
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    around = manifest.get("around", {}) if isinstance(manifest, dict) else None
    if (
        not isinstance(listed, dict)
        or not isinstance(around, dict)
        or not all(map(_is_fact, [*listed.values(), *around.values()]))
        or digest_of(listed) != version.digest
        or version.manifest != (manifest_digest(listed, around) if "around" in manifest else "")
    ):
        raise RegistryError(
            f"{version.label}: {MANIFEST} does not match the version's digest {version.digest[:12]}; "
            "the stored files were changed after registration: register the model again"
        )
    check_names(list(listed), source=version.label)
    return listed, around


def _is_fact(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"sha256", "bytes"}
        and isinstance(value["bytes"], int)
        and value["bytes"] >= 0
    )


def _compare(sizes: Mapping[str, int | None], listed: Mapping[str, FileFacts], version: ModelVersion) -> None:
    """Compare the files in the store with the manifest, by name and size."""
    if sizes.keys() != listed.keys():
        strange = sorted(sizes.keys() - listed.keys()) or sorted(listed.keys() - sizes.keys())
        rule = "unlisted" if sizes.keys() - listed.keys() else "missing"
        raise RegistryError(
            f"{version.label}: {rule} files {', '.join(map(repr, strange))}; "
            "the stored files were changed after registration: register the model again"
        )
    _refuse_changed([name for name in listed if sizes[name] != listed[name]["bytes"]], version)


def _refuse_changed(names: list[str], version: ModelVersion) -> None:
    if names:
        raise RegistryError(
            f"{version.label}: {', '.join(sorted(names))} differ from what was registered; "
            "the stored files were damaged or changed: register the model again"
        )


@contextlib.contextmanager
def _gone_if_refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except RegistryError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
