"""One row of a file, the path to a value in it, and what is said of columns that are not there."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

from clinscale.cells import CellError, as_text
from clinscale.config import nearest
from clinscale.errors import DataError

T = TypeVar("T")
Cell = Callable[[Any, str], T]
"""Reads a value, given the name of its column for errors: `cells.as_text` and its like."""

_ABSENT = object()


class Record(NamedTuple):
    """One row of a file: its fields, and where it came from."""

    uri: str
    number: int
    """Counted from 1, the header not counted."""
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """Name of this row in errors."""
        return f"{self.uri} row {self.number}"

    def value(self, column: str) -> Any:
        """The value in `column`, a name or a path such as `report.findings` or `sections.0.text`; None where absent."""
        found = self._find(column)
        return None if found is _ABSENT else found

    def holds(self, column: str) -> bool:
        """Whether this row has the column, or all keys of the path, be there a value or null."""
        return self._find(column) is not _ABSENT

    def read(self, cell: Cell[T], column: str) -> T:
        """The value in `column`, read by one of the functions of `cells`: `record.read(as_id, "SUBJECT_ID")`.

        Raises:
            CellError: it is not what the reading needs; with the row's place.
        """
        try:
            return cell(self.value(column), column)
        except CellError as error:
            raise CellError(error.reason, error.fix, self.place) from None

    def need(self, cell: Cell[T | None], column: str, what: str = "value") -> T:
        """The value in `column` as `read` returns it; CellError also when the cell has no `what`."""
        found = self.read(cell, column)
        if found is None:
            raise CellError(f"column {column!r} has no {what}", "fill it or drop the row", self.place)
        return found

    def text(self, column: str) -> str:
        """The non-empty text in `column`; CellError otherwise."""
        return self.need(as_text, column, "text")

    def _find(self, column: str) -> Any:
        if column in self.fields:
            return self.fields[column]
        here: Any = self.fields
        for part in column.split("."):
            if isinstance(here, list) and part.isdecimal() and int(part) < len(here):
                here = here[int(part)]
            elif isinstance(here, dict) and part in here:
                here = here[part]
            else:
                return _ABSENT
        return here


OnBadRow = Callable[[str, str], None]
"""Called with what is wrong and where; the row is skipped when it returns."""


def refuse(fault: str, place: str) -> None:
    """The `OnBadRow` that skips nothing."""
    raise DataError(f"{place} {fault}")


def absent(wanted: Sequence[str], found: Collection[str], *, nested: bool) -> str | None:
    """The first of the wanted columns that is not among those `found`; a path, when `nested`, by its first key."""
    return next(
        (c for c in wanted if c not in found and not (nested and c.split(".")[0] in found)),
        None,
    )


def no_column(column: str, wanted: Collection[str], found: Sequence[str]) -> str:
    """The message about a missing column: the nearest name, or the known ones.

    The first row of a file without a header, or keys that are ids or texts, would be patients' data. So a name is
    printed only when it is one plain word that resembles the column asked for, or when other columns that were
    asked for are there, which shows that these are names; other columns go by number.
    """
    if column in (blanks := [name.strip() for name in found]):
        return (
            f"has no column {column!r}, but column {blanks.index(column) + 1} is that with blanks; take them out"
        )
    names = [name for name in found if _PLAIN_NAME.fullmatch(name)]
    near = nearest(column, names)
    if near.startswith("did you mean"):
        return f"has no column {column!r}; {near}"
    if not any(name in found for name in wanted):
        return (
            f"has no column {column!r}, nor one whose name is near, among its {len(found)}; "
            "does it begin with the names of its columns?"
        )
    others = [str(number) for number, name in enumerate(found, 1) if name not in names]
    by_number = f"; column {', '.join(others[:10])}{' ...' if len(others) > 10 else ''}" if others else ""
    return f"has no column {column!r}; {nearest(column, names)}{by_number}"


def refuse_repeated(uri: str, columns: Collection[str], found: Sequence[str]) -> None:
    """DataError where one of the wanted columns, or of all when none is named, is there twice."""
    for name in dict.fromkeys(columns or filter(None, found)):
        places = [str(number) for number, other in enumerate(found, 1) if other == name]
        if len(places) > 1:
            raise DataError(
                f"{uri} must have a column once, but columns {' and '.join(places)} repeat one name; "
                "rename all but one"
            )


_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.:/()#%-]{0,39}", re.ASCII)
"""One word without commas: what exports call their columns, and sentences, dates and numbers do not look like."""
