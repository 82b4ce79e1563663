"""Rows with named columns: CSV, TSV, JSON, JSON lines, Parquet, HF dataset folders; one file or a folder of them."""

from collections.abc import Sequence
from pathlib import PurePath

from clinscale.cells import CellError, as_id, as_label, as_text
from clinscale.filters import RowFilter
from clinscale.records import RECORD_SUFFIXES, ContinuedRows, Record, likely_patient, list_files, read_records
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import Kind, kind_of
from clinscale.tasks.readers.marks import words_in
from clinscale.tasks.readers.verdicts import REJECTED, is_rejected
from clinscale.tasks.task import TaskConfig

NOT_KEPT = "left out by keep_rows or drop_rows"


def read_rows(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """Examples of any kind, one per row that the task keeps. Finds `rows`.

    A row without text, without its label, with a malformed annotation or with a value of another type is rejected.

    Raises:
        DataError: a column is absent, or a file is malformed as a whole.
    """
    columns, kind = task.columns, kind_of(task)
    gold = kind.gold_columns
    texts = () if columns.tokens else columns.texts
    rows = RowFilter(task.keep_rows, task.drop_rows)
    named = [*texts, columns.text_pair, columns.id, task.group_column, task.split_column, *gold, *rows.columns]
    wanted = [column for column in named if column]

    def skip(fault: str, place: str) -> None:
        findings.find("rows")
        findings.reject(fault, place, "correct the row")

    examples, parts = [], 0
    for file in list_files(path, RECORD_SUFFIXES):
        continued = ContinuedRows(None)
        for record in read_records(file, wanted, table=task, on_bad_row=skip):
            findings.find("rows")
            parts += continued.goes_on(record)
            try:
                if not rows.keeps(record):
                    findings.leave_out(NOT_KEPT)
                    continue
                if is_rejected(record.fields, [column for column in gold if column]):
                    findings.leave_out(REJECTED)
                    continue
                findings.find("documents", kind.example_is_document)
                example = _example(kind, record, findings)
            except CellError as error:
                findings.reject(error.reason, record.place, error.fix)
                continue
            if example:
                examples.append(example)
    findings.met |= rows.met
    if rows.near:
        findings.remark(
            f"{rows.near:,} rows hold a value of keep_rows or drop_rows in another case or with other blanks, and "
            "count as holding another: add that spelling where it means the same"
        )
    if parts:
        findings.remark(
            f"{parts:,} rows are numbered as parts of the note of the row before, and each is an example of its own: "
            "join the rows of a note first"
        )
    return examples


def id_of(task: TaskConfig, record: Record) -> str | None:
    """The id that a row brings; None where the task names no column of ids, or the row has none."""
    return record.read(as_id, task.columns.id) if task.columns.id else None


def texts_of(task: TaskConfig, record: Record) -> tuple[str, str | None]:
    """The text of a row, its columns or words joined, and the second text where the task has one.

    Raises:
        CellError: there is none, or something that is no text.
    """
    columns = task.columns
    text = " ".join(words_in(record, columns.tokens)) if columns.tokens else _text(record, columns.texts)
    return text, _text(record, (columns.text_pair,)) if columns.text_pair else None


def _example(kind: Kind, record: Record, findings: Findings) -> Example | None:
    """The row's example; None when a rule of the task leaves it out."""
    task, columns = kind.task, kind.task.columns
    text, second = texts_of(task, record)
    gold = kind.read_gold(record, text, findings)
    if gold is None:
        return None
    return Example(
        id=record.need(as_id, columns.id) if columns.id else f"{_stem(record.uri)}:{record.number}",
        text=text,
        text_pair=second,
        group=record.need(as_id, task.group_column) if task.group_column else None,
        split=record.need(as_label, task.split_column) if task.split_column else None,
        place=record.place,
        likely_patient=likely_patient(record),
        is_split_into_words=columns.tokens is not None,
        **gold,
    )


def _text(record: Record, columns: Sequence[str]) -> str:
    parts = [part for column in columns if (part := record.read(as_text, column)) is not None]
    if not parts:
        raise CellError(f"column {' and '.join(map(repr, columns))} has no text", "fill it or drop the row")
    return "\n".join(parts)


def _stem(uri: str) -> str:
    return PurePath(uri.removesuffix(".gz")).stem
