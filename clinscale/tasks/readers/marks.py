"""Lists in the cells of records: words, and entities as objects of start, end and label."""

import json
from typing import Any

from clinscale.cells import CellError, as_label, as_text, as_whole_number
from clinscale.records import Record
from clinscale.tasks.example import Entity
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.readers.verdicts import REJECTED, is_rejected

NO_MARK = "entity without start, end and label"
_LAYOUT = (
    "write each as {start: 0, end: 7, label: Drug}; lists such as [0, 7, Drug], start_offset, and a list of labels, as "
    "doccano and Label Studio export them, are converted first"
)


def list_in(record: Record, column: str) -> list[Any]:
    """The list in a column, or in its JSON; CellError where there is none."""
    given = record.value(column)
    given = from_json(given, column) if isinstance(given, str) else given
    given = given.tolist() if hasattr(given, "tolist") else given  # MLflow and pandas hold lists as arrays
    if not isinstance(given, list):
        raise CellError(f"column {column!r} must be a list", "correct the row")
    return given


def words_in(record: Record, column: str) -> list[str]:
    """The list of words in a column; CellError where one is blank, or all together are no text."""
    words = list_in(record, column)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise CellError(f"column {column!r} must be a list of words, none of them blank", "correct the row")
    as_text(" ".join(words), column)  # a word may well be `null`, which no text of its own is
    return words


def from_json(text: str, column: str) -> Any:
    """Content of a cell of JSON; CellError where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, digits without end, brackets without end
        raise CellError(f"column {column!r} is not JSON", "correct the row") from None


def marked_entities(record: Record, column: str, text: str, findings: Findings) -> tuple[Entity, ...]:
    """The entities in a column of objects; malformed ones are rejected.

    Raises:
        CellError: the column holds no list.
    """
    return entities_of(text, [mark for mark, _ in marks_in(record, column, findings)], findings)


def marks_in(record: Record, column: str, findings: Findings) -> list[tuple[Mark, dict[str, Any]]]:
    """The marks in a column of objects, each with its object, before they are located in the text."""
    marks = []
    for number, given in enumerate(list_in(record, column), 1):
        if isinstance(given, dict) and is_rejected(given):
            findings.leave_out(REJECTED)
            continue
        place = f"{record.place} entity {number}"
        if mark := mark_of(given, place):
            marks.append((mark, given))
        else:
            findings.reject(NO_MARK, place, _LAYOUT)
    return marks


def mark_of(given: Any, place: str) -> Mark | None:
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
