"""Notes from files of any supported kind, cleaned, without duplicates, one at a time."""

import hashlib
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import Field

from clinscale.cells import as_id, as_text
from clinscale.corpus.cleaning import CleaningConfig, clean
from clinscale.errors import DataError
from clinscale.filters import Choice, RowFilter
from clinscale.records import (
    NOTE_SUFFIXES,
    ODD_TEXTS,
    RECORD_SUFFIXES,
    ContinuedRows,
    Record,
    TableFormat,
    data_suffix,
    likely_patient,
    list_files,
    other_files,
    other_format,
    read_note,
    read_records,
)
from clinscale.storage import open_binary

_SUFFIXES = (*RECORD_SUFFIXES, *NOTE_SUFFIXES)

CONTINUED = "rows that seem to go on with the note of the row before, read as notes of their own"
_ODD = {f"notes with {what}": applies for what, applies in ODD_TEXTS.items()}
NEAR = "rows with a value of keep_rows or drop_rows in another case or with other blanks, taken for another"
PATIENT = "further notes of one patient by a column that group_column does not name: single notes are held out"
REMARKS = (CONTINUED, *_ODD, NEAR, PATIENT)
"""Counts of notes that are read as they are, and are likely not what their export meant."""

_FILES_LOOKED_AT = 64
"""A folder of single notes has very many files, which are all alike."""

log = logging.getLogger(__name__)


class SourceConfig(TableFormat):
    """One file, or a folder of files, that holds notes."""

    uri: str
    """CSV, TSV, JSON, JSON lines, Parquet or XLSX with a note per row, or `.txt` with a note per file; `.gz` too."""

    text_column: str = "text"
    """Column of the note; `TEXT` in MIMIC-III."""

    id_column: str | None = None
    """Column of the note's id, which errors name; None is file name and row number."""

    group_column: str | None = None
    """Column of the patient: whole patients are held out for validation; None holds out notes. `SUBJECT_ID` in
    MIMIC-III."""

    keep_rows: dict[str, tuple[str, ...]] = Field(default={})
    """Read only rows whose column holds one of these values, e.g. `CATEGORY: [Discharge summary]`. A value that no row
    holds is an error, where the column holds others."""

    drop_rows: dict[str, tuple[str, ...]] = Field(default={})
    """Leave out rows whose column holds one of these values, e.g. `ISERROR: ["1"]`, which is also what `1.0` means. A
    value that no row holds is an error, where the column holds others."""

    @property
    def row_filter(self) -> RowFilter:
        """A new filter of the rows that are read."""
        return RowFilter(self.keep_rows, self.drop_rows)


@dataclass(frozen=True)
class Note:
    """One row of a source that was not filtered out, as it was found."""

    id: str
    text: str
    group: str | None
    """Id of the patient, where the source names a column for it."""


@dataclass(frozen=True)
class Document:
    """One cleaned note."""

    id: str
    text: str
    group: str | None = None

    @property
    def patient(self) -> int:
        """A hash of the patient, if the source has it, or else of the text: equal ones belong together."""
        return text_digest(self.group or self.text)


def files_of(source: SourceConfig) -> list[str]:
    """The files of a source, sorted by path."""
    return list_files(source.uri, _SUFFIXES)


def read_notes(
    uri: str, source: SourceConfig, cleaning: CleaningConfig, counts: Counter[str], wanted: RowFilter
) -> Iterator[Note]:
    """The notes of one file of a source; counted are `filtered` and `empty` ones, and `REMARKS` on others.

    Args:
        uri: of the file.
        source: that it belongs to.
        cleaning: what is done about rows without text.
        counts: receives what is left out and remarked on.
        wanted: the source's `row_filter`, which notes what it has met.

    Raises:
        DataError: the file is missing, unreadable or malformed, a column is absent, a value is not what its column must
            hold, or a row has no text while `cleaning.empty` is `raise`.
    """
    continued = ContinuedRows(source.id_column)
    patients: set[tuple[str, str]] = set()
    for record in _records(uri, source, wanted.columns):
        near = wanted.near
        is_kept = not wanted.columns or wanted.keeps(record)
        if wanted.near > near:
            counts[NEAR] += 1
        if not is_kept:
            counts["filtered"] += 1
            continue
        text = record.read(as_text, source.text_column)
        if text is None:
            if cleaning.empty == "raise":
                record.text(source.text_column)
            counts["empty"] += 1
            continue
        if continued.goes_on(record):
            counts[CONTINUED] += 1
        if source.group_column is None and (patient := likely_patient(record)):
            if patient in patients:
                counts[PATIENT] += 1
            patients.add(patient)
        counts.update(remark for remark, applies in _ODD.items() if applies(text))
        yield Note(
            record.need(as_id, source.id_column, "id")
            if source.id_column
            else f"{PurePath(uri).name}:{record.number}",
            text,
            record.read(as_id, source.group_column) if source.group_column else None,
        )


