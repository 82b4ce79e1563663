"""Tables as JSON lines, row by row: Parquet, Arrow and SQLite."""

import base64
import contextlib
import io
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

_ROWS_AT_ONCE = 4096
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")


def arrow_schema(stream: Any) -> Any:
    """The schema with which an Arrow stream begins, as bytes."""
    import pyarrow

    return io.BytesIO(pyarrow.ipc.open_stream(pyarrow.PythonFile(stream, "r")).schema.serialize().to_pybytes())


def arrow_rows(stream: Any, head: bytes) -> Iterator[str]:
    """A Parquet or Arrow file as JSON lines, its metadata first; NotImplementedError where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.PythonFile(stream if stream.seekable() else io.BytesIO(stream.read()), "r")
    try:
        if head.startswith(b"PAR1"):
            table = pyarrow.parquet.ParquetFile(file)
            schema, batches = table.schema_arrow, table.iter_batches(_ROWS_AT_ONCE)
        elif head.startswith(b"ARROW1"):
            table = pyarrow.ipc.open_file(file)
            schema, batches = table.schema, map(table.get_batch, range(table.num_record_batches))
        else:
            batches = pyarrow.ipc.open_stream(file)
            schema = batches.schema
        yield from (f"{_as_text(value)}\n" for value in (schema.metadata or {}).values())
        for batch in batches:
            yield _lines(batch.to_pylist())
    except (pyarrow.ArrowException, OSError):
        raise NotImplementedError from None


def sqlite_rows(stream: Any) -> Iterator[str]:
    """All rows of all tables of a SQLite file as JSON lines; NotImplementedError where one cannot be read.

    The file is neither locked nor changed. What virtual tables hold is in other ones.
    """
    try:
        with _on_disk(stream) as path, contextlib.closing(_connect(path)) as database:
            tables = database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL %'"
            ).fetchall()
            for (table,) in tables:
                rows = database.execute('SELECT * FROM "{}"'.format(table.replace('"', '""')))
                names = [column[0] for column in rows.description]
                while some := rows.fetchmany(_ROWS_AT_ONCE):
                    yield _lines(dict(zip(names, row, strict=True)) for row in some)
    except sqlite3.Error:
        raise NotImplementedError from None


def as_stream(lines: Iterator[str]) -> IO[bytes]:
    """Lines, to be read as bytes."""
    return io.BufferedReader(_Lines(lines))


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    database.text_factory = _as_text
    return database


@contextlib.contextmanager
def _on_disk(stream: Any) -> Iterator[str]:
    """Path of the file that is read, or of a copy of what is inside one."""
    if isinstance(getattr(stream, "raw", None), io.FileIO):
        yield stream.name
        return
    with tempfile.NamedTemporaryFile() as copy:
        stream.seek(0)
        shutil.copyfileobj(stream, copy)
        copy.flush()
        yield copy.name


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False, default=_as_text)}\n" for row in rows)


class _Lines(io.RawIOBase):
    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._left = lines, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            lines = next(self._lines, None)
            if lines is None:
                return 0
            self._left = lines.encode(errors="replace")
        found, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(found)] = found
        return len(found)


def _as_text(value: Any) -> str:
    """A value that JSON has no word for; bytes that are no text as base64, which is read as what it holds."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
    return base64.b64encode(value).decode() if _CONTROL.search(text) else text
