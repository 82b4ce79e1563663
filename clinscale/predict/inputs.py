"""Inputs of `clinscale predict`: files and folders, read as the task's files were for training."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from clinscale.errors import ConfigError, DataError
from clinscale.predict.card import TaskCard
from clinscale.records import ODD_TEXTS, list_files, other_files
from clinscale.storage import filesystem, is_remote, join
from clinscale.tasks import (
    DOCUMENT_SUFFIXES,
    DocumentFormat,
    Example,
    OnError,
    TaskConfig,
    document_format,
    read_unlabelled,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One file of documents."""

    file: str
    """Name of the file as the user gave it."""
    path: str
    """Path from which any node reads the file."""
    format: DocumentFormat
    name: str
    """Begins the ids of documents that bring none; no other source of one reading has the same."""


@dataclass(frozen=True)
class Document:
    """One document to answer, or the reason why that cannot be."""

    id: str
    file: str
    """`file` and `row` distinguish documents whose ids are equal."""
    row: int
    """Counted from 1: row of a table, sentence of a BIO file, question of a SQuAD file."""
    example: Example | None
    fault: str = ""
    """A clause that holds no text of the document."""

    def refusal(self, fault: str) -> DataError:
        """The error that says what is wrong with it, where that is to be raised."""
        place = f"{self.file} row {self.row}"
        return DataError(f"{place}: {fault}; fix it, or answer the others by on_error=skip (--on-error skip)")


@dataclass(frozen=True)
class Inputs:
    """The documents of all files given, in order, to be gone through as often as needed; small, for other processes."""

    task: TaskConfig
    sources: tuple[Source, ...]
    on_error: OnError
    folders: tuple[str, ...] = ()
    """Local folders whose files are read."""

    @classmethod
    def find(
        cls,
        uris: Sequence[str],
        card: TaskCard,
        *,
        on_error: OnError | None = None,
        format: DocumentFormat | None = None,
    ) -> Self:
        """The files among and below `uris`; the log says how many of a folder are left out by their ending.

        Args:
            uris: files and folders, local or remote.
            card: of the model that will answer.
            on_error: what becomes of a document that cannot be read or answered: `raise` refuses all, `skip` gives a
                line that says why. Absent: as the task was trained.
            format: what each file is; absent: name and beginning decide.

        Raises:
            ConfigError: a file is given twice.
            DataError: as `list_files` and `document_format`.
        """
        files: dict[str, tuple[str, DocumentFormat]] = {}
        for uri in uris:
            for path, file in _files_of(uri):
                if path in files:
                    raise ConfigError(f"{file} must be given once, got it twice; name it or its folder, not both")
                files[path] = (file, format or document_format(card.task, path))
            if others := other_files(_root_of(uri), DOCUMENT_SUFFIXES):
                log.warning(
                    "%s holds files that are not read: %s; name or export those that are notes", uri, others
                )
        names = _names({path: format for path, (_, format) in files.items()}, card.task)
        sources = tuple(Source(file, path, format, names[path]) for path, (file, format) in files.items())
        roots = (filesystem(uri)[1] for uri in uris if not is_remote(uri))
        folders = tuple(root for root in roots if Path(root).is_dir())
        return cls(card.task, sources, on_error or card.task.on_error, folders)

    def check_out(self, out: str | Path) -> None:
        """Refuse a file for the answers that is one of the files to read, or that the next reading would be of, too."""
        for source in self.sources if Path(out).exists() else ():
            if not is_remote(source.path) and Path(out).samefile(source.path):
                raise ConfigError(f"{out} must not be among the inputs, got one of them; write to another file")
        for folder in self.folders:
            if Path(out).resolve().is_relative_to(Path(folder).resolve()):
                raise ConfigError(
                    f"{out} must not be in a folder of inputs, got {folder}, all files of which are read; write it "
                    "beside it"
                )

    def count(self) -> int:
        """Number of documents; reads all of them, and the log says what their export likely did not mean.

        Raises:
            DataError: as `documents`.
        """
        number, odd = 0, Counter[str]()
        for document in self.documents():
            number += 1
            text = document.example.text if document.example else ""
            odd.update(what for what, applies in ODD_TEXTS.items() if text and applies(text))
        for what, times in odd.items():
            log.warning(
                "%s of %s documents hold %s: they are answered as they are", f"{times:,}", f"{number:,}", what
            )
        return number

    def documents(self) -> Iterator[Document]:
        """One after the other, those that cannot be read among them.

        Raises:
            DataError: a document cannot be read where that is to be raised; a table is malformed as a whole or lacks a
                column; a file holds no document.
        """
        for source in self.sources:
            found = None
            for found in read_unlabelled(self.task, source.path, source.format, source.name):
                document = Document(found.id, source.file, found.row, found.example, found.fault)
                if document.fault and self.on_error == "raise":
                    raise document.refusal(document.fault)
                yield document
            if found is None:
                raise DataError(f"{source.file} holds no document; leave it out")

    def chunks(self, size: int) -> Iterator[list[Document]]:
        """The documents in lists of `size`, the last one shorter."""
        documents = self.documents()
        while chunk := list(itertools.islice(documents, size)):
            yield chunk


def _files_of(uri: str) -> Iterator[tuple[str, str]]:
    """(path that holds on any node, the same as the user would name it) of each file."""
    root = _root_of(uri)
    for path in list_files(root, DOCUMENT_SUFFIXES):
        below = path.removeprefix(root).lstrip("/") if path != root else ""
        yield path, _printable(join(uri, below) if below else uri)


def _root_of(uri: str) -> str:
    return uri if is_remote(uri) else filesystem(uri)[1]


def _printable(name: str) -> str:
    """A file name as UTF-8 can hold it; one that no encoding fits holds halves of characters."""
    return name.encode("utf-8", "backslashreplace").decode()


def _names(formats: dict[str, DocumentFormat], task: TaskConfig) -> dict[str, str]:
    """Path -> a name of its own: its stem as in training, a text file's whole name; a path where that is another's."""
    short = {}
    for path, format in formats.items():
        whole = format == "text" and task.format != "brat"
        short[path] = PurePosixPath(path).name if whole else PurePosixPath(path.removesuffix(".gz")).stem
    shared = Counter(short.values())
    alike = [path for path in formats if shared[short[path]] > 1]
    parts = zip(*(path.split("/")[:-1] for path in alike), strict=False)
    above = sum(1 for _ in itertools.takewhile(lambda part: len(set(part)) == 1, parts))
    long = {path: "/".join(path.split("/")[above:]) for path in alike}
    return {path: _printable(long.get(path, short[path])) for path in formats}
