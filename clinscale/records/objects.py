"""JSON and JSON lines: an object per row, whatever the file is called."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from clinscale.errors import DataError
from clinscale.records.files import data_suffix, open_text
from clinscale.records.record import OnBadRow, Record, absent, no_column
from clinscale.records.table import TableFormat
from clinscale.storage import parse_json, read_json

_LONGEST_FIRST_LINE = 2**20
"""Characters that are read to distinguish JSON lines from one document."""

_LISTS = ("data", "rows", "records", "items", "results", "documents", "examples", "hits", "entry", "value")
"""Keys below which interfaces and exports put their rows."""

_DOCUMENT = "; one document that holds all rows is named .json"


def read_json_lines(
    uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow
) -> Iterator[Record]:
    """The rows of a file with one JSON object per line; see `read_records`."""
    with open_text(uri, table.encoding) as text:
        yield from _records(uri, _parsed_lines(uri, text, on_bad_row), columns, on_bad_row)


def read_json_document(
    uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow
) -> Iterator[Record]:
    """The rows of one JSON document; JSON lines, too, by whatever name; see `read_records`."""
    if _is_json_lines(uri, table):
        yield from read_json_lines(uri, columns, table, on_bad_row)
        return
    found = read_json(uri, table.encoding)
    rows = found if isinstance(found, list) else [found]
    if isinstance(found, dict) and columns:
        _refuse_other_forms(uri, found, columns)
    by_id = isinstance(found, dict) and found and all(isinstance(value, dict) for value in found.values())
    if by_id and not (columns and absent(columns, found, nested=True) is None):
        rows = [{"id": key, **value} for key, value in found.items()]
    numbered = ((f"{uri} row {number}", number, row) for number, row in enumerate(rows, 1))
    yield from _records(uri, numbered, columns, on_bad_row)


def _refuse_other_forms(uri: str, found: dict[str, Any], columns: Sequence[str]) -> None:
    """DataError where a document holds a table by its columns, or its rows in a list below other keys."""
    asked = [found.get(column) for column in columns]
    indexed = {tuple(one) if isinstance(one, dict) else None for one in asked}
    is_by_column = None not in indexed and len(indexed) == 1
    if is_by_column or {"columns", "data"} <= found.keys():
        raise DataError(
            f"{uri} must hold an object for each row, and holds a table by its columns; write it by rows, in pandas by "
            "to_json(orient='records')"
        )
    inner = next((key for key in _LISTS if isinstance(found.get(key), list)), None)
    if inner and absent(columns, found, nested=True):
        raise DataError(
            f"{uri} must hold an object for each row, and holds one with a list at {inner!r}; save that list alone, "
            "as an object for each row"
        )


def _is_json_lines(uri: str, table: TableFormat) -> bool:
    with open_text(uri, table.encoding) as text:
        first = text.readline(_LONGEST_FIRST_LINE)
        second = next((line for line in text if line.strip()), "") if first.endswith(("\n", "\r")) else ""
    if not (first.lstrip().startswith("{") and second.lstrip().startswith("{")):
        return False
    try:
        parse_json(first)
    except ValueError:
        return False
    return True


def _parsed_lines(uri: str, lines: Iterable[str], on_bad_row: OnBadRow) -> Iterator[tuple[str, int, Any]]:
    """Place, number and value of each line with something on it."""
    number = 0
    for line_number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        number += 1
        place = f"{uri} line {line_number}"
        try:
            value = parse_json(line.rstrip(), is_line=True)
        except ValueError as error:
            on_bad_row(f"{error}{_DOCUMENT if line.strip() in ('[', '{') else ''}", place)
            continue
        yield place, number, value


def _records(
    uri: str, rows: Iterable[tuple[str, int, Any]], columns: Sequence[str], on_bad_row: OnBadRow
) -> Iterator[Record]:
    wanted = frozenset(columns)
    never, fields = list(columns), None
    for place, number, fields in rows:
        if not isinstance(fields, dict):
            hint = _DOCUMENT if isinstance(fields, list) and data_suffix(uri) != ".json" else ""
            on_bad_row(f"must be a JSON object, got a {type(fields).__name__}{hint}", place)
            continue
        if never:
            never = [column for column in never if absent([column], fields, nested=True)]
        if not wanted <= fields.keys() and (missing := absent(columns, fields, nested=True)):
            on_bad_row(no_column(missing, columns, list(fields)), place)
            continue
        yield Record(uri, number, fields)
    if never and isinstance(fields, dict):
        raise DataError(f"{uri} in all its rows {no_column(never[0], columns, list(fields))}")
