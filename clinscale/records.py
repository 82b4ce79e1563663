"""Rows from the files that clinicians' tools export: CSV, TSV, JSON, JSON lines, Parquet, plain text.

One reader for the corpus, the tasks and `predict`, so that a bad file is named the same way everywhere: by
path, row number and rule, never by its text.
"""

import csv
import io
import itertools
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from clinscale.cells import CellError, as_text
from clinscale.config import nearest
from clinscale.errors import DataError
from clinscale.storage import decode, filesystem, is_remote, open_binary, read_json

csv.field_size_limit(2**31 - 1)  # notes are longer than the csv module's default of 128 KiB

T = TypeVar("T")
Cell = Callable[[Any, str], T]
"""Reads a value, given the name of its column for errors: `cells.as_text` and its like."""


class Record(NamedTuple):
    """One row of a file: its fields, and where it came from."""

    uri: str
    number: int
    """Counted from 1, the header not counted."""
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """How errors name this row."""
        return f"{self.uri} row {self.number}"

    def value(self, column: str) -> Any:
        """What is in `column`, a name or a path such as `report.findings` or `sections.0.text`; None where absent."""
        if column in self.fields:
            return self.fields[column]
        here: Any = self.fields
        for part in column.split("."):
            if isinstance(here, list) and part.isdecimal() and int(part) < len(here):
                here = here[int(part)]
            else:
                here = here.get(part) if isinstance(here, dict) else None
        return here

    def read(self, cell: Cell[T], column: str) -> T:
        """What is in `column` by one of the readings of `cells`: `record.read(as_id, "SUBJECT_ID")`.

        Raises:
            CellError: it is not what the reading needs; with the row's place.
        """
        try:
            return cell(self.value(column), column)
        except CellError as error:
            raise CellError(error.reason, error.mend, self.place) from None

    def need(self, cell: Cell[T | None], column: str, what: str = "value") -> T:
        """The same where nothing is an error too, which says that there is no `what`."""
        found = self.read(cell, column)
        if found is None:
            raise CellError(f"column {column!r} has no {what}", "fill it or drop the row", self.place)
        return found

    def text(self, column: str) -> str:
        """The non-empty text in `column`; CellError otherwise."""
        return self.need(as_text, column, "text")


OnBadRow = Callable[[str, str], None]
"""Called with what is wrong and where; the row is skipped when it returns."""


def refuse(fault: str, place: str) -> None:
    """The `OnBadRow` that skips nothing."""
    raise DataError(f"{place} {fault}")


def read_records(
    uri: str, columns: Sequence[str] = (), *, encoding: str = "utf-8", on_bad_row: OnBadRow = refuse
) -> Iterator[Record]:
    """Stream the rows of one file; the format is told by its name, `.gz` is decompressed.

    Args:
        uri: a `.csv`, `.tsv`, `.jsonl`/`.ndjson`, `.json` (an object, a list, or objects by id: the id becomes field
            `id`), `.parquet` or `.arrow` file (as HF's `save_to_disk` writes it), local or remote.
        columns: names that must be present; a CSV is checked at its header, JSON at every row. `a.b` is `b` in `a`.
        encoding: of CSV, TSV and JSON.
        on_bad_row: what to do about one malformed row.

    Raises:
        DataError: missing, empty, unreadable or malformed file, absent column, text that is not in `encoding`.
    """
    suffix = data_suffix(uri)
    if suffix not in _READERS:
        raise DataError(f"{uri} has no known format; use one of {', '.join(RECORD_SUFFIXES)} (.gz too)")
    records = _READERS[suffix](uri, columns, encoding, on_bad_row)
    first = next(records, None)
    if first is None:
        raise DataError(f"{uri} holds no rows; give a file with data")
    yield first
    yield from records


def read_text(uri: str, encoding: str = "utf-8") -> str:
    """The whole of one text file, `.gz` decompressed, byte-order mark removed, line ends kept."""
    with open_binary(uri) as stream:
        return decode(stream.read(), uri, encoding=encoding)


def list_files(uri: str, suffixes: Sequence[str]) -> list[str]:
    """`uri` itself when it is a file, else all files below it with one of `suffixes`, sorted by path."""
    fs, path = filesystem(uri)
    if not fs.exists(path):
        raise DataError(f"{uri} does not exist; check the path")
    if not fs.isdir(path):
        return [str(uri)]
    if is_remote(uri):
        names = (fs.unstrip_protocol(name) for name in fs.find(path))
    else:  # fsspec would look at every file, four times as long
        names = (f"{folder}/{name}" for folder, _, files in os.walk(path) for name in files)
    found = sorted(name for name in names if data_suffix(name) in suffixes)
    if not found:
        raise DataError(f"{uri} is a folder without {' or '.join(suffixes)} files; name the right folder")
    return found


def data_suffix(uri: str) -> str:
    """The suffix that tells the format: `.csv` for `notes.csv.gz`."""
    return posixpath.splitext(str(uri).lower().removesuffix(".gz"))[1]


