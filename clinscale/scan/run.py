"""Notes against everything that is kept: any eight words of a note in a row, wherever they are."""

import contextlib
import functools
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinscale import corpus, registry
from clinscale.corpus import CleaningConfig, Document, SourceConfig
from clinscale.errors import ClinscaleError, DataError
from clinscale.scan.holes import has_long_holes
from clinscale.scan.readings import readings
from clinscale.scan.strings import FAULTS, Piece, plain, read_pieces
from clinscale.scan.token_ids import TOKEN_IDS, decoded
from clinscale.storage import is_remote, sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PHRASE_WORDS = 8
"""Words in a row that count as text of a note, case, punctuation, white space and markup aside."""

_INDEX_PHRASES = 2**24
"""Number of phrases that are in memory at once: some 600 MB while they are sorted; the notes are read once for each."""
_NOTES_NAMED = 5
_TOKENIZER = "tokenizer.json"
_CONTENT, _NAME = 0, 1
"""A place is the content or the name of what a label represents: twice its number, plus this."""


@dataclass(frozen=True)
class Finding:
    """A place that holds text of notes."""

    place: str
    position: int
    """Position of the first phrase in bytes; near it if the text is escaped, as in JSON."""
    phrases: int
    """Different ones."""
    num_notes: int
    notes: tuple[str, ...]
    """Ids of the first of them."""


