"""Which of the finalists wins."""

import dataclasses

import pytest

from clinscale.sweep.choose import Candidate, choose_winner, flat_remark
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
    assert confirmed.finalist().dev == {"0": 0.8, "1": 0.7}
    assert confirmed.finalist().deviation == pytest.approx(0.0707, abs=1e-4)


def test_the_best_seed_of_the_winner_is_shipped_and_its_mean_is_told():
    winner = candidate("winner", 0.7, 0.9, 0.9, 0.6)
    assert winner.best_seed is winner.seeds[1]
    assert winner.mean == winner.finalist().mean == pytest.approx(0.775)


@pytest.mark.parametrize(
    ("scores", "flat"),
    [
        ((0.5, 0.5, 0.5), True),
        ((0.5, 0.508, 0.5), True),
        ((0.5, 0.5, 0.52), False),
        ((0.5, 0.5), False),
        ((1.0, 1.0, 1.0), False),
        ((), False),
    ],
)
def test_scores_are_flat_when_no_trial_is_better_by_one_example(scores, flat):
    trials = [*candidate("", *scores).seeds, Trial(0, 9, {}, "sampler", 0)]
    remark = flat_remark(trials, "accuracy", 100)
    assert ("is flat at" in remark and f"over all {len(scores)} trials" in remark and "longer" in remark) == flat
    assert bool(remark) == flat


def test_a_confirmation_tells_nothing_of_a_flat_search():
    trials = [dataclasses.replace(one, origin="confirm") for one in candidate("", 0.5, 0.5, 0.5).seeds]
    assert flat_remark(trials, "accuracy", 100) == ""
