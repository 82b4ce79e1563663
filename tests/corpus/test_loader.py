import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.corpus import MaskingConfig, Rows, SpecialIds, evaluation_batches, masked_batch
from clinscale.corpus.loader import cut_rows, rows_of_step
from clinscale.errors import ConfigError, DataError

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=10_000)
ROW_TOKENS = 12


def rows_of(count, last_row_tokens=10):
    """Rows whose tokens are all different, so that each can be told by its content."""
    stream = np.arange(5, 5 + (ROW_TOKENS - 2) * (count - 1) + last_row_tokens)
    return Rows([stream] if count else [], row_tokens=ROW_TOKENS, special=SPECIAL)


def apart_rows_of(*lengths):
    """Rows that keep documents of these lengths apart, tokens all different but for the separators."""
    stream = np.arange(5, 5 + sum(lengths) + len(lengths))
    stream[np.cumsum(np.array(lengths) + 1) - 1] = SPECIAL.sep
    document_tokens = np.array(lengths, dtype=np.uint32) + np.uint32(1)
    return Rows([stream], row_tokens=ROW_TOKENS, special=SPECIAL, document_tokens=document_tokens)


def batch_of(rows, step=0, rank=0, world_size=1, rows_per_step=4, seed=0, **options):
    return masked_batch(
        rows,
        step=step,
        rank=rank,
        world_size=world_size,
        rows_per_step=rows_per_step,
        seed=seed,
        masking=MaskingConfig(),
        special=SPECIAL,
        **options,
    )


def evaluation(rows, rank=0, world_size=1, rows_per_batch=2, seed=0, **options):
    return list(
        evaluation_batches(
            rows,
            rank=rank,
            world_size=world_size,
            rows_per_batch=rows_per_batch,
            seed=seed,
            masking=MaskingConfig(),
            special=SPECIAL,
            **options,
        )
    )


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def row_numbers(batch, rows):
    """Which rows a batch holds, by the tokens that are left unmasked or asked for."""
    original = np.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    known = {tuple(row.tolist()): number for number, row in enumerate(rows)}
    return [known[tuple(row.tolist())] for row in original]