def _text_stream(binary: Any, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(binary, encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="")


def _require(uri: str, wanted: Sequence[str], found: Sequence[str], where: str = "") -> None:
    for column in wanted:
        if column in found or column.split(".")[0] in found:
            continue
        if not all(_COLUMN_NAME.fullmatch(name) for name in found):  # a first row of notes must not be printed
            raise DataError(
                f"{uri}{where} has no column {column!r}, and its {len(found)} names look like text; "
                "does it start with a header row?"
            )
        raise DataError(f"{uri}{where} has no column {column!r}; {nearest(column, found)}")


_COLUMN_NAME = re.compile(r"[\w.:/()#%-]{1,40}( [\w.:/()#%-]{1,40}){0,3}")
"""At most four words and no commas: what exports call their columns, and sentences do not look like."""


def _read_delimited(delimiter: str) -> "_Reader":
    def read(uri: str, columns: Sequence[str], encoding: str, on_bad_row: OnBadRow) -> Iterator[Record]:
        number = 0
        try:
            with open_binary(uri) as stream, _text_stream(stream, encoding) as text:
                rows = csv.reader(text, delimiter=delimiter, strict=True)
                header = next(rows, None)
                if not header:
                    raise DataError(f"{uri} is empty; give a file with a header and rows")
                _require(uri, columns, header)
                for row in rows:
                    if not row:
                        continue  # a blank line
                    number += 1
                    if len(row) > len(header):
                        on_bad_row("has more fields than the header; quote the commas", f"{uri} row {number}")
                    else:
                        yield Record(uri, number, dict(itertools.zip_longest(header, row)))
        except csv.Error as error:
            raise DataError(f"{uri} row {number + 1} is malformed: {error}") from None
        except UnicodeDecodeError:
            _report_bad_byte(uri, encoding)  # the stream counts from its last chunk, not from the file's start

    return read


def _read_json_lines(uri: str, columns: Sequence[str], encoding: str, on_bad_row: OnBadRow) -> Iterator[Record]:
    wanted = frozenset(columns)
    with open_binary(uri) as stream:
        offset, number = 0, 0
        for line_number, line in enumerate(stream, 1):
            text = decode(line, uri, offset=offset, encoding=encoding)
            offset += len(line)
            if not text.strip():
                continue
            number += 1
            try:
                fields = json.loads(text)
            except json.JSONDecodeError as error:
                on_bad_row(f"is not valid JSON at column {error.colno}", f"{uri} line {line_number}")
                continue
            if not isinstance(fields, dict):
                on_bad_row(f"must be a JSON object, got a {type(fields).__name__}", f"{uri} line {line_number}")
                continue
            if not wanted <= fields.keys():
                _require(uri, columns, list(fields), f" line {line_number}")
            yield Record(uri, number, fields)


def _read_json(uri: str, columns: Sequence[str], encoding: str, on_bad_row: OnBadRow) -> Iterator[Record]:
    found = read_json(uri, encoding)
    if isinstance(found, dict) and found and all(isinstance(value, dict) for value in found.values()):
        rows: list[Any] = [{"id": key, **value} for key, value in found.items()]
    else:
        rows = found if isinstance(found, list) else [found]
    wanted = frozenset(columns)
    for number, fields in enumerate(rows, 1):
        if not isinstance(fields, dict):
            on_bad_row(f"must be a JSON object, got a {type(fields).__name__}", f"{uri} row {number}")
            continue
        if not wanted <= fields.keys():
            _require(uri, columns, list(fields), f" row {number}")
        yield Record(uri, number, fields)


def _read_parquet(uri: str, columns: Sequence[str], encoding: str, on_bad_row: OnBadRow) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    with open_binary(uri) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            _require(uri, columns, table.schema_arrow.names)
            yield from _rows(uri, table.iter_batches(batch_size=256), table.schema_arrow)
        except (pyarrow.ArrowException, OSError):
            raise DataError(f"{uri} is not a readable Parquet file; is it truncated?") from None


def _read_arrow(uri: str, columns: Sequence[str], encoding: str, on_bad_row: OnBadRow) -> Iterator[Record]:
    import pyarrow

    with open_binary(uri) as stream:
        try:
            table = pyarrow.ipc.open_stream(stream)
            _require(uri, columns, table.schema.names)
            yield from _rows(uri, table, table.schema)
        except (pyarrow.ArrowException, OSError):
            raise DataError(f"{uri} is not an Arrow stream as save_to_disk writes it; save it again") from None


def _rows(uri: str, batches: Any, schema: Any) -> Iterator[Record]:
    """Rows of Arrow batches; HF's class labels, which are stored as numbers, by their names."""
    names = _class_names(schema.metadata or {})
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for column, known in names.items():
                row[column] = _named(row[column], known)
            yield Record(uri, number, row)


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its classes, from the features that `datasets` writes into the schema."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    inner = {
        column: feature.get("feature", feature)
        for column, feature in features.items()
        if isinstance(feature, dict)
    }
    return {column: feature["names"] for column, feature in inner.items() if feature.get("_type") == "ClassLabel"}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1: not labelled


def _report_bad_byte(uri: str, encoding: str) -> None:
    """Raise the DataError that names the first byte of the file that is not in `encoding`; constant memory."""
    with open_binary(uri) as stream:
        offset = 0
        for line in stream:
            decode(line, uri, offset=offset, encoding=encoding)
            offset += len(line)


_Reader = Callable[[str, Sequence[str], str, OnBadRow], Iterator[Record]]

_READERS: dict[str, _Reader] = {
    ".csv": _read_delimited(","),
    ".tsv": _read_delimited("\t"),
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}

RECORD_SUFFIXES = tuple(sorted(_READERS))
"""The formats that `read_records` knows."""
