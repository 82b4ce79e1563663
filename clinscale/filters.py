"""Rows chosen by what their columns hold, and which of the values asked for no row had."""

import functools
from collections.abc import Iterable, Mapping, Sequence

from clinscale.cells import as_label, is_missing
from clinscale.records import Record

Choice = tuple[str, str, str]
"""Option, column and value, as the config spells them."""


@functools.lru_cache(maxsize=1024)  # a column holds the same few values again and again
def _folded(label: str) -> str:
    return "".join(label.split()).casefold()


class RowFilter:
    """Keeps a row when every column of `keep` holds one of its values, and no column of `drop` does.

    Values are compared as labels are read: `1` is what 1, 1.0 and `1.0` hold; an empty value is a blank, null or NaN.
    It remembers which values it met, as one that no row holds is most likely spelled otherwise.
    """

    def __init__(self, keep: Mapping[str, Sequence[str]], drop: Mapping[str, Sequence[str]]) -> None:
        self._keep, self._drop = (
            {
                column: {as_label(value, column): (option, column, value) for value in values}
                for column, values in of.items()
            }
            for option, of in (("keep_rows", keep), ("drop_rows", drop))
        )
        self.met: set[Choice] = set()
        self.others: set[str] = set()
        """Columns in which some row holds a value that was not asked for."""
        self.near = 0
        """Number of times that a row held a value in another case, or with other blanks, than it was asked for."""

    @property
    def columns(self) -> list[str]:
        """Columns that a file must have."""
        return [*self._keep, *self._drop]

    def keeps(self, record: Record) -> bool:
        """Whether the row is wanted.

        Raises:
            CellError: a column holds a list, an object or something else that no value can equal.
        """
        # all of them are asked, so that no value is missed because another one had decided
        kept = [self._holds(record, column, values) for column, values in self._keep.items()]
        dropped = [self._holds(record, column, values) for column, values in self._drop.items()]
        return all(kept) and not any(dropped)

    def unmet(self, met: Iterable[tuple[str, ...]] = ()) -> list[Choice]:
        """The values that neither this filter met nor, over other files, those that `met` is from."""
        asked = (choice for of in (self._keep, self._drop) for values in of.values() for choice in values.values())
        known = self.met | set(met)
        return [choice for choice in asked if choice not in known]

    def _holds(self, record: Record, column: str, values: Mapping[str | None, Choice]) -> bool:
        label = record.read(as_label, column)
        choice = values.get(label)
        if choice is None:
            if label is not None and not is_missing(label):
                self.others.add(column)
                self.near += _folded(label) in map(_folded, filter(None, values))
            return False
        self.met.add(choice)
        return True
