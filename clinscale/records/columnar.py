"""Parquet, Arrow and Feather files, checked before a value is read from them, with HF's class labels by their names."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clinscale.errors import DataError
from clinscale.records.record import OnBadRow, Record, absent, no_column, refuse_repeated
from clinscale.records.table import TableFormat
from clinscale.storage import open_binary, refuse_bomb

_ROWS_AT_ONCE = 256
_PARQUET = "a readable Parquet file; is it truncated or damaged? copy or save it again"
_ARROW = "a whole Arrow stream or file; is it truncated or damaged? save it again"
_ARROW_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"
"""First bytes of Arrow's files, and of Feather from before 2020.

Arrow's streams, as `save_to_disk` writes them, have no mark.
"""


def read_parquet(uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow) -> Iterator[Record]:
    """The rows of a Parquet file; see `read_records`."""
    import pyarrow.parquet

    with open_binary(uri) as stream:
        with _faults(uri, _PARQUET):
            size_bytes = stream.seek(0, os.SEEK_END)
            file = pyarrow.parquet.ParquetFile(stream)
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            refuse_bomb(uri, size_bytes, sum(group.total_byte_size for group in groups))
            schema, batches = file.schema_arrow, file.iter_batches(batch_size=_ROWS_AT_ONCE)
        yield from _rows(uri, columns, schema, batches, size_bytes, _PARQUET)


def read_arrow(uri: str, columns: Sequence[str], table: TableFormat, on_bad_row: OnBadRow) -> Iterator[Record]:
    """The rows of an Arrow stream or of an Arrow file, which is Feather; see `read_records`."""
    import pyarrow

    with open_binary(uri) as stream:
        size_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(len(_ARROW_FILE))
        stream.seek(0)
        if head.startswith(_FEATHER_1):
            raise DataError(f"{uri} is Feather of version 1, which Arrow has given up; save it as Parquet")
        with _faults(uri, _ARROW):
            if head == _ARROW_FILE:
                file = pyarrow.ipc.open_file(stream)
                schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
            else:
                batches = pyarrow.ipc.open_stream(stream)
                schema = batches.schema
        yield from _rows(uri, columns, schema, batches, size_bytes, _ARROW)


def _rows(
    uri: str, columns: Sequence[str], schema: Any, batches: Iterable[Any], size_bytes: int, what: str
) -> Iterator[Record]:
    with _faults(uri, what):
        names = list(schema.names)
    if missing := absent(columns, names, nested=True):
        raise DataError(f"{uri} {no_column(missing, columns, names)}")
    refuse_repeated(uri, columns, names)
    features = _label_features(schema.metadata or {})
    number = 0
    needed = {column.split(".")[0] for column in columns} | set(columns)
    spare = [at for at, of in enumerate(schema) if of.name in needed or not _is_time(of.type)]
    for rows in _checked(uri, batches, size_bytes, what, spare):
        for row in rows:
            number += 1
            for column, feature in features.items():
                row[column] = _named(row[column], feature)
            yield Record(uri, number, row)


def _is_time(of: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_temporal(of))


def _checked(
    uri: str, batches: Iterable[Any], size_bytes: int, what: str, spare: Sequence[int]
) -> Iterator[list[dict[str, Any]]]:
    """The batches as rows. Offsets in a damaged batch point outside of it, and Arrow follows them unasked.

    A few bytes can say that a value repeats a billion times, so what comes out of a file is counted, too. Where times
    are beyond what Python can hold, the columns `spare` alone are read.
    """
    waiting, unpacked_bytes = iter(batches), 0
    while True:
        with _faults(uri, what):
            batch = next(waiting, None)
            if batch is None:
                return
            batch.validate(full=True)
            unpacked_bytes += batch.nbytes
            refuse_bomb(uri, size_bytes, unpacked_bytes)
            rows = [row for part in _parts(batch) for row in _plain(part, spare)]
        yield rows


def _plain(batch: Any, spare: Sequence[int]) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, KeyError):  # KeyError: of a time zone that nobody knows
        if len(spare) == batch.num_columns:
            raise
        return list(batch.select(list(spare)).to_pylist())


def _parts(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, _ROWS_AT_ONCE) for start in range(0, batch.num_rows, _ROWS_AT_ONCE))


@contextlib.contextmanager
def _faults(uri: str, what: str) -> Iterator[None]:
    """Every way in which Arrow, or Python given Arrow's values, says that a file is no good."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        raise DataError(f"{uri} is not {what}") from None


def _label_features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Column -> feature, of columns with class labels in them, from what `datasets` writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: feature for column, feature in features.items() if "ClassLabel" in json.dumps(feature)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _named(value: Any, feature: Any) -> Any:
    """A value with the class labels in it, which are stored as numbers, by their names; -1, not labelled, is None."""
    if isinstance(feature, list) and feature:  # how older versions write a list
        feature = {"feature": feature[0]}
    if value is None or not isinstance(feature, dict):
        return value
    if feature.get("_type") == "ClassLabel" and not isinstance(value, list):
        names = feature.get("names") or ()
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    inner = feature.get("feature", feature)
    if isinstance(value, list):
        return [_named(item, inner) for item in value]
    if isinstance(value, dict):  # a struct, or a list of structs that is stored as a struct of lists
        return {
            key: _named(item, inner.get(key) if isinstance(inner, dict) else None) for key, item in value.items()
        }
    return value