@given(
    st.integers(1, 9),
    st.integers(0, 30),
    st.integers(1, 9),
    st.integers(1, 18),
    st.integers(-3, 2**70),
    st.booleans(),
)
def test_a_step_is_the_same_at_every_number_of_workers(count, step, world_size, rows_per_step, seed, is_apart):
    rows = apart_rows_of(*[4] * count, 17) if is_apart else rows_of(count, last_row_tokens=3)
    alone = batch_of(rows, step, rows_per_step=rows_per_step, seed=seed)
    shared = [batch_of(rows, step, rank, world_size, rows_per_step, seed) for rank in range(world_size)]
    assert {len(batch["input_ids"]) for batch in shared} == {-(-rows_per_step // world_size)}
    together = joined(shared)
    assert same({name: array[:rows_per_step] for name, array in together.items()}, alone)
    assert (together["labels"][rows_per_step:] == -100).all()
    assert (together["attention_mask"][rows_per_step:].sum(axis=1) == 1).all(), "what every model survives"


@given(st.integers(1, 25), st.integers(1, 7), st.integers(0, 5))
def test_every_row_comes_once_per_epoch(count, rows_per_step, seed):
    rows, epochs = rows_of(count), 3
    steps = -(-count * epochs // rows_per_step)
    order = [
        number
        for step in range(steps)
        for number in row_numbers(batch_of(rows, step, rows_per_step=rows_per_step, seed=seed), rows)
    ]
    for epoch in range(epochs):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_and_masks_change_with_epoch_and_seed_and_nothing_else():
    rows = rows_of(50)
    first = batch_of(rows, 0, rows_per_step=50)
    assert same(first, batch_of(rows_of(50), 0, rows_per_step=50)), (
        "a resumed run reads what the stopped one would"
    )
    for other in (batch_of(rows, 1, rows_per_step=50), batch_of(rows, 0, rows_per_step=50, seed=1)):
        assert row_numbers(other, rows) != row_numbers(first, rows)
        aligned = [np.argsort(row_numbers(batch, rows)) for batch in (first, other)]
        assert (first["labels"][aligned[0]] != other["labels"][aligned[1]]).any()


def test_a_scheduled_step_is_the_same_at_every_number_of_workers_and_differs_from_the_next():
    rows = rows_of(6)
    masking = MaskingConfig(mask_fraction=0.9, schedule="linear", final_mask_fraction=0.1)

    def asked(step, rank=0, world_size=1, **length):
        batch = masked_batch(
            rows,
            step=step,
            rank=rank,
            world_size=world_size,
            rows_per_step=6,
            seed=0,
            masking=masking,
            special=SPECIAL,
            **length,
        )
        return batch["labels"]

    for step in range(5):
        alone = asked(step, total_steps=5)
        for world_size in (2, 3):
            ranks = [asked(step, rank, world_size, total_steps=5) for rank in range(world_size)]
            assert (np.concatenate(ranks) == alone).all()
    assert (asked(0, total_steps=5) != -100).sum() > 2 * (asked(4, total_steps=5) != -100).sum()
    with pytest.raises(ConfigError, match="pass total_steps"):
        asked(0)


@given(st.integers(1, 5), st.integers(0, 9), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.booleans())
def test_cut_rows_hold_each_token_with_its_mask_once(count, step, world_size, tokens, is_apart):
    rows = apart_rows_of(*[4] * count, 17) if is_apart else rows_of(count, last_row_tokens=3)
    for rank in range(world_size):
        batch = batch_of(rows, step, rank, world_size)
        before = {name: array.copy() for name, array in batch.items()}
        cut = cut_rows(batch, tokens, SPECIAL)
        assert same(batch, before), "the batch was changed"
        assert cut["input_ids"].shape == (len(batch["input_ids"]) * ROW_TOKENS // tokens, tokens)
        assert (cut["labels"].ravel() == batch["labels"].ravel()).all()
        is_read = batch["attention_mask"].ravel() == 1
        assert (cut["input_ids"].ravel()[is_read] == batch["input_ids"].ravel()[is_read]).all()
        assert (cut["attention_mask"].ravel()[is_read] == 1).all()
        blank = ~batch["attention_mask"].reshape(-1, tokens).any(axis=1)
        assert (cut["attention_mask"][blank].sum(axis=1) == 1).all(), "what every model survives"
        assert cut["attention_mask"].sum() == is_read.sum() + blank.sum()
        if is_apart:
            segments, whole = cut["segment_ids"], batch["segment_ids"].reshape(-1, tokens)
            assert ((segments > 0) == (cut["attention_mask"] == 1)).all()
            assert (segments[:, 0] == 1).all()
            assert (np.diff(segments)[~blank] == np.diff(whole)[~blank])[segments[~blank][:, 1:] > 0].all()


def test_a_batch_is_what_the_model_takes():
    batch = batch_of(rows_of(1, last_row_tokens=3), rows_per_step=2)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: ((2, ROW_TOKENS), np.dtype("int64")) for name in ("input_ids", "labels", "attention_mask")
    }
    assert batch["attention_mask"][0].tolist() == [1] * 5 + [0] * 7
    assert (batch["input_ids"][:, 5:] == SPECIAL.pad).all()


def test_documents_kept_apart_are_numbered_within_their_row():
    rows = apart_rows_of(3, 4, 2)
    batch = batch_of(rows, rows_per_step=2)
    by_row = dict(zip(row_numbers(batch, rows), batch["segment_ids"].tolist(), strict=True))
    assert by_row == {0: [1] * 5 + [2] * 6 + [0], 1: [1] * 4 + [0] * 8}
    assert ((batch["segment_ids"] > 0) == batch["attention_mask"]).all()
    (held_out,) = evaluation(rows)
    assert held_out["segment_ids"].tolist() == [by_row[0], by_row[1]]


def test_a_split_without_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        batch_of(rows_of(0))


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 12))
def test_the_rows_of_a_step_can_be_named(count, step, rows_per_step):
    rows = rows_of(count)
    named = rows_of_step(count, step=step, rows_per_step=rows_per_step, seed=3)
    batch = batch_of(rows, step, rows_per_step=rows_per_step, seed=3)
    assert named[:, 1].tolist() == row_numbers(batch, rows)
    assert named[:, 0].tolist() == [(step * rows_per_step + place) // count for place in range(rows_per_step)]


@pytest.mark.parametrize("documents_apart", [False, True])
def test_in_a_causal_phase_each_token_is_asked_for_the_next_one(documents_apart):
    rows = apart_rows_of(7, 4, 15, 2, 3) if documents_apart else rows_of(5, last_row_tokens=3)
    batch = batch_of(rows, rows_per_step=6, asks_next=True)
    ids, labels, seen = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    original = [rows[row] for _, row in rows_of_step(len(rows), step=0, rows_per_step=6, seed=0)]
    assert np.array_equal(ids, original), "nothing is masked"
    asked = labels != -100
    assert np.array_equal(labels[:, :-1][asked[:, :-1]], ids[:, 1:][asked[:, :-1]])
    assert not asked[:, -1].any()
    segments = batch.get("segment_ids", seen)
    expected = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1]) & ~np.isin(ids[:, 1:], SPECIAL.all)
    assert np.array_equal(asked[:, :-1], expected)
    assert asked.sum() > 10


def test_batches_of_any_sizes_read_the_rows_in_one_order():
    whole = rows_of_step(7, step=0, rows_per_step=18, seed=3)
    sizes = (2, 2, 6, 8)
    parts = [
        rows_of_step(7, step=step, rows_per_step=size, rows_before=sum(sizes[:step]), seed=3)
        for step, size in enumerate(sizes)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_evaluation_reads_every_row_once_with_the_same_masks_at_every_number_of_workers(count, world_size, size):
    rows = rows_of(count)
    parts = [evaluation(rows, rank, world_size, size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1, "ZeRO-3 hangs when ranks do unequal numbers of forward passes"
    asked = {}
    for batch in (batch for part in parts for batch in part):
        assert batch["input_ids"].shape == (size, ROW_TOKENS)
        filled = (batch["labels"] != -100).any(axis=1)
        for number, labels in zip(
            row_numbers({name: array[filled] for name, array in batch.items()}, rows),
            batch["labels"][filled],
            strict=True,
        ):
            assert number not in asked
            asked[number] = labels
    reference = joined(evaluation(rows, rows_per_batch=count))
    assert sorted(asked) == list(range(count))
    assert (np.stack([asked[number] for number in range(count)]) == reference["labels"]).all()


def test_evaluation_masks_follow_the_seed():
    rows = rows_of(8)
    assert not same(evaluation(rows, seed=0)[0], evaluation(rows, seed=1)[0])


def test_a_limited_evaluation_is_spread_over_the_split():
    rows = rows_of(100)
    batches = evaluation(rows, rows_per_batch=5, max_rows=10)
    assert [number for batch in batches for number in row_numbers(batch, rows)] == list(range(0, 100, 10))
    assert len(evaluation(rows, rows_per_batch=50, max_rows=1000)) == 2


def test_nothing_held_out_is_nothing_to_evaluate():
    assert evaluation(rows_of(0)) == []
