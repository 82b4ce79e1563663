"""Rows with named columns: CSV, TSV, JSON, JSON lines, Parquet; one file or a folder of them."""

from collections import Counter
from pathlib import PurePath

from clinscale.errors import DataError
from clinscale.records import Record, list_files, read_records
from clinscale.tasks.example import Example
from clinscale.tasks.task import TaskConfig

_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


def read_rows(task: TaskConfig, path: str, counts: Counter[str]) -> list[Example]:
    """Examples of kind sequence or pair. Adds to counts: `empty` (rows without text, skipped).

    Raises:
        DataError: a column is absent, a text is empty and the task does not skip it, or a label is missing.
    """
    columns = task.columns
    needed = [columns.text, columns.text_pair, columns.id, task.group_column, *columns.labels]
    if not columns.labels and task.label_from == "column":
        needed.append(columns.label)
    wanted = [column for column in needed if column is not None]
    texts = [column for column in (columns.text, columns.text_pair) if column is not None]
    examples = []
    for file in list_files(path, _SUFFIXES):
        for record in read_records(file, wanted):
            if task.on_empty == "skip" and any(_is_blank(record.fields[column]) for column in texts):
                counts["empty"] += 1
                continue
            examples.append(_example(task, record))
    return examples


def _example(task: TaskConfig, record: Record) -> Example:
    columns = task.columns
    return Example(
        id=_value(record, columns.id) if columns.id else f"{_stem(record.uri)}:{record.number}",
        text=record.text(columns.text),
        text_pair=record.text(columns.text_pair) if columns.text_pair else None,
        labels=_labels(task, record),
        group=_value(record, task.group_column) if task.group_column else None,
    )


def _labels(task: TaskConfig, record: Record) -> tuple[str, ...]:
    columns = task.columns
    if columns.labels:
        return tuple(label for label in columns.labels if _truth(record, label))
    if task.label_from == "file":
        return (_stem(record.uri),)
    if not task.multi_label:
        return (_value(record, columns.label),)
    parts = str(record.fields[columns.label] or "").split(task.label_separator)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _truth(record: Record, column: str) -> bool:
    value = record.fields[column]
    plain = "" if value is None or value != value else str(value).strip().lower()  # NaN is a blank of Parquet
    if plain not in _TRUTH:
        raise DataError(f"{record.place}: column {column!r} must hold 0, 1 or nothing; map other values to these")
    return _TRUTH[plain]


def _value(record: Record, column: str) -> str:
    value = record.fields[column]
    if _is_blank(value):
        raise DataError(f"{record.place}: column {column!r} has no value; fill it or drop the row")
    return str(value).strip()


def _is_blank(value: object) -> bool:
    return value is None or not str(value).strip()


def _stem(uri: str) -> str:
    return PurePath(uri.removesuffix(".gz")).stem
