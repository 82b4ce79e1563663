"""Canaries change the rows they are planted in and nothing else, and are the same for all who read them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinscale.corpus import (
    CanaryConfig,
    MaskingConfig,
    Rows,
    SpecialIds,
    canary_probes,
    masked_batch,
    plant_canaries,
)
from clinscale.corpus.canaries import ALTERNATIVES, CANARY_TOKENS, NAME_TOKENS, SECRET_TOKENS
from clinscale.errors import ConfigError

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=500)
ROW_TOKENS, ROWS_PER_STEP, STEPS = 24, 6, 8
CONFIG = CanaryConfig(count=3, repeats=4)


def rows_of(count):
    stream = np.random.default_rng(0).integers(5, 500, (ROW_TOKENS - 2) * count)
    return Rows([stream], row_tokens=ROW_TOKENS, special=SPECIAL)


def apart_rows():
    """Documents of 1 to 40 tokens, many of them too short for a canary."""
    lengths = np.random.default_rng(1).integers(1, 40, 200)
    stream = np.random.default_rng(2).integers(5, 500, lengths.sum() + len(lengths))
    return Rows([stream], row_tokens=ROW_TOKENS, special=SPECIAL, document_tokens=(lengths + 1).astype(np.uint32))


def planted(rows, seed=0, config=CONFIG, rows_read=STEPS * ROWS_PER_STEP):
    return plant_canaries(rows, config, seed=seed, rows_read=rows_read)


def batch_of(rows, step, rank=0, world_size=1, seed=0):
    return masked_batch(
        rows,
        step=step,
        rank=rank,
        world_size=world_size,
        rows_per_step=ROWS_PER_STEP,
        seed=seed,
        masking=MaskingConfig(),
        special=SPECIAL,
    )


def phrases(seed=0, config=CONFIG):
    """The canaries as they are asked for."""
    found = []
    for probe in canary_probes(config, seed=seed, special=SPECIAL):
        row = probe.seen.copy()
        row[probe.secret_at] = probe.secrets[0]
        assert (row[0], row[-1]) == (SPECIAL.cls, SPECIAL.sep)
        found.append(tuple(row[1:-1].tolist()))
    return found


def canary_in(row):
    return tuple(row[1 : 1 + CANARY_TOKENS].tolist())


@pytest.mark.parametrize("rows", [rows_of(100), apart_rows()], ids=["packed", "apart"])
def test_each_canary_stands_in_as_many_rows_as_asked_for_and_all_else_stays(rows):
    held, expected = planted(rows), phrases()
    seen = dict.fromkeys(expected, 0)
    for index, row in enumerate(rows):
        assert held.segments(index) == rows.segments(index)
        after = held[index]
        if canary_in(after) in seen:
            seen[canary_in(after)] += 1
            assert rows.segments(index)[0] >= CANARY_TOKENS + 2, "a canary must not run into the next note"
            after[1 : 1 + CANARY_TOKENS] = row[1 : 1 + CANARY_TOKENS]
        assert (after == row).all()
    assert set(seen.values()) == {CONFIG.repeats}


def test_rows_without_canaries_are_read_as_in_a_run_without_any():
    rows, changed = rows_of(100), 0
    held = planted(rows)
    for step in range(40):
        before, after = batch_of(rows, step), batch_of(held, step)
        same = [(before[name] == after[name]).all(axis=1) for name in before]
        changed += ROWS_PER_STEP - int(np.logical_and.reduce(same).sum())
        behind = slice(1 + CANARY_TOKENS, None)
        assert (before["labels"][:, behind] == after["labels"][:, behind]).all(), "masks fall where they fell"
        assert (before["attention_mask"] == after["attention_mask"]).all()
    assert 0 < changed <= 3 * CONFIG.count * CONFIG.repeats, "240 rows are read, each at most three times"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(-3, 2**70))
def test_a_step_with_canaries_is_the_same_on_every_rank_and_after_every_resumption(step, world_size, seed):
    whole = batch_of(planted(rows_of(60), seed), step, seed=seed)  # by a process that has read nothing before
    held = planted(rows_of(60), seed)
    batch_of(held, 0, seed=seed)
    shared = [batch_of(held, step, rank, world_size, seed) for rank in range(world_size)]
    for name, array in whole.items():
        assert (np.concatenate([batch[name] for batch in shared])[:ROWS_PER_STEP] == array).all()


def test_a_run_shorter_than_an_epoch_reads_all_its_canaries():
    held, seen = planted(rows_of(10_000)), []
    for step in range(STEPS):
        batch = batch_of(held, step)
        seen += map(canary_in, np.where(batch["labels"] == -100, batch["input_ids"], batch["labels"]))
    assert [seen.count(phrase) for phrase in phrases()] == [CONFIG.repeats] * CONFIG.count


@pytest.mark.parametrize(
    ("rows", "rows_read", "found"), [(rows_of(11), 100, 11), (rows_of(100), 5, 5), (rows_of(0), 100, 0)]
)
def test_too_few_rows_are_told_with_their_number(rows, rows_read, found):
    with pytest.raises(ConfigError, match=rf"needs 12 training rows .*, and the run reads {found}; lower"):
        planted(rows, rows_read=rows_read)


def test_rows_too_short_for_a_canary_hold_none():
    short = Rows([np.arange(5, 500)], row_tokens=CANARY_TOKENS + 1, special=SPECIAL)
    with pytest.raises(ConfigError, match=rf"a note of {CANARY_TOKENS} tokens or more, and the run reads 0"):
        planted(short, rows_read=1000)


def test_a_secret_is_drawn_like_its_alternatives_and_asked_for_in_full():
    config = CanaryConfig(count=5)
    probes = list(canary_probes(config, seed=7, special=SPECIAL))
    assert len(set(phrases(7, config))) == 5
    assert set(phrases(7, config)).isdisjoint(phrases(8, config))
    for probe in probes:
        assert (probe.seen[probe.secret_at] == SPECIAL.mask).all()
        assert (probe.seen == SPECIAL.mask).sum() == SECRET_TOKENS
        assert len(probe.seen) == NAME_TOKENS + SECRET_TOKENS + 2
        assert probe.secrets.shape == (ALTERNATIVES + 1, SECRET_TOKENS)
        assert set(probe.secrets.flat) == set(range(5, 500)), "every ordinary token and no other"
    assert not (probes[0].secrets[1:] == probes[1].secrets[1:]).all(), "each has alternatives of its own"
