"""The ShardSet: token streams on disk, memory-mapped, with a manifest that says what they were made from.

Invariants: `manifest.json` is written last, so a folder that has one is complete. Each split is one stream of
little-endian token ids, each document followed by the separator, in files of equal length but for the last. No
note text, id or path inside the source files is kept beside the tokens.
"""

import contextlib
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config, fingerprint, nearest
from clinscale.corpus.packing import Rows
from clinscale.errors import ChangedDataError, ConfigError, DataError
from clinscale.storage import exists, filesystem, is_remote, join, local_copy, read_json, sha256
from clinscale.tokenizers import SpecialIds

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
SHARD_SUFFIX = ".tokens"
LENGTHS_SUFFIX = ".lengths"

_LOOKED_AT = 2**16
"""Tokens of each file that are looked at for padding."""


log = logging.getLogger(__name__)

_State = tuple[int, int, int, int]
Split = Literal["train", "validation"]


class ShardFile(Config):
    """One file of token ids."""

    name: Annotated[str, Field(pattern=r"^(train|validation)-\d{5,}\.tokens$")]
    """Name of the file in the ShardSet's folder."""

    tokens: int
    """Number of ids; the file is this many times the width of `dtype` long."""

    sha256: str
    """SHA-256 of the file's bytes."""


class SplitCard(Config):
    """Contents of a split."""

    documents: int
    """Notes."""

    tokens: int
    """Ids, the separators after each note included."""

    files: tuple[ShardFile, ...]
    """Files of the split, in the order of the stream."""

    lengths_sha256: str
    """SHA-256 of `SPLIT-documents.lengths`: each note's number of ids with the separator, as little-endian uint32."""


class Manifest(Config):
    """Contents and origin of a ShardSet; counts and hashes only."""

    format: Literal["clinscale-shards-2"] = "clinscale-shards-2"
    """Changes when older code could misread the files."""

    recipe: dict[str, Any]
    """All that decides the tokens: cleaning, split, tokenizer, digests of the sources."""

    sources: tuple[str, ...]
    """Places from which the notes were read."""

    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer in `tokenizer/`."""

    special: SpecialIds
    """Special tokens and vocabulary size of the tokenizer."""

    dtype: Literal["uint16", "uint32"]
    """Width of an id on disk."""

    splits: dict[Split, SplitCard]
    """Training and held-out notes; exact duplicates never fall on both sides."""

    left_out: dict[str, int]
    """Rows that are not in the shards: filtered, empty, short, duplicate, near_duplicate, leaked."""

    remarks: dict[str, int] = Field(default={})
    """Notes in the sources that were read as they are, and are likely not what their export meant: how many of what."""

    leakage: dict[str, dict[str, int]] = Field(default={})
    """Number of each task's test documents, and how many of them were found in the sources."""

    document_tokens: dict[str, float]
    """Mean, quantiles and maximum of the notes' lengths, without special tokens."""

    share_cut_at: dict[str, float]
    """Share of notes that a model of 512 or 4096 tokens could not read whole."""


