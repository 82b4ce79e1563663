"""Reader of the rows of every format."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from clinscale.errors import DataError
from clinscale.records.columnar import read_arrow, read_parquet
from clinscale.records.delimited import read_delimited
from clinscale.records.files import data_suffix
from clinscale.records.objects import read_json_document, read_json_lines
from clinscale.records.record import OnBadRow, Record, refuse
from clinscale.records.table import TableFormat
from clinscale.records.workbook import read_workbook

_READERS: dict[str, Callable[[str, Sequence[str], TableFormat, OnBadRow], Iterator[Record]]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_document,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".xlsx": read_workbook,
}

RECORD_SUFFIXES = tuple(sorted(_READERS))
"""The formats that `read_records` knows."""


def read_records(
    uri: str,
    columns: Sequence[str] = (),
    *,
    table: TableFormat = TableFormat(),
    on_bad_row: OnBadRow = refuse,
) -> Iterator[Record]:
    """Stream the rows of one file; its name shows the format, `.gz` is decompressed.

    Args:
        uri: a `.csv`, `.tsv`, `.jsonl`/`.ndjson`, `.json` (an object, a list, JSON lines, or objects by id: the id
            becomes field `id`), `.parquet`, `.xlsx`, `.feather` or `.arrow` file (a stream, as HF's `save_to_disk`
            writes it, too), local or remote.
        columns: names that must be present, in a table at its header, in JSON at every row. `a.b` is `b` in `a`, and
            must be there in some row.
        table: what the file does not state itself: encoding, delimiter, quoting, sheet.
        on_bad_row: what to do about one malformed row.

    Raises:
        DataError: missing, empty, unreadable or malformed file, absent column, text that is not in the encoding.
    """
    suffix = data_suffix(uri)
    if suffix not in _READERS:
        raise DataError(f"{uri} has no known format; use one of {', '.join(RECORD_SUFFIXES)} (.gz too)")
    bad: list[str] = []

    def count_bad(fault: str, place: str) -> None:
        bad.append(f"{place.removeprefix(uri).strip()} {fault}" if not bad else "")
        on_bad_row(fault, place)

    records = _without_headers(_READERS[suffix](uri, columns, table, count_bad), count_bad)
    first = next(records, None)
    if first is None:
        if bad:
            raise DataError(f"{uri} holds no row that can be used, {len(bad)} are malformed; fix them: {bad[0]}")
        raise DataError(f"{uri} holds no rows; give a file with data")
    unseen = [column for column in columns if not first.holds(column)]
    yield first
    while unseen:
        record = next(records, None)
        if record is None:
            raise DataError(f"{uri} has nothing at column {unseen[0]!r} in any of its rows; check the path")
        unseen = [column for column in unseen if not record.holds(column)]
        yield record
    yield from records


def _without_headers(records: Iterable[Record], on_bad_row: OnBadRow) -> Iterator[Record]:
    """The rows without one that repeats the names of its columns, behind the byte-order mark of its file perhaps.

    Of one column alone a row may well say what its name does: a note of the word `text`.

    Raises:
        DataError: they are there in another order, which the rows behind it have, too.
    """
    for record in records:
        fields = record.fields
        names = [*map(str.strip, fields)]
        if len(names) > 1 and all(isinstance(one, str) and _bare(one) in names for one in fields.values()):
            values = [*map(_bare, fields.values())]
            if values == names:
                on_bad_row("repeats the header, as where files are joined; take it out", record.place)
                continue
            if sorted(values) == sorted(names):
                raise DataError(
                    f"{record.place} repeats the header in another order, as where files are joined whose columns are "
                    "not in one order, so that the rows behind it would be misread; put the files into a folder instead"
                )
        yield record


def _bare(value: str) -> str:
    return value.strip("\ufeff \t")
