import numpy as np
import pytest

from clinscale.corpus import MaskingConfig, SpecialIds
from clinscale.corpus.masking import mask_row
from clinscale.errors import ConfigError

SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=50_000)


def masked(row, masking=None, seed=0):
    return mask_row(np.array(row), np.random.default_rng(seed), masking or MaskingConfig(), SPECIAL)


def test_labels_hold_the_original_where_something_is_asked():
    row = np.random.default_rng(1).integers(5, 50_000, 4096)
    seen, labels = masked(row)
    asked = labels != -100
    assert (labels[asked] == row[asked]).all()
    assert (seen[~asked] == row[~asked]).all()


def test_shares_are_berts():
    row = np.random.default_rng(1).integers(5, 50_000, 200_000)
    seen, labels = masked(row)
    asked = labels != -100
    assert asked.mean() == pytest.approx(0.15, abs=0.004)  # 5 standard deviations
    to_mask, same = seen[asked] == SPECIAL.mask, seen[asked] == row[asked]
    assert to_mask.mean() == pytest.approx(0.8, abs=0.012)
    assert same.mean() == pytest.approx(0.1, abs=0.009)
    noise = seen[asked][~to_mask & ~same]
    assert noise.min() >= 5
    assert noise.max() > 49_000
    assert abs(np.median(noise) - 25_000) < 1500


@pytest.mark.parametrize(
    ("masking", "kinds"),
    [
        (MaskingConfig(mask_token_share=1, random_token_share=0), {"mask"}),
        (MaskingConfig(mask_token_share=0, random_token_share=1), {"random"}),
        (MaskingConfig(mask_token_share=0, random_token_share=0), {"same"}),
    ],
)
def test_extreme_shares(masking, kinds):
    row = np.full(2000, 7)
    seen, labels = masked(row, masking)
    found = {
        "mask" if token == SPECIAL.mask else "same" if token == 7 else "random" for token in seen[labels != -100]
    }
    assert found == kinds


def test_special_tokens_are_never_asked_nor_drawn():
    row = [0, *([9, 2] * 2000), 3, 2, 1, 1]
    seen, labels = masked(row, MaskingConfig(mask_fraction=0.99, mask_token_share=0, random_token_share=1))
    assert set(labels.tolist()) == {-100, 9}
    special = np.isin(row, SPECIAL.all)
    assert (seen[special] == np.array(row)[special]).all()
    assert not np.isin(seen[~special], SPECIAL.all).any()


@pytest.mark.parametrize("seed", range(20))
def test_a_row_with_any_ordinary_token_asks_for_one(seed):
    assert (masked([0, 7, 2], MaskingConfig(mask_fraction=0.01), seed)[1] == [-100, 7, -100]).all()


def test_a_row_of_special_tokens_asks_for_none():
    seen, labels = masked([0, 2, 2, 1])
    assert seen.tolist() == [0, 2, 2, 1]
    assert set(labels.tolist()) == {-100}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mask_fraction": 0}, r"mask_fraction is a share between 0 and 1, got 0\.0"),
        ({"mask_fraction": 15}, "mask_fraction"),
        ({"mask_token_share": 0.8, "random_token_share": 0.3}, "exceed 1"),
        ({"random_token_share": -0.1}, "negative"),
    ],
)
def test_impossible_shares_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        MaskingConfig(**values)