def refuse_unmet(source: SourceConfig, met: Iterable[Choice], others: Container[str]) -> None:
    """DataError where a value that rows are chosen by is held by none of them: it is most likely spelled otherwise.

    Args:
        source: all of whose rows have been read.
        met: the values that were held.
        others: columns that hold other values, too; a column that is blank throughout is no reason to doubt.
    """
    for option, column, value in source.row_filter.unmet(met):
        if column in others:
            raise DataError(
                f"{source.uri}: {option}: {column}: {value!r} is held by no row, and the column holds other values; "
                "correct the value as the file spells it, or take it out"
            )


def cleaned(notes: Iterable[Note], cleaning: CleaningConfig, counts: Counter[str]) -> Iterator[Document]:
    """The notes after cleaning; those that are too short are counted as `short`."""
    for note in notes:
        text = clean(note.text, cleaning)
        if len(text.strip()) < cleaning.min_characters:
            counts["short"] += 1
        else:
            yield Document(note.id, text, note.group)


def read_documents(
    sources: Sequence[SourceConfig], cleaning: CleaningConfig, *, counts: Counter[str] | None = None
) -> Iterator[Document]:
    """Stream the cleaned notes of `sources` in order; of exact copies the first.

    Args:
        sources: files and folders; the files of a folder are read sorted by path.
        cleaning: what to change and what to leave out.
        counts: receives how many rows were left out as `filtered`, `empty`, `short` and `duplicate`, and `REMARKS`.

    Raises:
        DataError: see `read_notes`.
    """
    counts = Counter() if counts is None else counts
    seen: set[int] = set()
    for source in sources:
        wanted = source.row_filter
        for uri in files_of(source):
            for document in cleaned(read_notes(uri, source, cleaning, counts, wanted), cleaning, counts):
                if cleaning.drop_duplicates:
                    digest = text_digest(document.text)
                    if digest in seen:
                        counts["duplicate"] += 1
                        continue
                    seen.add(digest)
                yield document
        refuse_unmet(source, wanted.met, wanted.others)


def check_sources(sources: Sequence[SourceConfig], cleaning: CleaningConfig) -> None:
    """Read the first note of each file, of the first files of each source, to find mistakes before any work.

    Raises:
        DataError: see `read_notes`.
    """
    for source in sources:
        for uri in files_of(source)[:_FILES_LOOKED_AT]:
            next(read_notes(uri, source, cleaning, Counter(), source.row_filter), None)
        warn_of_unread(source)


def warn_of_unread(source: SourceConfig) -> None:
    """Say how many files in the folder of a source are of formats that are not read: they may be notes, too."""
    if others := other_files(source.uri, _SUFFIXES):
        log.warning("%s holds files that are not read: %s; export those that are notes", source.uri, others)


def source_digest(source: SourceConfig) -> tuple[str, int]:
    """SHA-256 and size in bytes of the decompressed files of a source: whether its notes are still the same."""
    digest = hashlib.sha256()
    num_bytes = 0
    for uri in files_of(source):
        of_file = hashlib.sha256()
        with open_binary(uri) as stream:
            while block := stream.read(2**20):
                of_file.update(block)
                num_bytes += len(block)
        digest.update(of_file.digest())
    return digest.hexdigest(), num_bytes


def text_digest(text: str, salt: int = 0) -> int:
    """A 64-bit hash of a text that is the same on every machine."""
    salted = salt.to_bytes(16, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, salt=salted).digest(), "little")


def _records(uri: str, source: SourceConfig, conditions: Sequence[str]) -> Iterator[Record]:
    """The rows of a file of a source; a text file is one row."""
    of_tables = [*conditions, *([source.group_column] if source.group_column else [])]
    if fault := other_format(data_suffix(uri)):
        raise DataError(f"{uri} {fault}")
    if data_suffix(uri) not in NOTE_SUFFIXES:
        columns = [source.text_column, *([source.id_column] if source.id_column else []), *of_tables]
        yield from read_records(uri, columns, table=source)
    elif of_tables:
        raise DataError(f"{uri} is a text file without column {of_tables[0]!r}; choose rows of tables only")
    else:
        text = read_note(uri, source.encoding)
        yield Record(uri, 1, {source.text_column: text, source.id_column or "": PurePath(uri).name})
