"""Excel workbooks: the rows of one sheet, with values of Excel's types."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from clinscale.errors import DataError
from clinscale.records.record import OnBadRow, Record, absent, no_column, refuse_repeated
from clinscale.records.table import TableFormat
from clinscale.storage import MAX_WHOLE_BYTES, open_binary, refuse_bomb

_MOST_ROWS = 2**20
"""Rows that Excel has in a sheet; up to the number that a row states, the reader makes up those that are not there."""

_LONGEST_CELL = 32_767
"""Characters that Excel keeps of a cell; what is longer it cuts without a word."""

_KEPT_DIGITS = 15
"""Digits that Excel keeps of a number: of one with more it makes the others zeros without a word."""

_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s[^<>]*?\bref=["']([A-Z]+\d+:[A-Z]+\d+)["']""")
_BLOCK_BYTES, _LONGEST_TAG_BYTES = 2**20, 200

_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError),  # of the archive
    *(SyntaxError, KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError),  # of the XML in it
)


def read_workbook(uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow) -> Iterator[Record]:
    """The rows of an XLSX file; see `read_records`."""
    merged: set[int] = set()
    rows = _cells(uri, table.sheet, merged)
    header = next(rows, None)
    if header is None:
        return
    given = ["" if cell.value is None else str(cell.value) for cell, _ in header]
    names = [name if name in columns else name.strip() for name in given]
    if missing := absent(columns, names, nested=False):
        raise DataError(f"{uri} {no_column(missing, columns, names)}")
    refuse_repeated(uri, columns, names)
    if spread := [name for number, name in enumerate(names) if number in merged and name in columns]:
        raise DataError(
            f"{uri} has cells of column {spread[0]!r} that are merged over rows, of which Excel keeps the value in the "
            "first alone; unmerge them and fill each row"
        )
    kept = [number for number, name in enumerate(names) if name and names.count(name) == 1]
    for number, row in enumerate(rows, 1):
        faults = {fault for i in kept[: len(row)] if (fault := _fault(*row[i], is_wanted=names[i] in columns))}
        if faults:
            on_bad_row(min(faults), f"{uri} row {number}")
            continue
        values = [row[index][0].value if index < len(row) else None for index in kept]
        yield Record(uri, number, {names[i]: _plain(v) for i, v in zip(kept, values, strict=True)})


def _cells(uri: str, sheet: str | None, merged: set[int]) -> Iterator[list[tuple[Any, Any]]]:
    """The rows of the sheet that have something in them: of each cell the value that Excel stored, and the formula.

    Before the first row, `merged` receives the numbers of the columns, from 0, that have cells merged over rows.
    """
    import openpyxl

    with open_binary(uri) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                unpacked_bytes = sum(part.file_size for part in archive.infolist())
            if unpacked_bytes > MAX_WHOLE_BYTES:
                raise DataError(f"{uri} must unpack to at most {MAX_WHOLE_BYTES / 2**30:g} GiB; save it as CSV")
            refuse_bomb(uri, stream.seek(0, os.SEEK_END), unpacked_bytes)
            values, formulas = (
                openpyxl.load_workbook(stream, read_only=True, data_only=stored) for stored in (True, False)
            )
            for page in (*values.worksheets, *formulas.worksheets):
                page.reset_dimensions()  # some programs write wrong ones, by which rows would be left out
            name = _sheet_of(uri, values, sheet)
            merged |= _merged_columns(values[name])
            for row in zip(_rows(uri, values[name]), _rows(uri, formulas[name]), strict=True):
                cells = list(zip(*row, strict=True))
                if any(formula.value is not None for _, formula in cells):
                    yield cells
        except _FAULTS:
            raise DataError(
                f"{uri} is not a readable XLSX workbook; is it damaged, or protected by a password? save it again, "
                "without one"
            ) from None


def _merged_columns(page: Any) -> set[int]:
    """Numbers, from 0, of the columns of a sheet with cells that are merged over rows; they stand behind its rows."""
    from openpyxl.utils import range_boundaries

    found: set[int] = set()
    with page._get_source() as xml:
        before = b""
        while block := xml.read(_BLOCK_BYTES):
            for match in _MERGED.finditer(before + block):
                first, top, last, bottom = range_boundaries(match[1].decode())
                if bottom > top:
                    found.update(range(first - 1, last))
            before = (before + block)[-_LONGEST_TAG_BYTES:]
    return found


def _rows(uri: str, page: Any) -> Iterator[tuple[Any, ...]]:
    for number, row in enumerate(page.iter_rows()):
        if number == _MOST_ROWS:
            raise DataError(
                f"{uri} must have at most {_MOST_ROWS:,} rows in a sheet, as Excel has, and has a row beyond; "
                "is it damaged? save it again, or as CSV"
            )
        yield row


def _sheet_of(uri: str, workbook: Any, sheet: str | None) -> str:
    if sheet is not None:
        if sheet not in workbook.sheetnames:
            raise DataError(f"{uri} has no sheet {sheet!r} among its {len(workbook.sheetnames)}; check its name")
        return sheet
    filled = [
        page.title
        for page in workbook.worksheets
        if any(cell.value is not None for row in _rows(uri, page) for cell in row)
    ]
    if len(filled) > 1:
        raise DataError(f"{uri} holds rows in {len(filled)} sheets; set sheet: to the name of the one to read")
    if not filled:
        raise DataError(f"{uri} is empty; give a file with a header and rows")
    return str(filled[0])


def _fault(cell: Any, formula: Any, *, is_wanted: bool) -> str | None:
    """The fault of a cell, None if there is none; `is_wanted` where its column is asked for."""
    value = cell.value
    if cell.data_type == "e":
        return "holds an error of Excel, such as #REF!; fix the formula"
    if value is None and formula.data_type == "f":
        return "holds a formula without its value; open the workbook in Excel and save it"
    if isinstance(value, str) and len(value) >= _LONGEST_CELL:
        return f"holds {_LONGEST_CELL:,} characters, where Excel cuts what is longer; export the notes as CSV"
    if is_wanted and isinstance(value, int | float) and _is_rounded(value):
        return f"holds a number of more than {_KEPT_DIGITS} digits, of which Excel keeps no more; write it as text"
    return None


def _is_rounded(number: float) -> bool:
    """Whether a number has more digits than Excel keeps, and zeros for those: other programs keep all."""
    num_digits = len(f"{abs(number):.0f}")
    return num_digits > _KEPT_DIGITS and number % 10 ** (num_digits - _KEPT_DIGITS) == 0


def _plain(value: Any) -> Any:
    """Text with the control characters that Excel writes as `_x000D_`; of an empty cell it is blank, as in a CSV."""
    from openpyxl.utils.escape import unescape

    if value is None:
        return ""
    return unescape(value) if isinstance(value, str) and "_x" in value else value
