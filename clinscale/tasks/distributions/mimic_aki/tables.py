"""The tables of a MIMIC-III folder, streamed into a DuckDB database that lives only while they are read."""

import contextlib
import csv
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clinscale.errors import CapacityError, DataError
from clinscale.records import list_files
from clinscale.storage import filesystem, is_remote, open_binary
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.findings import Findings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

RELEASE = "MIMIC-III v1.4"

MAX_FAULTY_ROWS = 100_000
"""A table with more malformed rows is refused even where they are skipped: it is another kind of file."""


@dataclass(frozen=True)
class Table:
    """What is needed of one table."""

    gives: str
    rows: int
    """In the release."""
    columns: Mapping[str, str]
    """Name -> SQL type."""


TABLES = {
    "ICUSTAYS": Table(
        "the ICU stays",
        61_532,
        {"SUBJECT_ID": "BIGINT", "HADM_ID": "BIGINT", "ICUSTAY_ID": "BIGINT", "INTIME": "TIMESTAMP"},
    ),
    "PATIENTS": Table("the age", 46_520, {"SUBJECT_ID": "BIGINT", "DOB": "TIMESTAMP"}),
    "ADMISSIONS": Table(
        "discharge and death",
        58_976,
        {"HADM_ID": "BIGINT", "ADMITTIME": "TIMESTAMP", "DISCHTIME": "TIMESTAMP", "DEATHTIME": "TIMESTAMP"},
    ),
    "DIAGNOSES_ICD": Table(
        "chronic kidney disease", 651_047, {"SUBJECT_ID": "BIGINT", "HADM_ID": "BIGINT", "ICD9_CODE": "VARCHAR"}
    ),
    "LABEVENTS": Table(
        "creatinine",
        27_854_055,
        {"SUBJECT_ID": "BIGINT", "ITEMID": "BIGINT", "CHARTTIME": "TIMESTAMP", "VALUENUM": "DOUBLE"},
    ),
    "OUTPUTEVENTS": Table(
        "urine output",
        4_349_218,
        {"ICUSTAY_ID": "BIGINT", "ITEMID": "BIGINT", "CHARTTIME": "TIMESTAMP", "VALUE": "DOUBLE"},
    ),
    "CHARTEVENTS": Table(
        "the weight",
        330_712_483,
        {
            "ICUSTAY_ID": "BIGINT",
            "ITEMID": "BIGINT",
            "CHARTTIME": "TIMESTAMP",
            "VALUENUM": "DOUBLE",
            "ERROR": "BIGINT",
        },
    ),
    "INPUTEVENTS_MV": Table(
        "the weight",
        3_618_991,
        {"ICUSTAY_ID": "BIGINT", "STARTTIME": "TIMESTAMP", "PATIENTWEIGHT": "DOUBLE"},
    ),
    "NOTEEVENTS": Table(
        "the notes",
        2_083_180,
        {
            "ROW_ID": "BIGINT",
            "SUBJECT_ID": "BIGINT",
            "CHARTTIME": "TIMESTAMP",
            "CATEGORY": "VARCHAR",
            "ISERROR": "BIGINT",
            "TEXT": "VARCHAR",
        },
    ),
}
"""Table -> what it is read for; the row counts are those that mimic-code checks a build against."""

_FAULTS = {
    "CAST": "value is not of its column's type",
    "MISSING COLUMNS": "row has fewer fields than the header",
    "TOO MANY COLUMNS": "row has more fields than the header",
    "UNQUOTED VALUE": "quotes do not match",
    "LINE SIZE OVER MAXIMUM": "row is longer than 2 MB, so a quote may be missing",
    "INVALID ENCODING": "text is not valid UTF-8",
}
"""What DuckDB calls a fault -> the same in words."""


