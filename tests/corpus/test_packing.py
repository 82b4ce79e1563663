import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.corpus import Rows, SpecialIds
from clinscale.errors import ConfigError

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=100)


def rows_of(stream, shard_tokens, row_tokens):
    stream = np.array(stream, dtype="<u2")
    shards = [stream[start : start + shard_tokens] for start in range(0, len(stream), shard_tokens)]
    return Rows(shards, row_tokens=row_tokens, special=SPECIAL)


@given(st.lists(st.integers(5, 99), max_size=200), st.integers(1, 50), st.integers(3, 40))
def test_rows_hold_the_whole_stream_once_in_order(stream, shard_tokens, row_tokens):
    rows = rows_of(stream, shard_tokens, row_tokens)
    contents = []
    for row in rows:
        assert row.shape == (row_tokens,)
        assert row.dtype == np.int64
        inner = row[row != SPECIAL.pad]
        assert inner[0] == SPECIAL.cls
        assert inner[-1] == SPECIAL.sep
        contents += inner[1:-1].tolist()
    assert contents == stream
    assert sum((row != SPECIAL.pad).sum() for row in rows) == round(
        rows.packing_efficiency * len(rows) * row_tokens
    ) or (not stream)


def test_only_the_last_row_is_padded():
    rows = rows_of(range(5, 17), 100, 7)
    assert len(rows) == 3
    assert rows[1].tolist() == [0, 10, 11, 12, 13, 14, 2]
    assert rows[2].tolist() == [0, 15, 16, 2, 1, 1, 1]
    assert rows.packing_efficiency == pytest.approx(18 / 21)


def test_index_and_length_faults():
    rows = rows_of(range(5, 17), 4, 7)
    for index in (3, -1):
        with pytest.raises(IndexError):
            rows[index]
    with pytest.raises(ConfigError, match="row_tokens must be more than 2, got 2"):
        rows_of([5], 4, 2)
