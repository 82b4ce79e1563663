"""Extrapolated ends say what trials that went on have taught, and how little is known before."""

from dataclasses import replace

import pytest

from clinscale.sweep.curves import extrapolate
from clinscale.sweep.ledger import Epoch, Look, Trial
from clinscale.units import Duration

PLACES = [1, 3, 9]


def trial(number, rate, *values, state="paused"):
    epochs = tuple(Epoch(epoch, value, 1.0) for epoch, value in enumerate(values, 1))
    return Trial(0, number, {"rate": rate}, "sampler", 0, epochs=epochs, state=state)


def crossing(number, rate, epochs):
    """A high rate is ahead at once and stays there; a low one overtakes it."""
    values = [0.5 + 0.3 * rate + (1 - rate) * 0.1 * epoch for epoch in range(epochs)]
    return trial(number, rate, *values, state="complete" if epochs == 9 else "paused")


def test_slow_starters_are_recognised_by_their_settings():
    seen = [crossing(number, number / 12, 9) for number in range(12)]
    slow, fast = crossing(12, 0.05, 1), crossing(13, 0.95, 1)
    ends = extrapolate([*seen, slow, fast], PLACES).now
    assert slow.objective < fast.objective
    assert ends[12].mean > ends[13].mean + ends[12].sd
    assert ends[12].mean == pytest.approx(crossing(12, 0.05, 9).objective, abs=0.1)


def test_an_end_that_was_seen_is_known_and_others_are_about_what_they_are():
    trials = [trial(number, 0.5, 0.1 * number) for number in range(5)]
    ends = extrapolate(trials, PLACES).now
    assert all(end.sd > 0 for end in ends.values())
    assert sorted(ends, key=lambda number: ends[number].mean) == [0, 1, 2, 3, 4]
    done = trial(5, 0.5, *[0.7] * 9, state="complete")
    assert (extrapolate([*trials, done], PLACES).now[5].mean, extrapolate([done], PLACES).now[5].sd) == (0.7, 0.0)


def test_what_failed_or_has_shown_nothing_has_no_end():
    failed = trial(0, 0.5, 0.3, state="failed")
    assert extrapolate([failed, trial(1, 0.5, state="running")], PLACES).now == {}
    assert extrapolate([], PLACES).now == {}


def test_looks_inside_the_first_epoch_are_rungs_and_one_without_a_score_costs_nobody_his_end():
    tenth, never = Duration(0.1, "epochs"), Duration(5000.0, "steps")
    looks = [(Look(tenth, 0.1, score, 1.0),) for score in (0.2, 0.4, None)]
    trials = [replace(trial(number, 0.5), looks=look) for number, look in enumerate(looks)]
    trials[2] = replace(trials[2], epochs=trial(2, 0.5, 0.6).epochs)
    ends = extrapolate(trials, [tenth, never, 1, 3]).now
    assert ends[0].mean < ends[1].mean
    assert ends[2].mean >= 0.6
    early = trial(3, 0.5, 0.5, state="complete")  # its setting has fewer epochs
    assert extrapolate([early], [3, 9]).now[3].mean == 0.5


def test_a_whole_number_among_others_has_its_place_in_their_order():
    """A first trial may say 0 where the others are 0.1 and 0.2."""
    rates = [0.5 * number / 11 for number in range(12)]
    seen = [crossing(number, rate, 9) for number, rate in enumerate(rates)]
    as_given = [replace(seen[0], params={"rate": 0}), *seen[1:]]
    new = [crossing(12, 0.02, 1), crossing(13, 0.48, 1)]
    expected, found = (extrapolate([*trials, *new], PLACES).now for trials in (seen, as_given))
    assert {number: end.mean for number, end in found.items()} == {n: e.mean for n, e in expected.items()}
