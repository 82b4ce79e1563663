"""The tables of a MIMIC-III folder, streamed into a DuckDB database that lives only while they are read."""

import contextlib
import glob
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clinscale.errors import CapacityError, DataError
from clinscale.storage import filesystem, is_remote
from clinscale.tasks.distributions.mimic_aki.folder import RELEASE, TABLES, Folder, read_head
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.findings import Findings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_FAULTS = 100_000
"""A table with so many is refused even where broken rows are skipped: it is another kind of file."""

_FAULTS = {
    "CAST": "value is not of its column's type",
    "MISSING COLUMNS": "row has fewer fields than the header",
    "TOO MANY COLUMNS": "row has more fields than the header",
    "UNQUOTED VALUE": "quotes do not match",
    "LINE SIZE OVER MAXIMUM": "row is longer than 2 MB, so a quote may be missing",
    "INVALID ENCODING": "text is not valid UTF-8",
}
"""DuckDB's name of a fault -> the same in words."""


class Tables:
    """The tables of one folder, and the database that `load` copies them into."""

    def __init__(self, folder: Folder, database: "DuckDBPyConnection", findings: Findings) -> None:
        self.folder = folder
        self.findings = findings
        self._database = database

    def load(self, name: str, where: str = "true", *, count: bool = True) -> None:
        """Copy the needed columns of a file into a table of this name; remark on a row count unlike the release's.

        Args:
            name: of `TABLES`.
            where: a condition in SQL on the rows.
            count: whether to scan a second time for the row count.
        """
        uri, rows = self.folder.uri(name), self._rows(name)
        self.query(
            f"CREATE TABLE {name} AS SELECT {', '.join(TABLES[name].columns)} FROM {rows} WHERE {where}", uri
        )
        if count:
            [(number,)] = self.query(f"SELECT count(*) FROM {rows}", uri)
            self.findings.expect(f"rows of {name}", number, TABLES[name].rows, RELEASE)
        self._reject_faults(name, uri)

    def query(self, sql: str, uri: str = "") -> list[tuple[Any, ...]]:
        """All rows of the answer; `uri` is the file that a failure is about."""
        with _explained(uri or self.folder.data):
            rows: list[tuple[Any, ...]] = self._database.execute(sql).fetchall()
            return rows

    def _rows(self, name: str) -> str:
        """The SQL that streams the file; nothing about it is guessed, and faulty rows are set aside."""
        uri, needed = self.folder.uri(name), TABLES[name].columns
        head = read_head(uri, name)
        columns = ", ".join(
            f"{_quoted(as_spelled)}: '{needed.get(column, 'VARCHAR')}'"
            for column, as_spelled in head.columns.items()
        )
        place = _quoted(glob.escape(uri))  # DuckDB takes every path for a pattern
        return (
            f"read_csv({place}, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
            f"columns={{{columns}}}, store_rejects=true, rejects_limit={MAX_FAULTS}, "
            "parallel=false)"  # parallel threads guess where rows begin, and fail on quoted line breaks
        )

    def _reject_faults(self, name: str, uri: str) -> None:
        """Reject the rows that the scans of this file set aside."""
        faults = self.query(
            "SELECT line, error_type FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
            f"WHERE file_path = {_quoted(uri)} ORDER BY line"
        )
        if len(faults) >= MAX_FAULTS:
            raise DataError(f"{uri} has at least {MAX_FAULTS:,} faults in its rows; give {name} of {RELEASE}")
        for line, fault in dict(faults).items():  # both scans report the same line
            reason = _FAULTS.get(fault, "row is malformed")
            fix = "convert it: iconv -f LATIN1 -t UTF-8" if fault == "INVALID ENCODING" else "correct the row"
            self.findings.reject(reason, f"{uri} row {line - 1}", fix)


@contextlib.contextmanager
def open_tables(folder: Folder, options: MimicAkiOptions, findings: Findings) -> Iterator[Tables]:
    """The tables of `folder`; database and temporary files are gone afterwards."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="clinscale-") as private:  # 0700: patient data may be spilled to it
        config = {
            "memory_limit": options.memory_limit,
            "threads": options.threads,
            "temp_directory": private,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,  # secure hosts have no internet
        }
        with duckdb.connect(config=config) as database:
            if is_remote(folder.data):
                database.register_filesystem(filesystem(folder.data)[0])
            yield Tables(folder, database, findings)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """DuckDB's failures as ours; its own words are withheld, since they quote rows."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise CapacityError(
            f"reading {uri} needs more memory or temporary disk; raise options.memory_limit, or point TMPDIR to a "
            "larger disk"
        ) from None
    except duckdb.IOException:
        raise DataError(f"{uri} cannot be read to its end; is it truncated or damaged?") from None
    except (duckdb.InvalidInputException, duckdb.DataError):
        raise DataError(f"{uri} is not CSV as MIMIC-III is released; give the released file") from None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