class ShardSet:
    """An opened ShardSet; cheap to open, the tokens are read when rows are."""

    def __init__(self, uri: str, folder: Path, manifest: Manifest) -> None:
        """Use `open_shards`."""
        self.uri = uri
        """Place of the ShardSet; absolute when local, so that workers elsewhere can open it."""
        self.manifest = manifest
        """Contents and origin of the ShardSet."""
        self._folder = folder
        self._states: dict[str, _State] = {}
        """States of the token files when they were checked."""
        self._is_told = False

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that are equal when tokens and tokenizer are, wherever they are."""
        files = {name: [file.sha256 for file in split.files] for name, split in self.manifest.splits.items()}
        return fingerprint({"tokenizer": self.manifest.tokenizer_fingerprint, "files": files})

    @property
    def notes_fingerprint(self) -> str:
        """Twelve hex digits over the contents of the note files, in their order."""
        sources = self.manifest.recipe["sources"]
        return fingerprint([sources[number]["sha256"] for number in sorted(sources, key=int)])

    @property
    def sizes(self) -> dict[str, int]:
        """Notes and tokens of each split."""
        splits = self.manifest.splits.items()
        return {f"{name} {what}": getattr(card, what) for name, card in splits for what in ("documents", "tokens")}

    @property
    def tokenizer_dir(self) -> Path:
        """Local HF folder of the tokenizer."""
        return self._folder / TOKENIZER

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return self.manifest.special.vocab_size

    def rows(self, split: Split, row_tokens: int, *, documents_apart: bool = False) -> Rows:
        """The rows of `row_tokens` tokens of a split; ConfigError for an unknown split or a length below 3.

        With `documents_apart` a row holds whole notes where they fit, each with a frame of its own.
        """
        if split not in self.manifest.splits:
            raise ConfigError(
                f"ShardSet {self.uri} has no split {split!r}; {nearest(split, [*self.manifest.splits])}"
            )
        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        files = self.manifest.splits[split].files
        shards = [np.memmap(self._folder / file.name, dtype=dtype, mode="r") for file in files]
        for file in files:  # that another set took their place since this one was opened
            self._check_content(file, _state_of(self._folder / file.name))
        return Rows(
            shards,
            row_tokens=row_tokens,
            special=self.manifest.special,
            document_tokens=self.document_tokens(split) if documents_apart else None,
        )

    def check_unchanged(self) -> None:
        """Raise ChangedDataError where somebody wrote into a token file since the set was opened.

        One that was deleted or replaced is still read as it was, which is said once.
        """
        for file in (file for card in self.manifest.splits.values() for file in card.files):
            now, known = _state_of(self._folder / file.name), self._states.get(file.name)
            if now and known and now[:2] == known[:2]:
                self._check_content(file, now)
            elif not self._is_told:
                self._is_told = True
                log.warning(
                    "ShardSet %s: %s was deleted or replaced; this work goes on with what it has opened, and to start "
                    "again it needs the set as it was",
                    self.uri,
                    file.name,
                )

    def _check_content(self, file: ShardFile, now: _State | None) -> None:
        if now == self._states.get(file.name):
            return
        found = sha256(self._folder / file.name) if now else "none"
        if found != file.sha256:
            raise ChangedDataError.of(
                f"{file.name} of ShardSet {self.uri}", before=file.sha256[:12], now=found[:12]
            )
        if now:
            self._states[file.name] = now

    def document_tokens(self, split: Split) -> NDArray[np.uint32]:
        """Length of each note of a split in tokens, its separator included; (documents,)."""
        if not self.manifest.splits[split].documents:
            return np.zeros(0, np.uint32)
        return np.memmap(self._folder / lengths_file(split), dtype="<u4", mode="r")

    def card(self) -> dict[str, Any]:
        """JSON-ready facts for people and the command line."""
        manifest = self.manifest
        splits = {
            f"{name}_{what}": getattr(split, what)
            for name, split in manifest.splits.items()
            for what in ("documents", "tokens")
        }
        return {
            **splits,
            "vocab_size": self.vocab_size,
            "tokenizer_fingerprint": manifest.tokenizer_fingerprint,
            "recipe_fingerprint": fingerprint(manifest.recipe),
            "sources": list(manifest.sources),
            "left_out": manifest.left_out,
            "remarks": manifest.remarks,
            "document_tokens": manifest.document_tokens,
            "share_cut_at": manifest.share_cut_at,
            "packing_efficiency": {
                f"{row_tokens}{name}": round(
                    self.rows("train", row_tokens, documents_apart=apart).packing_efficiency, 4
                )
                for row_tokens in (512, 4096)
                for name, apart in (("", False), (" documents apart", True))
            },
            "leakage": manifest.leakage,
        }

    def check_files(self, *, contents: bool = False) -> Self:
        """Raise DataError when a file is missing or has another size than the manifest says, or other lengths of notes.

        Contents of the token files, hours of reading, are compared with `contents` alone.
        """
        width = np.dtype(self.manifest.dtype).itemsize
        sizes = {
            name: size
            for split, card in self.manifest.splits.items()
            for name, size in (
                *((file.name, file.tokens * width) for file in card.files),
                (lengths_file(split), card.documents * 4),
            )
        }
        for name, size in sizes.items():
            path = self._folder / name
            state = _state_of(path)
            found = state[2] if state and path.is_file() else 0
            if found != size:
                raise DataError(
                    f"ShardSet {self.uri} is damaged: {name} must have {size} bytes, has {found}; copy it again, or "
                    "delete the folder and build it anew"
                )
            if state:
                self._states[name] = state
        hashes = {lengths_file(split): card.lengths_sha256 for split, card in self.manifest.splits.items()}
        if contents:
            hashes |= {file.name: file.sha256 for card in self.manifest.splits.values() for file in card.files}
        for name, digest in hashes.items():
            if sizes[name] and sha256(self._folder / name) != digest:
                raise DataError(
                    f"ShardSet {self.uri} is damaged: {name} must have the SHA-256 of its manifest, and has another; "
                    "copy it again, or delete the folder and build it anew"
                )
        if not (self.tokenizer_dir / "tokenizer.json").is_file():
            raise DataError(f"ShardSet {self.uri} is damaged: it has no tokenizer; build it anew")
        self._refuse_padding()
        return self

    def _refuse_padding(self) -> None:
        """DataError where notes were filled up to a length, and cut at it, as their tokenizer's file says.

        Versions before 2026-11-30 did so, with that of sentence-transformers' MiniLM for one. Some tokens are read.
        """
        pad, dtype = self.manifest.special.pad, np.dtype(self.manifest.dtype).newbyteorder("<")
        for name in (file.name for card in self.manifest.splits.values() for file in card.files):
            is_pad = np.fromfile(self._folder / name, dtype, count=_LOOKED_AT) == pad
            if pad != self.manifest.special.sep and (is_pad[:-2] & is_pad[1:-1] & is_pad[2:]).any():
                raise DataError(
                    f"ShardSet {self.uri} holds padding inside notes: an earlier version of clinscale filled them up, "
                    "and cut them, as the tokenizer's file says; delete the folder and build it anew"
                )


def _state_of(path: Path) -> _State | None:
    """State of a file by which a write into it is noticed; None where it is gone, or is away."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def lengths_file(split: Split) -> str:
    """Name of the file with the lengths of a split's notes."""
    return f"{split}-documents{LENGTHS_SUFFIX}"


