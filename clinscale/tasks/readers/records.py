"""Rows with named columns: CSV, TSV, JSON, JSON lines, Parquet, HF dataset folders; one file or a folder of them."""

import functools
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from clinscale.cells import CellError, as_id, as_label, as_labels, as_text, as_truth, as_whole_number
from clinscale.filters import RowFilter
from clinscale.records import RECORD_SUFFIXES, Record, list_files, read_records
from clinscale.tasks.example import Answer, Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.readers.bio import BAD_TAG, entities_of_tags, read_tag
from clinscale.tasks.readers.squad import answers_of, is_asked
from clinscale.tasks.readers.verdicts import REJECTED, is_rejected
from clinscale.tasks.task import ColumnsConfig, TaskConfig

_ASIDE = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets.save_to_disk` writes beside the rows."""

NOT_KEPT = "left out by keep_rows or drop_rows"


def read_rows(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """Examples of any kind, one per row that the task keeps. Finds `rows`.

    A row without text, without its label, with a malformed annotation or with a value of another type is rejected.

    Raises:
        DataError: a column is absent, or a file is malformed as a whole.
    """
    columns = task.columns
    gold = {
        "sequence": () if task.label_from == "file" else columns.labels or (columns.label,),
        "pair": () if task.label_from == "file" else (columns.label,),
        "tokens": (columns.tokens, columns.tags) if columns.tokens else (columns.entities or "",),
        "spans": (columns.answers,),
    }[task.kind]
    texts = () if columns.tokens else columns.texts
    rows = RowFilter(task.keep_rows, task.drop_rows)
    named = [*texts, columns.text_pair, columns.id, task.group_column, task.split_column, *gold, *rows.columns]
    wanted = [column for column in named if column]

    def skip(fault: str, place: str) -> None:
        findings.find("rows")
        findings.reject(fault, place, "correct the row")

    examples = []
    for file in list_files(path, RECORD_SUFFIXES):
        if PurePath(file).name in _ASIDE:
            continue
        for record in read_records(file, wanted, table=task, on_bad_row=skip):
            findings.find("rows")
            try:
                if not rows.keeps(record):
                    findings.leave_out(NOT_KEPT)
                    continue
                if is_rejected(record.fields, [column for column in gold if column]):
                    findings.leave_out(REJECTED)
                    continue
                findings.find("documents", task.kind in ("sequence", "tokens"))
                example = _example(task, record, findings)
            except CellError as error:
                findings.reject(error.reason, record.place, error.mend)
                continue
            if example:
                examples.append(example)
    findings.met |= rows.met
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
    text = " ".join(_words(record, columns.tokens)) if columns.tokens else _text(record, columns.texts)
    return text, _text(record, (columns.text_pair,)) if columns.text_pair else None


def _example(task: TaskConfig, record: Record, findings: Findings) -> Example | None:
    """The row's example; None when a rule of the task leaves it out."""
    columns = task.columns
    text, second = texts_of(task, record)
    entities: tuple[Entity, ...] = ()
    answers: tuple[Answer, ...] = ()
    if task.kind == "tokens":
        entities = _tagged(record, columns) if columns.tokens else _marked(task, record, text, findings)
        findings.find("annotations", len(entities))
    if task.kind == "spans":
        given = _given_answers(record, columns.answers)
        answers = answers_of(text, given, record.place, findings)
        if not is_asked(task, given, answers, findings):
            return None
    return Example(
        id=record.need(as_id, columns.id) if columns.id else f"{_stem(record.uri)}:{record.number}",
        text=text,
        text_pair=second,
        labels=_labels(task, record) if task.kind in ("sequence", "pair") else (),
        entities=entities,
        answers=answers,
        group=record.need(as_id, task.group_column) if task.group_column else None,
        split=record.need(as_label, task.split_column) if task.split_column else None,
        place=record.place,
        is_split_into_words=columns.tokens is not None,
    )


def _text(record: Record, columns: Sequence[str]) -> str:
    parts = [part for column in columns if (part := record.read(as_text, column)) is not None]
    if not parts:
        raise CellError(f"column {' and '.join(map(repr, columns))} has no text", "fill it or drop the row")
    return "\n".join(parts)


def _labels(task: TaskConfig, record: Record) -> tuple[str, ...]:
    columns = task.columns
    if columns.labels:
        return tuple(label for label in columns.labels if record.read(as_truth, label))
    if task.label_from == "file":
        return (_stem(record.uri),)
    if task.multi_label:
        return record.read(functools.partial(as_labels, separator=task.label_separator), columns.label)
    return (record.need(as_label, columns.label),)


def _words(record: Record, column: str) -> list[str]:
    words = _list(record, column)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise CellError(f"column {column!r} must be a list of words, none of them blank", "correct the row")
    as_text(" ".join(words), column)  # a word may well be `null`, which no text of its own is
    return words


def _tagged(record: Record, columns: ColumnsConfig) -> tuple[Entity, ...]:
    assert columns.tokens is not None
    words, given = _words(record, columns.tokens), _list(record, columns.tags)
    tags = [read_tag(tag) if isinstance(tag, str) else None for tag in given]
    if len(tags) != len(words):
        raise CellError(f"column {columns.tags!r} must hold one tag per word", "correct the row")
    read = [tag for tag in tags if tag is not None]
    if len(read) < len(tags):
        raise CellError(f"column {columns.tags!r}: {BAD_TAG}", "correct the tag")
    return entities_of_tags(words, read)


def _marked(task: TaskConfig, record: Record, text: str, findings: Findings) -> tuple[Entity, ...]:
    assert task.columns.entities is not None
    marks = []
    for number, given in enumerate(_list(record, task.columns.entities), 1):
        if isinstance(given, dict) and is_rejected(given):
            findings.leave_out(REJECTED)
            continue
        place = f"{record.place} entity {number}"
        if mark := _mark(given, place):
            marks.append(mark)
        else:
            findings.reject("entity without start, end and label", place, "correct the entity")
    return entities_of(text, marks, findings)


def _mark(given: Any, place: str) -> Mark | None:
    """One entity as an object of start, end, label and, where it is repeated, text; None for anything else."""
    if not isinstance(given, dict):
        return None
    surface = given.get("text")
    if type(surface) is int:  # a dose, say, that lost its quotation marks
        surface = str(surface)
    try:
        label = as_label(given.get("label"), "label")
        start, end = (as_whole_number(given.get(side), side) for side in ("start", "end"))
    except CellError:
        return None
    if label is None or start is None or end is None or not isinstance(surface, str | None):
        return None
    return Mark(label, start, end, surface, place)


def _given_answers(record: Record, column: str) -> list[dict[str, Any]]:
    """SQuAD's answers as HF datasets hold them (an object of lists), or as a list of objects."""
    given = record.value(column)
    if isinstance(given, str):  # a column of JSON in a CSV
        given = _from_json(given, column)
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise CellError(
                f"column {column!r} must hold text and answer_start of equal length", "correct the row"
            )
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        raise CellError(
            f"column {column!r} must be a list of answers", "correct the row; one without answer has an empty list"
        )
    return [answer if isinstance(answer, dict) else {} for answer in given]


def _list(record: Record, column: str) -> list[Any]:
    given = record.value(column)
    given = _from_json(given, column) if isinstance(given, str) else given
    if not isinstance(given, list):
        raise CellError(f"column {column!r} must be a list", "correct the row")
    return given


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, digits without end, brackets without end
        raise CellError(f"column {column!r} is not JSON", "correct the row") from None


def _stem(uri: str) -> str:
    return PurePath(uri.removesuffix(".gz")).stem
