"""CSV and TSV: which character separates, whether quotation marks quote, and rows that fit their header."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from clinscale.errors import DataError
from clinscale.records.files import MAX_LINE_BYTES, data_suffix, open_text
from clinscale.records.record import OnBadRow, Record, absent, no_column, refuse_repeated
from clinscale.records.table import TableFormat

csv.field_size_limit(MAX_LINE_BYTES)  # notes are longer than the csv module's default of 128 KiB

_BY_SUFFIX = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = ",;\t|"
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_QUOTED_BEHIND_BLANK = re.compile(r' +"[^"]*"')
"""A field whose quotation marks were meant to quote, and do not."""
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""The line that names the separator for Excel."""


def read_delimited(uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow) -> Iterator[Record]:
    """The rows of a CSV or TSV file; see `read_records`."""
    number = 0
    with open_text(uri, table.encoding) as text:
        try:
            separator, names = _read_header(text, uri, columns, table)
            repeated = [name for name, times in Counter(names).items() if times > 1]
            rows = csv.reader(text, delimiter=separator, strict=True, quoting=_quoting(table))
            width, line = len(names), 0
            in_doubt = table.quoting is None and width > 1
            for row in rows:
                begins, line = line, rows.line_num
                if not row:
                    continue  # a blank line
                number += 1
                if table.quoting is None and any(map(_QUOTED_BEHIND_BLANK.fullmatch, row)):
                    raise DataError(
                        f"{uri} row {number} has a blank between the separator and a quotation mark, which is text "
                        "then; take out the blanks, or set quoting: standard if these marks are text"
                    )
                if len(row) != width:
                    on_bad_row(_misfit(row, width, over_lines=line - begins > 1), f"{uri} row {number}")
                    continue
                if in_doubt and line - begins > 1:
                    is_rows = _is_rows(row, separator)
                    if is_rows:
                        _refuse_rows(uri, number, line - begins, table, separator, width)
                    # a field over lines that are no rows shows that marks quote; by chance prose has commas, not tabs
                    in_doubt = separator == "\t" and not is_rows
                fields = dict(zip(names, row, strict=True))
                for name in repeated:  # none that was asked for
                    del fields[name]
                yield Record(uri, number, fields)
        except csv.Error as error:
            hint = "set quoting: none where quotation marks are part of the text"
            raise DataError(f"{uri} row {number + 1} is malformed: {error}; fix it, or {hint}") from None


def _misfit(row: Sequence[str], width: int, *, over_lines: bool) -> str:
    number, character = ("more", "the separator") if len(row) > width else ("fewer", "a line break")
    fix = "set quoting: none if the marks are text" if over_lines else f"quote a field that holds {character}"
    lines = ", and several lines by a quotation mark" if over_lines else ""
    return f"has {number} fields than the header{lines}; {fix}"


def _read_header(
    text: Iterable[str], uri: str, columns: Sequence[str], table: TableFormat
) -> tuple[str, list[str]]:
    """The separator and the names of the columns; the stream is left at the first row."""
    separators = [table.separator or _BY_SUFFIX.get(data_suffix(uri), ",")]
    if table.separator is None:
        separators += [one for one in _SEPARATORS if one not in separators]
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in text:
            if not taken and (declared := _SEPARATOR_LINE.fullmatch(line)):
                separators.insert(0, table.separator or declared[1])
            elif taken or line.strip():
                taken.append(line)
                yield line

    def split(rows: Iterable[str], separator: str) -> list[str]:
        found = next(csv.reader(rows, delimiter=separator, quoting=_quoting(table)), [])
        return [name if name in columns else name.strip() for name in found]

    if not split(lines(), separators[0]):
        raise DataError(f"{uri} is empty; give a file with a header and rows")
    named = {separator: split(taken, separator) for separator in separators}
    separator = _separator_of(named, columns)
    names = named[separator]
    if missing := absent(columns, names, nested=False):
        hint = "; set delimiter: where another character separates them" if len(names) == 1 else ""
        raise DataError(f"{uri} {no_column(missing, columns, names)}{hint}")
    refuse_repeated(uri, columns, names)
    return separator, names


def _separator_of(named: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    """The first separator that gives the columns asked for, else the first that parts the header at all."""
    fits = (one for one, names in named.items() if columns and absent(columns, names, nested=False) is None)
    parts = (one for one, names in named.items() if len(names) > 1)
    return next(fits, None) or next(parts, None) or next(iter(named))


def _is_rows(row: Sequence[str], separator: str) -> bool:
    """Whether a field holds just what is between its place in one line and its place in a later one."""
    gaps = len(row) - 1
    for index, field in enumerate(row):
        if (found := _LINE_BREAK.search(field)) and field.count(separator, 0, found.start()) == gaps - index:
            *inner, last = _LINE_BREAK.split(field[found.end() :])
            if last.count(separator) == index and all(line.count(separator) == gaps for line in inner if line):
                return True
    return False


def _refuse_rows(uri: str, number: int, num_lines: int, table: TableFormat, separator: str, width: int) -> None:
    """DataError where most lines of the file are whole rows when quotation marks are taken as they are."""
    with open_text(uri, table.encoding) as text:
        rows = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE)
        fit = Counter(len(row) == width for row in rows if row)
    if fit[True] > fit[False]:
        raise DataError(
            f"{uri} row {number} takes in {num_lines} lines by a quotation mark that begins a field; "
            "set quoting: none where these marks are part of the text, quoting: standard where they quote"
        )


def _quoting(table: TableFormat) -> Literal[0, 3]:
    return csv.QUOTE_NONE if table.quoting == "none" else csv.QUOTE_MINIMAL
