import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.corpus import Rows, SpecialIds
from clinscale.errors import ConfigError, DataError

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


def apart(lengths, row_tokens, shard_tokens=37):
    """Rows that keep documents of these lengths apart, and the documents; every token says which document it is of."""
    documents = [[5 + number] * length for number, length in enumerate(lengths)]
    stream = np.array([token for document in documents for token in (*document, SPECIAL.sep)], dtype="<u2")
    shards = [stream[start : start + shard_tokens] for start in range(0, len(stream), shard_tokens)]
    document_tokens = np.array(lengths, dtype=np.uint32) + np.uint32(1)
    return Rows(shards, row_tokens=row_tokens, special=SPECIAL, document_tokens=document_tokens), documents


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(3, 40))
def test_documents_kept_apart_are_whole_and_framed_one_by_one(lengths, row_tokens):
    rows, documents = apart(lengths, row_tokens)
    found = {document[0]: [] for document in documents}
    used = 0
    for index, row in enumerate(rows):
        at = 0
        for length in rows.segments(index):
            segment = row[at : at + length].tolist()
            assert (segment[0], segment[-1]) == (SPECIAL.cls, SPECIAL.sep)
            assert len(set(segment[1:-1])) == 1, "a segment is of one document"
            found[segment[1]].append(segment[1:-1])
            at += length
        assert (row[at:] == SPECIAL.pad).all()
        used += at
    assert [[token for piece in found[document[0]] for token in piece] for document in documents] == documents
    for pieces in found.values():
        assert all(len(piece) == row_tokens - 2 for piece in sorted(pieces, key=len)[1:]), (
            "cut where a row is full"
        )
    assert used == round(rows.packing_efficiency * len(rows) * row_tokens) or not lengths


def test_pieces_of_a_long_document_stay_in_its_order():
    stream = np.arange(5, 26)
    stream[-1] = SPECIAL.sep
    rows = Rows([stream], row_tokens=10, special=SPECIAL, document_tokens=np.array([21], dtype=np.uint32))
    assert [row[1:-1].tolist() for row in rows][:2] == [[*range(5, 13)], [*range(13, 21)]]
    assert rows[2].tolist() == [0, 21, 22, 23, 24, 2, 1, 1, 1, 1]
    assert rows.documents_apart
    assert not rows_of([5], 4, 7).documents_apart


def best_fit_decreasing(sizes, capacity):
    """The rooms left in the bins, by the textbook, a piece at a time."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - size)
    return sorted(rooms)


@given(st.lists(st.integers(1, 38), max_size=80))
def test_the_packing_is_best_fit_decreasing(lengths):
    rows, _ = apart(lengths, 40)
    rooms = sorted(40 - sum(rows.segments(index)) for index in range(len(rows)))
    assert rooms == best_fit_decreasing([length + 2 for length in lengths], 40)


def test_notes_of_usual_lengths_leave_hardly_any_padding():
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(5.7, 1, 5000)).astype(int)
    stream = np.full(int(lengths.sum()) + len(lengths), 7)
    rows, again = (
        Rows([stream], row_tokens=4096, special=SPECIAL, document_tokens=(lengths + 1).astype(np.uint32))
        for _ in range(2)
    )
    assert rows.packing_efficiency > 0.99
    assert [rows.segments(index) for index in range(len(rows))] == [
        again.segments(index) for index in range(len(again))
    ]


def test_no_documents_are_no_rows():
    rows = Rows([], row_tokens=8, special=SPECIAL, document_tokens=np.array([], dtype=np.uint32))
    assert len(rows) == 0
    assert rows.packing_efficiency == 1.0


def test_lengths_of_another_stream_are_refused():
    with pytest.raises(DataError, match=r"must have 3 tokens together .* their lengths say 4"):
        Rows([np.array([5, 6, 2])], row_tokens=8, special=SPECIAL, document_tokens=np.array([4], dtype=np.uint32))