def is_shard_set(uri: str | Path) -> bool:
    """Whether a whole ShardSet is there."""
    return exists(join(str(uri), MANIFEST))


def open_shards(uri: str | Path, *, cache_dir: str | Path | None = None, expected: str | None = None) -> ShardSet:
    """Open the ShardSet at `uri`; a remote one is copied to this machine first.

    Args:
        uri: folder, local or in an object store.
        cache_dir: where copies of remote ShardSets go; None is `$CLINSCALE_CACHE`, else `~/.cache/clinscale`. Only
            this user can read it, because tokens are patient text.
        expected: fingerprint of what was opened there before, in another process of the same work.

    Raises:
        DataError: no ShardSet there, or files missing or of the wrong size. ChangedDataError: it is another one.
    """
    uri = str(uri) if is_remote(uri) else filesystem(uri)[1]
    if not exists(join(uri, MANIFEST)):
        raise DataError(
            f"{uri} is not a ShardSet: it has no {MANIFEST}; check the path, or run clinscale corpus build again "
            "if a build was interrupted"
        )
    values = read_json(join(uri, MANIFEST))
    try:
        manifest = Manifest.parse(values, source=join(uri, MANIFEST))
    except ConfigError as error:
        raise DataError(f"ShardSet {uri} cannot be read by this version: {error}; build it anew") from None
    cache = Path(cache_dir or os.environ.get("CLINSCALE_CACHE") or Path.home() / ".cache" / "clinscale")
    # a rebuilt ShardSet at the same URI has another manifest, and so another place in the cache
    place = cache / "shards" / fingerprint(manifest.plain())

    def copy() -> Path:
        return local_copy(
            uri, place, check=lambda whole: ShardSet(uri, whole, manifest).check_files(contents=True)
        )

    folder = copy()
    found = folder.stat() if is_remote(uri) else None
    try:
        shards = ShardSet(uri, folder, manifest).check_files()
    except DataError as error:
        if found is None:
            raise
        log.warning("the copy of ShardSet %s in %s is damaged, and is made anew: %s", uri, folder, error)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(found, folder.stat()):  # another worker has not done so
                shutil.rmtree(folder.replace(folder.with_name(f".damaged-{uuid.uuid4().hex}")))
        shards = ShardSet(uri, copy(), manifest).check_files()
    if expected not in (None, shards.fingerprint):
        raise ChangedDataError.of(f"ShardSet {uri}", before=str(expected), now=shards.fingerprint)
    return shards