@dataclass(frozen=True)
class ScanResult:
    """The scanned files, and the findings."""

    notes: int
    notes_too_short: int
    """Number of notes with fewer words than a phrase, of which nothing can be found."""
    files: int
    texts: int
    """Names, params, tags and descriptions in MLflow."""
    bytes: int
    """Size of the files."""
    unread: tuple[str, ...]
    """Files that could not be looked into: damaged, encrypted, of a format that is not opened, or token ids that no
    tokenizer met makes."""
    shards: tuple[str, ...]
    """Files of token ids of ShardSets, as built: they are notes by purpose, and are named instead of looked into."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Label:
    """Name of a place."""

    root: str
    """Place in words that nobody has written into a run."""
    name: str

    def of(self, inside: str) -> "_Label":
        """A part of the file."""
        return _Label(self.root, f"{self.name} {inside}")


@dataclass
class _Found:
    position: int
    phrases: int = 0
    num_notes: int = 0
    notes: list[str] = field(default_factory=list)


Progress = Callable[[int, str], None]


def scan(
    sources: Sequence[SourceConfig],
    *,
    tracking: registry.Tracking,
    places: Sequence[Path],
    skip: Sequence[Path] = (),
    on_progress: Progress = lambda done, what: None,
) -> ScanResult:
    """Look for text of the notes in all that the tracking server holds and in all files below `places`.

    Memory grows neither with the notes nor with what is looked through. The files of the sources are not looked into.

    Args:
        sources: of the notes.
        tracking: whose texts and artifacts are read, those of deleted runs and models too.
        places: files and folders beside it: home, logs.
        skip: files and folders below them that may hold notes.
        on_progress: called with how many have been done of what.

    Raises:
        DataError: the sources cannot be read or hold no note, or a place does not exist.
        RegistryError: the server fails.
    """
    own = {_real(Path(uri)) for source in sources for uri in corpus.files_of(source) if not is_remote(uri)}
    notes = functools.partial(corpus.read_documents, sources, CleaningConfig(drop_duplicates=False))
    if next(notes(), None) is None:
        raise DataError(
            f"{', '.join(source.uri for source in sources)} holds no note; name the files of the notes"
        )
    for place in places:
        if not place.exists():
            raise DataError(f"{place} does not exist; name files and folders that do")
    work = _Scan(tracking, notes, on_progress, {*own, *map(_real, skip)})
    for place in places:
        work.look_through(place)
    for held in registry.contents(tracking):
        if isinstance(held, registry.Text):
            work.look_at_text(held)
        else:
            work.look_at_artifacts(held)
    return work.finish()


class _Scan:
    """One scan: what is kept is hashed, in batches, and each batch compared with all notes."""

    def __init__(
        self,
        tracking: registry.Tracking,
        notes: Callable[[], Iterator[Document]],
        on_progress: Progress,
        skip: set[Path],
    ) -> None:
        self._tracking, self._notes, self._on_progress, self._skip = tracking, notes, on_progress, skip
        self._labels: list[_Label] = []
        self._same: dict[int, list[int]] = defaultdict(list)
        """Further labels with the same content, by the label whose content was read."""
        self._read: dict[str, dict[str, int]] = {}
        """Labels of the readable parts of each file, by its content."""
        self._why_unread: dict[str, str] = {}
        """Reason why not all of a file was read, by its content."""
        self._walked: set[Path] = set()
        self._tokenizers: dict[str, Tokenizer] = {}
        """Tokenizers met so far, of versions and of folders, by digest."""
        self._files = self._texts = self._bytes = self._num_notes = self._short = 0
        self._unread: list[tuple[int, str]] = []
        self._shards: list[int] = []
        self._found: dict[int, _Found] = {}
        self._empty_index()

    def look_through(self, root: Path) -> None:
        """All files below a folder, or the one file."""
        files, others = _files_below(root)
        for path, why in others:
            real = _real(path)
            if self._skip.isdisjoint((real, *real.parents)):
                self._unread.append((self._new(_Label(str(root), str(path))), why))
        for path in sorted(files, key=lambda path: (path.name != _TOKENIZER, path)):
            real = _real(path)
            if self._skip.isdisjoint((real, *real.parents)) and real not in self._walked:
                self._walked.add(real)
                self._look_into(path, _Label(str(root), str(path)))

    def look_at_text(self, text: registry.Text) -> None:
        """A text of MLflow."""
        self._texts += 1
        if text.key or text.value:
            label = self._new(_Label(text.owner, f"{text.owner}: {text.field} {text.key}".strip()))
            place, tokenizers = _CONTENT + 2 * label, list(self._tokenizers.values())
            self._add(place, text.value, 0, len(text.value))
            try:
                for value in readings(text.value, tokenizers):
                    self._add(place, value, 0, len(text.value))
            except NotImplementedError as error:
                self._unread.append((label, _why(error)))

    def look_at_artifacts(self, files: registry.Files) -> None:
        """All files of a run or model; a folder that this machine sees is read where it is."""
        if files.folder and files.folder.is_dir():
            self.look_through(files.folder)
            return
        if files.folder and self._tracking.uri.startswith("http"):
            label = self._new(_Label(files.owner, f"{files.owner}: artifacts"))
            self._unread.append((label, "in a folder that only the server sees"))
            return
        names = [name for name, _ in registry.artifacts(self._tracking, files)]
        for name in sorted(names, key=lambda name: not name.endswith(_TOKENIZER)):
            with registry.local_artifact(self._tracking, files, name) as path:
                self._look_into(path, _Label(files.owner, f"{files.owner}: artifact {name}"))

    def finish(self) -> ScanResult:
        """The result of everything that was scanned."""
        self._compare()
        findings = []
        for place, found in self._found.items():
            label, is_name = divmod(place, 2)
            of_notes = (found.phrases, found.num_notes, tuple(found.notes))
            if is_name:
                findings.append(Finding(self._told(label), 0, *of_notes))
            else:
                same = [label, *self._same[label]]
                findings += [Finding(self._told(one), found.position, *of_notes) for one in same]
        return ScanResult(
            notes=self._num_notes,
            notes_too_short=self._short,
            files=self._files,
            texts=self._texts,
            bytes=self._bytes,
            unread=tuple(f"{self._told(label)} ({why})" for label, why in self._unread),
            shards=tuple(map(self._told, self._shards)),
            findings=tuple(sorted(findings, key=lambda finding: finding.place)),
        )

    def _look_into(self, path: Path, label: _Label) -> None:
        self._files += 1
        self._on_progress(self._files, "files")
        first = self._new(label)
        try:
            before = path.stat()
            digest, why = self._read_parts(path, before, label, first)
            if _state_of(path.stat()) != _state_of(before):
                why = "changed while it was read"
                self._read.pop(digest, None)
        except FAULTS as error:
            why = _why(error)
        if why:
            self._unread.append((first, why))

    def _read_parts(self, path: Path, found: os.stat_result, label: _Label, first: int) -> tuple[str, str]:
        """Read a file's content, or know it again: its digest, and why not all of it could be read, else nothing."""
        has_holes = has_long_holes(found)
        self._bytes += 512 * found.st_blocks if has_holes else found.st_size
        digest = f"file {path}" if has_holes else sha256(path)
        if _is_shard(path, digest):
            self._shards.append(first)
            return digest, ""
        if digest in self._read:
            for inside, known in self._read[digest].items():
                self._same[known].append(self._new(label.of(inside)) if inside else first)
            return digest, self._why_unread.get(digest, "")
        if path.name == _TOKENIZER and not has_holes:
            self._remember_tokenizer(digest, path)
        parts = self._read[digest] = {}
        tokenizers = list(self._tokenizers.values())
        largest = max((one.get_vocab_size() for one in tokenizers), default=0)
        try:
            for piece in read_pieces(path, largest):
                if piece.inside not in parts:
                    parts[piece.inside] = self._new(label.of(piece.inside)) if piece.inside else first
                try:
                    for text in _texts_of(piece, tokenizers):
                        self._add(_CONTENT + 2 * parts[piece.inside], text, piece.offset, len(piece.raw))
                except NotImplementedError as error:
                    self._why_unread[digest] = _why(error)
        except FAULTS as error:
            self._why_unread[digest] = _why(error)
        return digest, self._why_unread.get(digest, "")

    def _remember_tokenizer(self, digest: str, path: Path) -> None:
        from tokenizers import Tokenizer

        with contextlib.suppress(Exception):  # what it cannot read is no tokenizer, and is read as a text
            self._tokenizers[digest] = Tokenizer.from_file(str(path))

    def _new(self, label: _Label) -> int:
        """Add a label and return its number.

        It may quote a note itself, so it is scanned like any text before it is shown.
        """
        number = len(self._labels)
        self._labels.append(label)
        self._add(_NAME + 2 * number, label.name, 0, len(label.name))
        return number

    def _told(self, number: int) -> str:
        label = self._labels[number]
        is_clean = _NAME + 2 * number not in self._found
        return label.name if is_clean else f"{label.root}: a name that is text of notes"

    def _add(self, place: int, text: str, offset: int, num_bytes: int) -> None:
        text = plain(text)
        hashes, starts = corpus.phrases(text, PHRASE_WORDS)
        if not len(hashes):
            return
        is_text = ~_counts(hashes)
        hashes, starts = hashes[is_text], starts[is_text]
        if not len(hashes):
            return
        self._hashes.append(hashes)
        self._places.append(np.full(len(hashes), place, np.int32))
        self._positions.append(offset + starts * num_bytes // len(text))
        self._size += len(hashes)
        if self._size >= _INDEX_PHRASES:
            self._compare()

    def _empty_index(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        self._places: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        self._positions: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._size = 0

    def _compare(self) -> None:
        """All notes with the batch, which is then forgotten."""
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes)
        hashes, places = hashes[order], np.concatenate(self._places)[order]
        positions = np.concatenate(self._positions)[order]
        self._empty_index()
        hit = np.zeros(len(hashes), bool)
        self._num_notes = self._short = 0
        for note in self._notes():
            self._num_notes += 1
            own = np.unique(corpus.phrases(plain(note.text), PHRASE_WORDS)[0])
            self._short += not len(own)
            first, last = (np.searchsorted(hashes, own, side) for side in ("left", "right"))
            touched: set[int] = set()
            for start, stop in zip(first[first < last], last[first < last], strict=True):
                hit[start:stop] = True
                touched |= set(places[start:stop].tolist())
            for place in touched:
                self._remember(place, note.id)
            self._on_progress(self._num_notes, "notes")
        for place in np.unique(places[hit]).tolist():
            found, of_place = self._found[place], hit & (places == place)
            found.phrases += len(np.unique(hashes[of_place]))
            found.position = min(found.position, int(positions[of_place].min()))

    def _remember(self, place: int, note: str) -> None:
        found = self._found.setdefault(place, _Found(position=2**63 - 1))
        found.num_notes += 1
        if len(found.notes) < _NOTES_NAMED:
            found.notes.append(note)


def _texts_of(piece: Piece, tokenizers: list["Tokenizer"]) -> Iterator[str]:
    if piece.encoding in TOKEN_IDS:
        yield from decoded(piece.raw, piece.encoding, tokenizers)
    else:
        yield piece.text
        yield from readings(piece.text, tokenizers)


def _why(error: Exception) -> str:
    if not isinstance(error, NotImplementedError):
        return type(error).__name__
    return str(error) or "of a format that is not opened"


def _counts(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each phrase is numbers in a row, nobody's text: lists in notes, or ids of a vocabulary."""
    known = _counting()
    return np.equal(known[np.searchsorted(known[:-1], hashes)], hashes)


@functools.cache
def _counting() -> NDArray[np.uint64]:
    return np.sort(corpus.phrases(" ".join(map(str, range(10_000))), PHRASE_WORDS)[0])


def _is_shard(path: Path, digest: str) -> bool:
    """Whether a file is one of token ids of the ShardSet in its folder, with the content that its manifest states."""
    try:
        splits = corpus.open_shards(path.parent).manifest.splits.values()
    except (ClinscaleError, OSError, ValueError):
        return False
    return any((path.name, digest) == (file.name, file.sha256) for split in splits for file in split.files)


def _files_below(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below a folder, or the one file; and what else is there and not followed.

    That are folders and files that are closed, links that lead out, and pipes and devices.
    """
    if root.is_file():
        return [root], []
    others: list[tuple[Path, str]] = []
    files, inside = [], _real(root)
    walk = os.walk(root, onerror=lambda error: others.append((Path(error.filename), type(error).__name__)))
    for folder, folders, names in walk:
        for path in (Path(folder) / name for name in (*folders, *names)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # it has gone
                continue
            except OSError as error:
                others.append((path, type(error).__name__))
                continue
            if stat.S_ISLNK(mode):
                real = _real(path)
                if not _is_missing(real) and inside not in (real, *real.parents):
                    others.append((path, "a link to another place"))
            elif stat.S_ISREG(mode):
                files.append(path)
            elif not stat.S_ISDIR(mode):
                others.append((path, "a pipe, socket or device"))
    return files, others


def _real(path: Path) -> Path:
    """The place that a path leads to; of links in a circle, which `Path.resolve` raises for, one of them."""
    return Path(os.path.realpath(path))


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there
        return False
    return False


def _state_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns
