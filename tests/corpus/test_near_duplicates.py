"""Of notes that are almost the same the first stays; a note that shares little with others is never lost."""

import itertools
import random

import numpy as np
import pyarrow
import pyarrow.dataset
import pytest

from clinscale.corpus.near_duplicates import (
    NearDuplicatesConfig,
    band_keys,
    near_duplicates,
    near_earlier,
    signatures,
)
from clinscale.errors import ConfigError

WORDS = [f"w{number}" for number in range(3000)]


def note(seed, length=300):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(text, words):
    """`text` with its last `words` words replaced: nearly all shingles but the last stay."""
    kept = text.split()
    return " ".join([*kept[: len(kept) - words], *(f"changed{number}" for number in range(words))])


def dropped(texts, tmp_path, **settings):
    config = NearDuplicatesConfig(**settings)
    found = signatures(texts, config)
    table = pyarrow.table(
        {
            "document": range(len(texts)),
            "bands": pyarrow.array(list(band_keys(found, config)), pyarrow.list_(pyarrow.uint64())),
            "signature": [row.astype("<u4").tobytes() for row in found],
        }
    )
    numbers = near_duplicates(pyarrow.dataset.dataset(table), config, scratch=str(tmp_path))
    return numbers.tolist()


def jaccard(one, other, size=5):
    one, other = (
        {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
        for words in (one.lower().split(), other.lower().split())
    )
    return len(one & other) / len(one | other)


def test_the_first_of_each_group_stays_and_others_are_left_alone(tmp_path):
    texts = [note(0), note(1), changed(note(0), 5), note(2), changed(note(0), 8), changed(note(1), 3)]
    assert dropped(texts, tmp_path) == [2, 4, 5]
    assert dropped(texts[:2] + texts[3:4], tmp_path) == []
    assert dropped([note(0)], tmp_path) == []


def test_case_and_white_space_do_not_hide_a_copy(tmp_path):
    assert dropped([note(0), note(0).upper().replace(" ", "\n  ")], tmp_path) == [1]


def test_a_note_stays_that_is_near_to_a_dropped_one_only(tmp_path):
    chain = [note(0)]
    for step in range(1, 4):  # each shares 95 % with the one before, the last less than 90 % with the first
        words = chain[-1].split()
        words[step * 60 : step * 60 + 4] = [f"new{step}{number}" for number in range(4)]
        chain.append(" ".join(words))
    assert jaccard(chain[0], chain[1]) > 0.94
    assert jaccard(chain[0], chain[3]) < 0.86
    found = dropped(chain, tmp_path)
    assert 1 in found
    assert 3 not in found or 2 not in found


def test_pairs_above_the_threshold_are_found_and_those_well_below_are_not(tmp_path):
    """Against exact Jaccard similarity; the estimate of 128 hashes has a standard error of 0.03."""
    above = below = missed = wrong = 0
    for words in (2, 4, 40, 80):
        pairs = [(note(seed), changed(note(seed), words)) for seed in range(40)]
        gone = dropped([*itertools.chain(*pairs)], tmp_path)
        assert [number for number in gone if number % 2 == 0] == [], (
            "only the second of a pair is like another note"
        )
        for number, pair in enumerate(pairs):
            exact, found = jaccard(*pair), 2 * number + 1 in gone
            if exact > 0.96:
                above, missed = above + 1, missed + (not found)
            if exact < 0.8:
                below, wrong = below + 1, wrong + found
    assert above >= 40
    assert below >= 40
    assert missed == 0
    assert wrong == 0


def test_signatures_are_the_same_on_every_machine():
    """As rensa 0.5.0 computes them: a build that is resumed elsewhere must find the same duplicates."""
    found = signatures(["chest pain since two days and nausea"], NearDuplicatesConfig())
    assert found.dtype == np.uint32
    assert found.shape == (1, 128)
    assert int(band_keys(found, NearDuplicatesConfig())[0, 0]) == 13257505420919571064


@pytest.mark.parametrize(("threshold", "rows"), [(0.95, 16), (0.9, 8), (0.7, 4), (0.4, 2)])
def test_bands_are_as_long_as_the_threshold_allows(threshold, rows):
    assert NearDuplicatesConfig(threshold=threshold).rows_per_band == rows


def test_a_signature_that_bands_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="multiple of 16, got 100"):
        NearDuplicatesConfig(num_perm=100)


def test_versions_of_a_text_are_counted_across_sides_and_copies_are_not():
    """A changed date, another name here and there, an addendum; what is as near within a side is none."""
    config, first = NearDuplicatesConfig(threshold=0.7), note(0)
    words = first.split()
    dated = " ".join([*words[:150], "2101-04-05", *words[151:]])
    surrogates = " ".join("Roe" if at % 60 == 7 else word for at, word in enumerate(words))
    addendum = f"{first} {note(9, 60)}"
    others = [note(seed) for seed in range(1, 40)]
    assert near_earlier([[first, *others], [dated, note(50)], [surrogates, addendum, note(51)]], config) == [
        0,
        1,
        2,
    ]
    assert near_earlier([[first, dated], [first, first.upper().replace(" ", "\n")], [note(52)]], config) == [
        0,
        0,
        0,
    ]
    assert near_earlier([[], [first], []], config) == [0, 0, 0]
