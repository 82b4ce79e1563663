"""The rule for safe HF folders: a flat folder of weights, configs and tokenizer files, nothing that runs.

One rule for both ends: `register` refuses to send what `pull` would refuse to take.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from clinscale.errors import DataError, RegistryError
from clinscale.registry.packages import is_known_package
from clinscale.runfolder import PLAIN_NAME
from clinscale.storage import read_json, sha256

SUFFIXES = {".safetensors", ".json", ".txt", ".md", ".model"}
"""`.model` is a sentencepiece vocabulary (BigBird's). Pickles, `.bin` and `.pt` weights and code have no place."""

REDIRECTS = {"adapter_config.json"}
"""Files by which `from_pretrained` would load a model from elsewhere."""

REMOTE_CODE = {
    *("auto_map", "custom_pipelines", "trust_remote_code"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("use_kernels", "kernel_config", "kernels"),
}
"""Config keys by which `transformers` would run code from the folder or the hub; of those that choose an
implementation, a value with a slash is a kernel on the hub, and `save_pretrained` writes none of them."""

ELSEWHERE = {
    *("transformers_weights", "base_model_name_or_path", "backbone", "use_pretrained_backbone"),
    *("use_timm_backbone", "index_path", "passages_path"),
}
"""Config keys by which it would load weights or pickles that no manifest lists."""

MAX_PARSED_BYTES = 16 * 2**20
"""Largest file that is parsed, since it is read whole into memory: configs are far smaller, bombs are not."""


class FileFacts(TypedDict):
    """A manifest's facts on one file."""

    sha256: str
    bytes: int


def check_plain(name: str, *, source: str) -> None:
    """RegistryError unless a name can lead nowhere but to what is directly in its folder."""
    if not re.fullmatch(PLAIN_NAME, name):
        raise RegistryError(f"{source}: file name {name!r} is not plain; a model folder is flat: rename the file")


def check_one_case(names: Iterable[str], *, source: str) -> None:
    """RegistryError where two names differ by case alone: on many disks the one would replace the other."""
    known: dict[str, str] = {}
    for name in sorted(names):
        other = known.setdefault(name.casefold(), name)
        if other != name:
            raise RegistryError(
                f"{source}: {other} and {name} differ by case alone, and on many disks are one file; rename one"
            )


def check_names(names: list[str], *, source: str) -> None:
    """RegistryError unless the file names are plain, of allowed kinds, and include a config and weights."""
    check_one_case(names, source=source)
    for name in names:
        check_plain(name, source=source)
        if Path(name).suffix not in SUFFIXES or name in REDIRECTS:
            raise RegistryError(
                f"{source}: {name} is not allowed in a registered model; allowed are "
                f"{', '.join(sorted(SUFFIXES))} files, and weights as safetensors only: save with save_pretrained"
            )
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise RegistryError(
            f"{source} is no HF folder with safetensors; it needs config.json and *.safetensors: save the model with "
            "save_pretrained"
        )


def hash_folder(folder: Path, *, source: str, known: Mapping[str, str] | None = None) -> dict[str, FileFacts]:
    """Hash and size by file name of a folder that obeys the rules; RegistryError names the rule that is broken.

    `known` are hashes by name that were found while the files were written.
    """
    if not folder.is_dir():
        raise RegistryError(f"{source} is not a folder; name the HF folder of a saved model")
    files = sorted(folder.iterdir())
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise RegistryError(
                f"{source}: {file.name} is a link or a folder; a model folder holds plain files only: put the file "
                "itself there, or remove it"
            )
    check_names([file.name for file in files], source=source)
    for file in files:
        if file.name.endswith("config.json"):
            _refuse_remote_code(read_bounded_json(file), f"{source}: {file.name}")
        elif file.name.endswith(".index.json"):
            _check_index(file, source)
        elif file.suffix == ".safetensors":
            _check_weights(file, source)
        elif file.name == "requirements.txt":
            _check_requirements(file, source)
    known = known or {}
    return {
        file.name: {"sha256": known.get(file.name) or sha256(file), "bytes": file.stat().st_size} for file in files
    }


def digest_of(files: Mapping[str, FileFacts]) -> str:
    """One digest for all files of a folder; it names the content, not the place or the time."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def folder_digest(folder: str | Path) -> str:
    """The digest that a registered or pulled HF folder has; RegistryError when the folder is not a safe one."""
    return digest_of(hash_folder(Path(folder), source=str(folder)))


def read_bounded_json(file: Path) -> Any:
    """Content of a small JSON file; RegistryError where it is broken, bottomless, or not small."""
    if file.stat().st_size > MAX_PARSED_BYTES:
        raise RegistryError(
            f"{file.name} has more than {MAX_PARSED_BYTES:,} bytes, and no config needs so many; save the model again"
        )
    try:
        return read_json(file)
    except (DataError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise RegistryError(
            f"{file.name} is not valid JSON ({type(error).__name__}); save the model again"
        ) from None


def _refuse_remote_code(value: Any, place: str) -> None:
    left = [value]  # not by recursion: a file may nest as deep as Python calls
    while left:
        inner = left.pop()
        if isinstance(inner, dict):
            if found := REMOTE_CODE & inner.keys():
                raise RegistryError(
                    f"{place} names code to run ({min(found)}); remote code is refused: use a stock model, without it"
                )
            if found := {key for key in ELSEWHERE & inner.keys() if inner[key] not in (None, False)}:
                raise RegistryError(
                    f"{place} names weights elsewhere ({min(found)}); only files of the folder are loaded: remove it"
                )
            left += inner.values()
        elif isinstance(inner, list):
            left += inner


def _check_index(file: Path, source: str) -> None:
    """A weight index may only point at safetensors beside it."""
    index = read_bounded_json(file)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    names = shards.values() if isinstance(shards, dict) else [None]
    beside = [path.name for path in file.parent.iterdir()]
    if not file.name.endswith(".safetensors.index.json") or not all(name in beside for name in names):
        raise RegistryError(
            f"{source}: {file.name} points at files that are not in the folder; save the model again"
        )


def _check_weights(file: Path, source: str) -> None:
    import safetensors

    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            tensors.keys()
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError):
        raise RegistryError(f"{source}: {file.name} is not a safetensors file; save the model again") from None


def _check_requirements(file: Path, source: str) -> None:
    """Refuse a list of requirements unless it holds only packages that clinscale knows, in one version each."""
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        match = re.fullmatch(
            rb"#.*|([A-Za-z0-9][A-Za-z0-9._-]*)==[A-Za-z0-9.!]+( --hash=sha256:[0-9a-f]{64})*", line
        )
        if match is None:
            raise RegistryError(
                f"{source}: {file.name} line {number} is no NAME==VERSION with hashes; URLs, options and ranges are "
                "refused: save the model again"
            )
        if match[1] and not is_known_package(match[1].decode()):
            raise RegistryError(
                f"{source}: {file.name} line {number} names a package that no model of clinscale needs; "
                "remove the line"
            )
