"""Rows and texts that are read as they are, and whose export likely did not mean so: for remarks, never changed."""

import functools
import re
from typing import Any

from clinscale.cells import CellError, as_id, as_whole_number
from clinscale.records.record import Record

_NUMBERS_PARTS = re.compile(r"(line|seq|sequence|segment)(_?(num|number|no|nbr))?", re.IGNORECASE)
"""Columns by which databases number the rows of one text: Epic's `LINE`, Cerner's `SEQUENCE_NBR`. `note_seq` of
MIMIC-IV numbers whole notes."""


@functools.lru_cache(maxsize=1024)  # the same columns in every row
def _numbers_parts(column: str) -> bool:
    return _NUMBERS_PARTS.fullmatch(column) is not None


def has_escaped_breaks(text: str) -> bool:
    r"""Whether line breaks are written as a backslash and `n`: two of these or more, and fewer real ones."""
    return "\\n" in text and (escaped := text.count("\\n")) > 1 and escaped > text.count("\n")


class ContinuedRows:
    """Rows of one file that seem to go on with the note of the row before: its id again, or its number and one."""

    def __init__(self, id_column: str | None) -> None:
        self._id_column = id_column
        self._id: str | None = None
        self._numbers: dict[str, int] = {}

    def goes_on(self, record: Record) -> bool:
        """Whether the next row of the file does."""
        id = self._read(as_id, record, self._id_column) if self._id_column else None
        numbers = {
            name: number
            for name in record.fields
            if _numbers_parts(name) and (number := self._read(as_whole_number, record, name)) is not None
        }
        same = id is not None and id == self._id
        counted = any(self._numbers.get(name) == number - 1 for name, number in numbers.items() if number > 1)
        self._id, self._numbers = id, numbers
        return same or counted

    def _read(self, cell: Any, record: Record, column: str) -> Any:
        try:
            return record.read(cell, column)
        except CellError:
            return None
