"""Rows from the files that clinicians' tools export: CSV, TSV, JSON, JSON lines, Parquet, plain text.

One reader for the corpus, the tasks and `predict`, so that a bad file is named the same way everywhere: by
path, row number and rule, never by its text.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from clinscale.config import nearest
from clinscale.errors import DataError
from clinscale.storage import decode_utf8, filesystem, open_binary, read_json

csv.field_size_limit(2**31 - 1)  # notes are longer than the csv module's default of 128 KiB


@dataclass(frozen=True)
class Record:
    """One row of a file: its fields, and where it came from."""

    uri: str
    number: int
    """Counted from 1, the header not counted."""
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """How errors name this row."""
        return f"{self.uri} row {self.number}"

    def text(self, column: str) -> str:
        """The non-empty text in `column`; DataError otherwise."""
        value = self.fields.get(column)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.place}: column {column!r} has no text; fill it or drop the row")
        return value


def read_records(uri: str, columns: Sequence[str] = ()) -> Iterator[Record]:
    """Stream the rows of one file; the format is told by its name, `.gz` is decompressed.

    Args:
        uri: a `.csv`, `.tsv`, `.jsonl`/`.ndjson`, `.json` (one object or a list) or `.parquet` file, local or remote.
        columns: names that must be present; a CSV is checked at its header, JSON at every row.

    Raises:
        DataError: missing, empty, unreadable or malformed file, absent column, invalid UTF-8.
    """
    suffix = data_suffix(uri)
    if suffix not in _READERS:
        raise DataError(f"{uri} has no known format; use one of {', '.join(RECORD_SUFFIXES)} (.gz too)")
    empty = True
    for record in _READERS[suffix](uri, columns):
        empty = False
        yield record
    if empty:
        raise DataError(f"{uri} holds no rows; give a file with data")


def read_text(uri: str) -> str:
    """The whole of one UTF-8 text file, `.gz` decompressed, byte-order mark removed, line ends kept."""
    with open_binary(uri) as stream:
        return decode_utf8(stream.read(), uri)


def list_files(uri: str, suffixes: Sequence[str]) -> list[str]:
    """`uri` itself when it is a file, else all files below it with one of `suffixes`, sorted by path."""
    fs, path = filesystem(uri)
    if not fs.exists(path):
        raise DataError(f"{uri} does not exist; check the path")
    if not fs.isdir(path):
        return [str(uri)]
    found = [fs.unstrip_protocol(name) for name in fs.find(path) if data_suffix(name) in suffixes]
    if not found:
        raise DataError(f"{uri} is a folder without {' or '.join(suffixes)} files; name the right folder")
    return sorted(name.removeprefix("file://") for name in found)


def data_suffix(uri: str) -> str:
    """The suffix that tells the format: `.csv` for `notes.csv.gz`."""
    return PurePath(str(uri).lower().removesuffix(".gz")).suffix


def _text_stream(binary: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")


def _require(uri: str, wanted: Sequence[str], found: Sequence[str], where: str = "") -> None:
    for column in wanted:
        if column in found:
            continue
        if not all(_COLUMN_NAME.fullmatch(name) for name in found):  # a first row of notes must not be printed
            raise DataError(
                f"{uri}{where} has no column {column!r}, and its {len(found)} names look like text; "
                "does it start with a header row?"
            )
        raise DataError(f"{uri}{where} has no column {column!r}; {nearest(column, found)}")


_COLUMN_NAME = re.compile(r"[\w.:/()#%-]{1,40}( [\w.:/()#%-]{1,40}){0,3}")
"""At most four words and no commas: what exports call their columns, and sentences do not look like."""


def _read_delimited(delimiter: str) -> Callable[[str, Sequence[str]], Iterator[Record]]:
    def read(uri: str, columns: Sequence[str]) -> Iterator[Record]:
        number = 0
        try:
            with open_binary(uri) as stream, _text_stream(stream) as text:
                rows = csv.DictReader(text, delimiter=delimiter, strict=True)
                if rows.fieldnames is None:
                    raise DataError(f"{uri} is empty; give a file with a header and rows")
                _require(uri, columns, rows.fieldnames)
                for number, row in enumerate(rows, 1):
                    if None in row:
                        raise DataError(f"{uri} row {number} has more fields than the header; quote the commas")
                    yield Record(uri, number, row)
        except csv.Error as error:
            raise DataError(f"{uri} row {number + 1} is malformed: {error}") from None
        except UnicodeDecodeError:
            _report_bad_byte(uri)  # the stream's decoder counts from its last chunk, not from the file's start

    return read


def _read_json_lines(uri: str, columns: Sequence[str]) -> Iterator[Record]:
    with open_binary(uri) as stream:
        offset, number = 0, 0
        for line_number, line in enumerate(stream, 1):
            text = decode_utf8(line, uri, offset)
            offset += len(line)
            if not text.strip():
                continue
            number += 1
            try:
                fields = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{uri} line {line_number} is not valid JSON at column {error.colno}") from None
            if not isinstance(fields, dict):
                raise DataError(f"{uri} line {line_number} must be a JSON object, got a {type(fields).__name__}")
            _require(uri, columns, list(fields), f" line {line_number}")
            yield Record(uri, number, fields)


def _read_json(uri: str, columns: Sequence[str]) -> Iterator[Record]:
    found = read_json(uri)
    rows = found if isinstance(found, list) else [found]
    for number, fields in enumerate(rows, 1):
        if not isinstance(fields, dict):
            raise DataError(f"{uri} row {number} must be a JSON object, got a {type(fields).__name__}")
        _require(uri, columns, list(fields), f" row {number}")
        yield Record(uri, number, fields)


def _read_parquet(uri: str, columns: Sequence[str]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    with open_binary(uri) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            _require(uri, columns, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(uri, number, row)
        except (pyarrow.ArrowException, OSError):
            raise DataError(f"{uri} is not a readable Parquet file; is it truncated?") from None


def _report_bad_byte(uri: str) -> None:
    """Raise the DataError that names the first byte of the file that is not UTF-8; constant memory."""
    with open_binary(uri) as stream:
        offset = 0
        for line in stream:
            decode_utf8(line, uri, offset)
            offset += len(line)


_READERS: dict[str, Callable[[str, Sequence[str]], Iterator[Record]]] = {
    ".csv": _read_delimited(","),
    ".tsv": _read_delimited("\t"),
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}

RECORD_SUFFIXES = tuple(sorted(_READERS))
"""The formats that `read_records` knows."""
