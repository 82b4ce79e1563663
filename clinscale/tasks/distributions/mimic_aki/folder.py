"""Files of MIMIC-III's tables, and the columns that are needed of each."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import open_binary

RELEASE = "MIMIC-III v1.4"


@dataclass(frozen=True)
class Table:
    """Needs of one table."""

    gives: str
    rows: int
    """Number of rows in the release, as mimic-code checks a build."""
    columns: Mapping[str, str]
    """Name -> SQL type."""


TABLES = {
    "ICUSTAYS": Table(
        "the ICU stays",
        61_532,
        {
            "SUBJECT_ID": "BIGINT",
            "HADM_ID": "BIGINT",
            "ICUSTAY_ID": "BIGINT",
            "INTIME": "TIMESTAMP",
            "OUTTIME": "TIMESTAMP",
        },
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
            "VALUE": "VARCHAR",
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
            "SUBJECT_ID": "BIGINT",
            "CHARTTIME": "TIMESTAMP",
            "CATEGORY": "VARCHAR",
            "ISERROR": "BIGINT",
            "TEXT": "VARCHAR",
        },
    ),
}


class Folder:
    """The one folder at or below `data` that holds the tables, `NAME.csv` or `NAME.csv.gz` in any case."""

    def __init__(self, data: str) -> None:
        self.data = data
        folders: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for uri in reversed(list_files(data, (".csv",))):  # where there are both, .csv comes last and wins
            path, _, name = uri.rpartition("/")
            folders[path][name.partition(".")[0].upper()] = uri
        found = [files for files in folders.values() if "ICUSTAYS" in files]
        if len(found) != 1:
            raise DataError(
                f"{data} must hold one folder with ICUSTAYS.csv or ICUSTAYS.csv.gz, found {len(found)}; give the "
                f"folder of {RELEASE}"
            )
        self._files = found[0]

    def has(self, name: str) -> bool:
        """Whether the table is there."""
        return name in self._files

    def uri(self, name: str) -> str:
        """The file of the table; DataError when there is none."""
        if name not in self._files:
            raise DataError(
                f"{self.data} holds no {name}.csv or {name}.csv.gz, which gives {TABLES[name].gives}; add that table "
                f"of {RELEASE}"
            )
        return self._files[name]


@dataclass(frozen=True)
class Head:
    """Beginning of the file of a table."""

    columns: dict[str, str]
    """All columns in the file's order: name in capitals -> as the file spells it."""
    has_rows: bool


def read_head(uri: str, name: str) -> Head:
    """The header of the file of table `name`; DataError when a needed column is not in it."""
    with (
        open_binary(uri) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        rows = csv.reader(text)
        columns = {column.upper(): column for column in next(rows, [])}
        has_rows = next(rows, None) is not None
    if missing := [column for column in TABLES[name].columns if column not in columns]:
        raise DataError(
            f"{uri} has no column {missing[0]}, which {name} of {RELEASE} has; is its first line the header?"
        )
    return Head(columns, has_rows)
