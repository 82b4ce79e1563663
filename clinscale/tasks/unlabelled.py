"""Documents to answer, read as a task's readers read them for training; what nobody has annotated needs no gold."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clinscale.cells import CellError, is_blank
from clinscale.errors import DataError
from clinscale.records import (
    NOTE_SUFFIXES,
    RECORD_SUFFIXES,
    Record,
    data_suffix,
    other_format,
    read_note,
    read_records,
    read_text,
)
from clinscale.storage import read_json
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import Kind, kind_of
from clinscale.tasks.readers import bio, i2b2_xml, records, squad
from clinscale.tasks.task import TaskConfig

DocumentFormat = Literal["text", "records", "bio", "i2b2_xml", "squad"]
"""Format of a file of documents; `text` is one document, such as a note that brat's annotations are beside."""

_FEWEST_LINES = 3
"""Number of lines below which a note may look like tokens with tags: `Vitamin B-12`, `Blood group O`."""

_SUFFIXES: dict[str, DocumentFormat] = {
    **dict.fromkeys(NOTE_SUFFIXES, "text"),
    ".xml": "i2b2_xml",
    ".bio": "bio",
    ".conll": "bio",
    ".iob": "bio",
    **dict.fromkeys(RECORD_SUFFIXES, "records"),
}
DOCUMENT_SUFFIXES = tuple(_SUFFIXES)
"""The endings of the files that are looked for in a folder of documents."""


@dataclass(frozen=True)
class Unlabelled:
    """One document of a file: an example without gold, or the reason why there is none."""

    id: str
    row: int
    """Number in the file, counted from 1: row, sentence or question."""
    example: Example | None = None
    fault: str = ""
    """A clause that holds no text of the document."""


def document_format(task: TaskConfig, file: str) -> DocumentFormat:
    """The format of a file for a model of `task`, known by the ending of its name.

    By its beginning where `.txt`, `.tsv` or `.json` leave that open.

    Raises:
        DataError: it is of a format that is no note, or cannot be read.
    """
    suffix, kind = data_suffix(file), kind_of(task)
    if fault := other_format(suffix):
        raise DataError(f"{file} {fault}")
    if suffix == ".json" and "squad" in kind.formats and _looks_like_squad(task, file):
        return "squad"
    if suffix in (".txt", ".tsv") and "bio" in kind.formats and _looks_like_bio(task, file):
        return "bio"
    return _SUFFIXES.get(suffix, "text")


def _looks_like_bio(task: TaskConfig, file: str) -> bool:
    """Whether the first lines are tokens with their tags: all of them; to a task of BIO files most, or tokens alone.

    Few lines that look so may be a note, and are one.
    """
    try:
        first = itertools.islice(bio.sentences(read_text(file, task.encoding), tagged=False), 50)
    except DataError:  # reported when it is read
        return False
    lines = [line for _, tokens, tags in first for line in zip(tokens, tags, strict=True)]
    if len(lines) < _FEWEST_LINES:
        return False
    is_alone = task.format == "bio" and all(token == tag for token, tag in lines)
    tagged = sum(bool(token) and (is_alone or bio.read_tag(tag.strip()) is not None) for token, tag in lines)
    return 2 * tagged > len(lines) if task.format == "bio" else 0 < tagged == len(lines)


def _looks_like_squad(task: TaskConfig, file: str) -> bool:
    """Whether a JSON file holds articles with paragraphs, not rows."""
    try:
        articles = read_json(file, task.encoding)["data"]
        return isinstance(articles[0]["paragraphs"][0]["context"], str)  # emrQA's is a list of lines
    except (DataError, KeyError, IndexError, TypeError):
        return False


def read_unlabelled(task: TaskConfig, file: str, format: DocumentFormat, name: str) -> Iterator[Unlabelled]:
    """The documents of one file in their order; gold is neither needed nor looked at.

    Rows that `keep_rows` and `drop_rows` leave out of training are documents here: who asks about them gets an answer.

    Args:
        task: what the model was trained on, for its columns, encoding and kind. Where it names no column of ids that is
            `id`, and of a second text `text_pair` or `question`.
        file: local or remote.
        format: what the file is.
        name: alone the id of a file's only document, and with their row the ids of documents that bring none.

    Raises:
        DataError: a file of many documents lacks a column, or is malformed as a whole.
    """
    kind = kind_of(task)
    if kind.document_formats is not None and format not in kind.document_formats:
        allowed = " or ".join(kind.document_formats)
        raise DataError(
            f"{file} must be of format {allowed}, which bring the {kind.needs}, got {format}; convert it"
        )
    second = task.columns.text_pair or kind.second_text_column
    defaults = {"id": task.columns.id or "id", "text_pair": second}
    task = task.model_copy(update={"columns": task.columns.model_copy(update=defaults)})
    return _READERS[format](task, file, name)


