"""Form of a version in MLflow: a flat HF folder, its manifest and, where it answers, a pyfunc from code."""

import contextlib
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinscale.errors import RegistryError
from clinscale.registry.folders import FileFacts, digest_of, hash_folder
from clinscale.registry.openssf import write_statement
from clinscale.storage import sha256, write_json

MANIFEST = "manifest.json"
"""File in the root of each registered model: `{"files": {name: {"sha256": ..., "bytes": ...}}, "around": {path: ...}}`,
where `files` are those of its HF folder and `around` are all others, the pyfunc's code and requirements too. Versions
that clinscale registered before it covered them have no `around`."""
HF_FOLDER = "artifacts/hf"
"""Place of the HF folder in a registered model."""
_UNIX = 3


@dataclass(frozen=True)
class Pyfunc:
    """The way in which MLflow loads and serves a version: a *model from code*, so that nothing is pickled."""

    code: Path
    """The file that MLflow runs to load the model; it gets artifact `hf`."""
    pip_requirements: tuple[str, ...]
    """Requirements of that file; given, because MLflow's guess starts the model."""
    code_files: Mapping[str, Path] = field(default_factory=dict)
    """Code that the version carries, by its place in `code/code.zip`, which `code` puts on Python's path."""
    signature: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    """`inputs`, `outputs` and `params` as MLflow writes them into a model's JSON."""
    input_example: Sequence[Mapping[str, str]] = ()
    """Rows of invented text; no note's."""


@contextlib.contextmanager
def saved_model(folder: Path, files: Mapping[str, FileFacts], pyfunc: Pyfunc | None) -> Iterator[tuple[Path, str]]:
    """The MLflow model in a temporary folder, and the digest of all its files.

    The HF folder is checked again there, since `folder` may have changed.
    """
    with tempfile.TemporaryDirectory(prefix="clinscale-register-") as temporary:
        named = Path(temporary) / Path(HF_FOLDER).name
        shutil.copytree(folder, named)  # MLflow names an artifact folder after its source, and refuses links
        saved = Path(temporary) / "model"
        if pyfunc is None:
            (saved / HF_FOLDER).parent.mkdir(parents=True)
            named.rename(saved / HF_FOLDER)
        else:
            _save_pyfunc(saved, named, pyfunc, Path(temporary) / "code.zip")
        if hash_folder(saved / HF_FOLDER, source=str(folder)) != files:
            raise RegistryError(
                f"{folder} changed while it was registered; register it when its writer has finished"
            )
        write_statement(saved, ignored=MANIFEST)
        around = {path: facts for path, facts in _hash_tree(saved).items() if not path.startswith(f"{HF_FOLDER}/")}
        write_json(saved / MANIFEST, {"files": files, "around": around})
        yield saved, manifest_digest(files, around)


def manifest_digest(files: Mapping[str, FileFacts], around: Mapping[str, FileFacts]) -> str:
    """One digest for every file of a version by its path: what a signature covers."""
    return digest_of({**around, **{f"{HF_FOLDER}/{name}": facts for name, facts in files.items()}})


def _hash_tree(folder: Path) -> dict[str, FileFacts]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in paths
    }


def _save_pyfunc(saved: Path, hf_folder: Path, pyfunc: Pyfunc, archive: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from pandas import DataFrame

    if pyfunc.code_files:
        _write_archive(archive, pyfunc.code_files)
    signature = pyfunc.signature and ModelSignature.from_dict(
        {part: json.dumps(schema) for part, schema in pyfunc.signature.items()}
    )
    with warnings.catch_warnings(record=True):  # MLflow's advice on type hints; its own filter beats ours
        mlflow.pyfunc.save_model(
            str(saved),
            python_model=str(pyfunc.code),
            artifacts={hf_folder.name: str(hf_folder)},
            pip_requirements=list(pyfunc.pip_requirements),
            code_paths=[str(archive)] if pyfunc.code_files else None,
            signature=signature,
            input_example=DataFrame(pyfunc.input_example) if pyfunc.input_example else None,
        )


def _write_archive(archive: Path, files: Mapping[str, Path]) -> None:
    """One file for all code, because a store takes a request for each; the same code gives the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for place, source in sorted(files.items()):
            entry = zipfile.ZipInfo(place)  # of 1980, by nobody
            entry.create_system, entry.external_attr = _UNIX, 0o100644 << 16
            packed.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
