"""Rows with named columns: CSV, TSV, JSON, JSON lines, Parquet, HF dataset folders; one file or a folder of them."""

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from clinscale.records import RECORD_SUFFIXES, Record, list_files, read_records
from clinscale.tasks.example import Answer, Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.readers.bio import BAD_TAG, entities_of_tags, read_tag
from clinscale.tasks.readers.squad import answers_of, is_asked
from clinscale.tasks.readers.verdicts import REJECTED, is_rejected
from clinscale.tasks.task import TaskConfig

_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
_ASIDE = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets.save_to_disk` writes beside the rows."""


def read_rows(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """Examples of any kind, one per row. Finds `rows`.

    A row without text, without its label or with a malformed annotation is rejected.

    Raises:
        DataError: a column is absent, or a file is malformed as a whole.
    """
    columns = task.columns
    gold: tuple[str, ...] = {
        "sequence": () if task.label_from == "file" else columns.labels or (columns.label,),
        "pair": () if task.label_from == "file" else (columns.label,),
        "tokens": (columns.tokens, columns.tags) if columns.tokens else (columns.entities,),
        "spans": (columns.answers,),
    }[task.kind]
    texts = () if columns.tokens else columns.texts
    named = [*texts, columns.text_pair, columns.id, task.group_column, task.split_column, *gold]
    wanted = [column for column in named if column is not None]

    def skip(fault: str, place: str) -> None:
        findings.find("rows")
        findings.reject(fault, place, "correct the row")

    examples = []
    for file in list_files(path, RECORD_SUFFIXES):
        if PurePath(file).name in _ASIDE:
            continue
        for record in read_records(file, wanted, table=task, on_bad_row=skip):
            findings.find("rows")
            if is_rejected(record.fields, gold):
                findings.leave_out(REJECTED)
                continue
            findings.find("documents", task.kind in ("sequence", "tokens"))
            try:
                example = _example(task, record, findings)
            except _BadRow as bad:
                findings.reject(bad.reason, record.place, bad.mend)
                continue
            if example:
                examples.append(example)
    return examples


class _BadRow(Exception):
    """One row cannot be used; never leaves this module."""

    def __init__(self, reason: str, mend: str) -> None:
        self.reason, self.mend = reason, mend


def _example(task: TaskConfig, record: Record, findings: Findings) -> Example | None:
    """The row's example; None when a rule of the task leaves it out."""
    columns = task.columns
    words = _words(record, columns.tokens) if columns.tokens else ()
    text = " ".join(words) if words else _text(record, columns.texts)
    entities: tuple[Entity, ...] = ()
    answers: tuple[Answer, ...] = ()
    if task.kind == "tokens":
        entities = _tagged(record, words, columns.tags) if words else _marked(task, record, text, findings)
        findings.find("annotations", len(entities))
    if task.kind == "spans":
        given = _given_answers(record, columns.answers)
        answers = answers_of(text, given, record.place, findings)
        if not is_asked(task, given, answers, findings):
            return None
    return Example(
        id=_value(record, columns.id) if columns.id else f"{_stem(record.uri)}:{record.number}",
        text=text,
        text_pair=_text(record, (columns.text_pair,)) if columns.text_pair else None,
        labels=_labels(task, record) if task.kind in ("sequence", "pair") else (),
        entities=entities,
        answers=answers,
        group=_value(record, task.group_column) if task.group_column else None,
        split=_value(record, task.split_column) if task.split_column else None,
    )


def _text(record: Record, columns: Sequence[str]) -> str:
    parts = [str(record.value(column)) for column in columns if not _is_blank(record.value(column))]
    if not parts:
        raise _BadRow(f"column {' and '.join(map(repr, columns))} has no text", "fill it or drop the row")
    return "\n".join(parts)


def _labels(task: TaskConfig, record: Record) -> tuple[str, ...]:
    columns = task.columns
    if columns.labels:
        return tuple(label for label in columns.labels if _truth(record, label))
    if task.label_from == "file":
        return (_stem(record.uri),)
    if not task.multi_label:
        return (_value(record, columns.label),)
    given = record.value(columns.label)
    parts = given if isinstance(given, list) else str(given or "").split(task.label_separator)
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _truth(record: Record, column: str) -> bool:
    value = record.value(column)
    plain = "" if value is None or value != value else str(value).strip().lower()  # NaN is a blank of Parquet
    if plain not in _TRUTH:
        raise _BadRow(f"column {column!r} must hold 0, 1 or nothing", "map other values to these")
    return _TRUTH[plain]


def _words(record: Record, column: str) -> list[str]:
    words = _list(record, column)
    if not words or any(_is_blank(word) for word in words):
        raise _BadRow(f"column {column!r} must be a list of words, none of them blank", "correct the row")
    return [str(word) for word in words]


def _tagged(record: Record, words: Sequence[str], column: str) -> tuple[Entity, ...]:
    given = _list(record, column)
    tags = [read_tag(str(tag)) for tag in given]
    if len(tags) != len(words):
        raise _BadRow(f"column {column!r} must hold one tag per word", "correct the row")
    read = [tag for tag in tags if tag is not None]
    if len(read) < len(tags):
        raise _BadRow(f"column {column!r}: {BAD_TAG}", "correct the tag")
    return entities_of_tags(words, read)


def _marked(task: TaskConfig, record: Record, text: str, findings: Findings) -> tuple[Entity, ...]:
    assert task.columns.entities is not None
    marks = []
    for number, given in enumerate(_list(record, task.columns.entities), 1):
        if isinstance(given, dict) and is_rejected(given):
            findings.leave_out(REJECTED)
            continue
        place = f"{record.place} entity {number}"
        try:
            surface = given.get("text")
            marks.append(Mark(str(given["label"]), int(given["start"]), int(given["end"]), surface, place))
        except (AttributeError, KeyError, TypeError, ValueError):
            findings.reject("entity without start, end and label", place, "correct the entity")
    return entities_of(text, marks, findings)


def _given_answers(record: Record, column: str) -> list[dict[str, Any]]:
    """SQuAD's answers as HF datasets hold them (an object of lists), or as a list of objects."""
    given = record.value(column)
    if isinstance(given, str):  # a column of JSON in a CSV
        given = _from_json(given, column)
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise _BadRow(f"column {column!r} must hold text and answer_start of equal length", "correct the row")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given or [], list):
        raise _BadRow(f"column {column!r} must be a list of answers", "correct the row")
    return [answer if isinstance(answer, dict) else {} for answer in given or []]


def _list(record: Record, column: str) -> list[Any]:
    given = record.value(column)
    given = _from_json(given, column) if isinstance(given, str) else given
    if not isinstance(given, list):
        raise _BadRow(f"column {column!r} must be a list", "correct the row")
    return given


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise _BadRow(f"column {column!r} is not JSON", "correct the row") from None


def _value(record: Record, column: str) -> str:
    value = record.value(column)
    if _is_blank(value):
        raise _BadRow(f"column {column!r} has no value", "fill it or drop the row")
    return str(value).strip()


def _is_blank(value: object) -> bool:
    return value is None or not str(value).strip()


def _stem(uri: str) -> str:
    return PurePath(uri.removesuffix(".gz")).stem