class _Fault(Exception):
    """One document cannot be used; never leaves this module."""


class _Refusals(Findings):
    """Findings for readers to log to: what they would reject is a fault of the document."""

    def reject(self, reason: str, place: str, fix: str) -> None:
        raise _Fault(reason)


def _read_text(task: TaskConfig, file: str, name: str) -> Iterator[Unlabelled]:
    kind, given = kind_of(task), {}

    def read() -> str:
        text = read_note(file, task.encoding)
        given.update(kind.read_beside(file, text))
        return text

    yield _only_document(file, name, read, given)


def _read_i2b2_xml(task: TaskConfig, file: str, name: str) -> Iterator[Unlabelled]:
    def read() -> str:
        document = i2b2_xml.read_document(file, _Refusals(), encoding=task.encoding, annotated=False)
        return document[0] if document else ""

    yield _only_document(file, name, read)


def _read_bio(task: TaskConfig, file: str, name: str) -> Iterator[Unlabelled]:
    sentences = list(bio.sentences(read_text(file, task.encoding), tagged=False))
    bio.refuse_numbers(file, sentences)
    for number, (line, tokens, _) in enumerate(sentences, 1):
        bad = bio.line_without_token(tokens)
        fault = "" if bad is None else f"line {line + bad} has no token, or other columns than the first line"
        yield _document(f"{name}:{number}", number, " ".join(tokens), fault=fault, is_split=True)


def _read_squad(task: TaskConfig, file: str, name: str) -> Iterator[Unlabelled]:
    for number, (id, context, question, _) in enumerate(squad.questions(file, task.encoding), 1):
        yield _document(id or f"{name}:{number}", number, context, question)


def _read_records(task: TaskConfig, file: str, name: str) -> Iterator[Unlabelled]:
    task = _with_text_for_tokens(task, file)
    columns = [*(() if task.columns.tokens else task.columns.texts), task.columns.tokens, task.columns.text_pair]
    kind = kind_of(task)
    malformed: list[str] = []  # rows between the last and the one that comes
    row = 0

    def faults() -> Iterator[Unlabelled]:
        nonlocal row
        for fault in malformed:
            row += 1
            yield Unlabelled(f"{name}:{row}", row, fault=fault)
        malformed.clear()

    for record in read_records(
        file,
        [column for column in columns if column],
        table=task,
        on_bad_row=lambda fault, place: malformed.append(f"{place.removeprefix(file).strip()} {fault}"),
    ):
        yield from faults()
        row = record.number
        yield _row(kind, record, name)
    yield from faults()


def _with_text_for_tokens(task: TaskConfig, file: str) -> TaskConfig:
    """A task of lists of tokens as one of texts, where a file holds these instead."""
    columns = task.columns
    if columns.tokens:
        first = next(read_records(file, table=task, on_bad_row=lambda fault, place: None))
        if not first.holds(columns.tokens) and all(map(first.holds, columns.texts)):
            columns = columns.model_copy(update={"tokens": None})
    return task.model_copy(update={"columns": columns})


def _row(kind: Kind, record: Record, name: str) -> Unlabelled:
    task, id = kind.task, f"{name}:{record.number}"
    try:
        id = records.id_of(task, record) or id
        text, second = records.texts_of(task, record)
        given = kind.read_given(record, text)
    except CellError as error:
        return Unlabelled(id, record.number, fault=error.reason)
    return _document(id, record.number, text, second, is_split=task.columns.tokens is not None, **given)


def _only_document(
    file: str, name: str, read: Callable[[], str], given: Mapping[str, Any] | None = None
) -> Unlabelled:
    """The document that `read` gives; `given` are fields of its example, once it is read."""
    try:
        return _document(name, 1, read(), **(given or {}))
    except (_Fault, DataError) as error:
        return Unlabelled(name, 1, fault=str(error).removeprefix(file).strip())


def _document(
    id: str,
    row: int,
    text: str,
    second: str | None = None,
    fault: str = "",
    *,
    is_split: bool = False,
    **given: Any,
) -> Unlabelled:
    fault = fault or fault_of_texts(text, second)
    example = Example(id, text, second, is_split_into_words=is_split, **given)
    return Unlabelled(id, row, None if fault else example, fault)


def fault_of_texts(text: str, second: str | None = None) -> str:
    """A clause on why nothing can be answered about these texts, which holds nothing of them; empty where it can."""
    if is_blank(text):
        return "has no text"
    if second is not None and is_blank(second):
        return "has no second text"
    return "holds zero bytes, which no text does" if "\0" in f"{text}{second}" else ""


_READERS: dict[DocumentFormat, Callable[[TaskConfig, str, str], Iterator[Unlabelled]]] = {
    "text": _read_text,
    "records": _read_records,
    "bio": _read_bio,
    "i2b2_xml": _read_i2b2_xml,
    "squad": _read_squad,
}
