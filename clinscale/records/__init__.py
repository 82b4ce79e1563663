"""Rows from the files that clinicians' tools export: CSV, TSV, JSON, JSON lines, Parquet, Arrow, Excel, plain text.

One reader for the corpus, the tasks and `predict`, so that a bad file is named the same way everywhere: by
path, row number and rule, never by its text.
"""

from clinscale.records.files import data_suffix, list_files, other_files, part_of, read_note, read_text
from clinscale.records.notes import NOTE_SUFFIXES, other_format
from clinscale.records.oddities import (
    ODD_NAMES,
    ODD_TEXTS,
    ContinuedRows,
    cut_length,
    has_escaped_breaks,
    is_likely_cut,
    likely_patient,
)
from clinscale.records.read import RECORD_SUFFIXES, read_records
from clinscale.records.record import OnBadRow, Record, refuse
from clinscale.records.table import Quoting, TableFormat

__all__ = [
    "NOTE_SUFFIXES",
    "ODD_NAMES",
    "ODD_TEXTS",
    "RECORD_SUFFIXES",
    "ContinuedRows",
    "OnBadRow",
    "Quoting",
    "Record",
    "TableFormat",
    "cut_length",
    "data_suffix",
    "has_escaped_breaks",
    "is_likely_cut",
    "likely_patient",
    "list_files",
    "other_files",
    "other_format",
    "part_of",
    "read_note",
    "read_records",
    "read_text",
    "refuse",
]