class Tables:
    """The tables of one folder, and the database that they are loaded into by `load`."""

    def __init__(self, data: str, database: "DuckDBPyConnection", findings: Findings) -> None:
        self.data = data
        self.findings = findings
        self._database = database
        self._uris = _tables_beside_icustays(data)

    def has(self, name: str) -> bool:
        """Whether the folder holds the table."""
        return name in self._uris

    def use(self, name: str, uri: str) -> None:
        """Read the table from `uri` instead of the folder."""
        self._uris[name] = uri

    def uri(self, name: str) -> str:
        """The file of the table; DataError when there is none."""
        if name not in self._uris:
            raise DataError(
                f"{self.data} holds no {name}.csv or {name}.csv.gz, which gives {TABLES[name].gives}; "
                f"add that table of {RELEASE}"
            )
        return self._uris[name]

    def is_empty(self, name: str) -> bool:
        """Whether the file holds a header and no rows."""
        return not self.query(f"SELECT 1 FROM {self._rows(name)} LIMIT 1", self.uri(name))

    def require(self, names: Sequence[str]) -> None:
        """Refuse a missing, foreign or empty table before a long scan of another."""
        for name in names:
            if self.is_empty(name):
                raise DataError(f"{self.uri(name)} has a header and no rows; give {name} of {RELEASE}")

    def load(self, name: str, clause: str = "", *, count: bool = True) -> None:
        """Copy the needed columns of a file into a table of this name; remark on a row count unlike the release's.

        Args:
            name: of `TABLES`.
            clause: joins and conditions in SQL that choose among the rows of `source`.
            count: whether to scan a second time for the row count.
        """
        uri, rows = self.uri(name), self._rows(name)
        columns = ", ".join(f"source.{column}" for column in TABLES[name].columns)
        self.query(f"CREATE TABLE {name} AS SELECT {columns} FROM {rows} AS source {clause}", uri)
        if count:
            [(number,)] = self.query(f"SELECT count(*) FROM {rows}", uri)
            self.findings.expect(f"rows of {name}", number, TABLES[name].rows, RELEASE)
        self._reject_faults(name, uri)

    def query(self, sql: str, uri: str = "") -> list[tuple[Any, ...]]:
        """All rows of the answer; `uri` is the file that a failure is about."""
        with _explained(uri or self.data):
            return self._database.execute(sql).fetchall()

    def stream(self, sql: str, size: int = 10_000) -> Iterator[tuple[Any, ...]]:
        """The rows of the answer, `size` at a time in memory."""
        with _explained(self.data):
            answer = self._database.execute(sql)
            while rows := answer.fetchmany(size):
                yield from rows

    def _rows(self, name: str) -> str:
        """The SQL that streams the file; nothing about it is guessed, and faulty rows are set aside."""
        uri, needed = self.uri(name), TABLES[name].columns
        header = _header(uri)
        if missing := needed.keys() - {column.upper() for column in header}:
            raise DataError(
                f"{uri} has no column {min(missing)}, which {name} of {RELEASE} has; is its first line the header?"
            )
        columns = ", ".join(f"{_quoted(c)}: '{needed.get(c.upper(), 'VARCHAR')}'" for c in header)
        return (
            f"read_csv({_quoted(uri)}, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
            f"columns={{{columns}}}, store_rejects=true, rejects_limit={MAX_FAULTY_ROWS}, "
            # parallel threads guess where a row begins, and take lines in quoted notes for rows
            "parallel=false)"
        )

    def _reject_faults(self, name: str, uri: str) -> None:
        """Reject the rows that the scans of this file set aside."""
        faults = self.query(
            "SELECT line, any_value(error_type) FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
            f"WHERE file_path = {_quoted(uri)} GROUP BY line ORDER BY line"
        )
        if len(faults) >= MAX_FAULTY_ROWS:
            raise DataError(f"{uri} has more than {MAX_FAULTY_ROWS:,} malformed rows; give {name} of {RELEASE}")
        for line, fault in faults:
            reason = _FAULTS.get(fault, "row is malformed")
            mend = "convert it: iconv -f LATIN1 -t UTF-8" if fault == "INVALID ENCODING" else "correct the row"
            self.findings.reject(reason, f"{uri} row {line - 1}", mend)


@contextlib.contextmanager
def open_tables(data: str, options: MimicAkiOptions, findings: Findings) -> Iterator[Tables]:
    """The tables below `data`; database and temporary files are gone afterwards."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="clinscale-mimic-") as folder:  # 0700: spilled notes are patient text
        config = {
            "memory_limit": options.memory_limit,
            "threads": options.threads,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            "disabled_optimizers": "build_side_probe_side",  # it takes a CSV for tiny and hashes all of it
            "autoinstall_known_extensions": False,  # secure hosts have no internet
        }
        with duckdb.connect(config=config) as database:
            for fs in {filesystem(uri)[0] for uri in (data, options.notes or data) if is_remote(uri)}:
                database.register_filesystem(fs)
            yield Tables(data, database, findings)


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


def _tables_beside_icustays(data: str) -> dict[str, str]:
    """Table in capitals -> file, in the one folder at or below `data` that is a MIMIC-III."""
    folders: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for uri in reversed(
        list_files(data, (".csv",))
    ):  # of NAME.csv and NAME.csv.gz the first is kept: no unpacking
        folder, _, name = uri.rpartition("/")
        folders[folder][name.partition(".")[0].upper()] = uri
    found = [tables for tables in folders.values() if "ICUSTAYS" in tables]
    if len(found) != 1:
        raise DataError(
            f"{data} must hold one folder with ICUSTAYS.csv or ICUSTAYS.csv.gz, found {len(found)}; give the folder "
            f"of {RELEASE}"
        )
    return found[0]


def _header(uri: str) -> list[str]:
    with open_binary(uri) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        try:
            return next(csv.reader(text), [])
        except (csv.Error, UnicodeDecodeError):
            raise DataError(f"{uri} does not begin with a header in UTF-8; is it a CSV file?") from None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
