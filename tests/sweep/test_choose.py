"""Which of the finalists wins."""

import pytest

from clinscale.sweep.choose import Candidate, choose_winner
from clinscale.sweep.ledger import Epoch, Trial


def candidate(role, *scores):
    return Candidate(
        role,
        tuple(
            Trial(0, seed, {}, "sampler", seed, epochs=(Epoch(1, score, 1.0),))
            for seed, score in enumerate(scores)
        ),
    )


def test_the_highest_mean_over_seeds_wins_and_the_earlier_of_equals():
    lucky, steady, first = (
        candidate("winner", 0.9, 0.5),
        candidate("runner-up", 0.8, 0.8),
        candidate("x", 0.8, 0.8),
    )
    assert choose_winner([lucky, steady, first]) is steady


def test_one_seed_does_not_beat_the_mean_of_several():
    lucky, confirmed = candidate("winner", 0.9), candidate("runner-up", 0.8, 0.7)
    assert choose_winner([lucky, confirmed]) is confirmed
    assert confirmed.plain()["dev"] == {"0": 0.8, "1": 0.7}
    assert confirmed.plain()["deviation"] == pytest.approx(0.0707, abs=1e-4)
