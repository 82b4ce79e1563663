"""What a sweep does next is a function of its ledger, so it is tested as one."""

import math
from dataclasses import replace

import pytest

from clinscale.sweep.ledger import Closed, Epoch, Look, Trial
from clinscale.sweep.policy import (
    Budget,
    Confirm,
    Finish,
    Halving,
    Resume,
    Search,
    Start,
    Wait,
    expected_gain,
    finalists,
    gain_per_device_hour,
    goes_on,
    next_move,
    to_close,
)
from clinscale.sweep.remarks import look_remarks, search_remarks
from clinscale.units import Duration

ASHA = Halving("asha", 1, 3)
EPOCHS = 9


def trial(number, *values, state="paused", study=0, seconds=10.0, origin="sampler", **changes):
    epochs = tuple(Epoch(epoch, value, seconds) for epoch, value in enumerate(values, 1))
    return Trial(study, number, {"x": number}, origin, 0, epochs=epochs, state=state, **changes)


def move(*trials, budget=None, halving=ASHA, studies=1, **options):
    states = [Search([t for t in trials if t.study == index], EPOCHS) for index in range(studies)]
    return next_move(states, budget or Budget(trials=99), halving, **options)


@pytest.mark.parametrize(
    ("halving", "epochs", "rungs"),
    [
        (Halving("asha", 1, 3), 9, [1, 3]),
        (Halving("asha", 2, 3), 9, [2, 6]),
        (Halving("asha", 1, 4), 16, [1, 4]),
        (Halving("asha", 4, 2), 4, []),
        (Halving(), 27, [1, 3, 9]),  # about 4 % of a training
        (Halving(), 54, [2, 6, 18]),
        (Halving(), 6, [1, 3]),
    ],
)
def test_rungs(halving, epochs, rungs):
    assert halving.rungs(epochs) == rungs


def early(text, factor=3, scheduler="asha"):
    return Halving(scheduler, reduction_factor=factor, grace=Duration.parse(text))


@pytest.mark.parametrize(
    ("halving", "epochs", "stops"),
    [
        (early("0.1epochs"), 9, ["0.1epochs", "0.3epochs", 1, 3, 8]),
        (early("0.1epochs", 2), 6, ["0.1epochs", "0.2epochs", "0.4epochs", 1, 2, 3]),
        (early("0.3epochs", 2), 6, ["0.3epochs", 1, 2, 5]),
        (early("0.6epochs", 2), 3, [1, 2]),
        (early("1.5epochs"), 9, [2, 5]),
        (early("0.1epochs"), 1, ["0.1epochs", "0.3epochs"]),
        (early("0.1epochs", scheduler="none"), 9, []),
    ],
)
def test_rungs_inside_the_first_epoch_are_looks_and_later_ones_whole_epochs(halving, epochs, stops):
    if halving.scheduler != "none":
        assert [one if isinstance(one, int) else str(one) for one in halving.stops(epochs)] == stops
        assert halving.rungs(epochs) == [one for one in stops if isinstance(one, int)]
        hyper = early(str(halving.grace), halving.reduction_factor, "hyperband")
        assert hyper.stops(epochs, 1) == halving.stops(epochs)[1:]
    assert [str(one) for one in halving.looks] == [one for one in stops if not isinstance(one, int)]


def test_rungs_in_steps_are_looks_until_the_epoch_is_over_then_epochs():
    halving = early("50steps")
    assert [str(one) for one in halving.looks[:3]] == ["50steps", "150steps", "450steps"]
    assert halving.rungs(9) == [1, 3]
    short = trial(0, 0.1, state="running")
    short = replace(short, epochs=(Epoch(1, 0.1, 9.0, {"step": 30.0}),))
    assert goes_on(short, [short], halving, EPOCHS), "nobody ends before 50 steps"
    long = replace(short, epochs=(Epoch(1, 0.1, 9.0, {"step": 60.0}),))
    assert not goes_on(long, [long], halving, EPOCHS)


def looking(number, *values, state="paused", **metrics):
    """A trial with looks at 0.1 and 0.3 epochs, and whole epochs after them."""
    places = [Duration(0.1, "epochs"), Duration(0.3, "epochs")]
    looks = tuple(Look(at, at.value, value, 10.0, metrics) for at, value in zip(places, values[:2], strict=False))
    return replace(trial(number, *values[2:], state=state), looks=looks)


def test_looks_are_compared_with_the_same_look_alone():
    halving = early("0.1epochs")
    whole = looking(9, 0.9, 0.9, 0.2)  # a high look, and what the whole split says
    low, mid, high = looking(0, 0.1), looking(1, 0.2), looking(2, 0.3, state="running")
    assert goes_on(high, [low, mid, high], halving, EPOCHS)
    assert not goes_on(mid, [low, mid, high], halving, EPOCHS)
    assert not goes_on(high, [low, high], halving, EPOCHS), "two are not three"
    assert move(low, mid, looking(2, 0.15), budget=Budget(trials=3), halving=halving) == Resume(mid)
    assert finalists([whole, low, mid]) == [whole], "who has only looks has no score of the split"
    unscored = looking(3, None, state="running")
    assert goes_on(unscored, [unscored, low, mid], halving, EPOCHS), "a look without a score judges nobody"
    median = early("0.1epochs", scheduler="median")
    assert not goes_on(looking(4, 0.1, state="running"), [looking(n, 0.2 + n) for n in range(3)], median, EPOCHS)


def test_who_leads_by_looks_alone_is_trained_to_its_end_and_paid_for():
    halving = early("0.1epochs")
    trials = [looking(0, 0.1), looking(1, 0.2, 0.1), looking(2, 0.3)]
    assert move(*trials, budget=Budget(trials=3), halving=halving) == Resume(trials[2])  # the best third
    trials = [looking(0, 0.1), looking(1, 0.2, 0.1)]
    assert move(*trials, budget=Budget(trials=2), halving=halving) == Resume(trials[1]), "the furthest look"
    # 20 s for 0.3 epochs: the other 8.7 are 580 s
    assert isinstance(
        move(*trials, budget=Budget(device_seconds=650.0, used_device_seconds=30.0), halving=halving), Start
    )
    assert move(*trials, budget=Budget(device_seconds=600.0, used_device_seconds=30.0), halving=halving) == Resume(
        trials[1]
    )


def test_expected_gain_never_mixes_looks_with_the_whole_split():
    assert expected_gain([looking(n, 0.1 * n) for n in range(4)]) == expected_gain(
        [trial(n, 0.1 * n) for n in range(4)]
    )
    assert expected_gain([looking(0, 0.9), looking(1, 0.1, 0.1)]) < math.inf
    whole = [looking(n, 0.9, 0.9, 0.1 * n) for n in range(4)]
    alone = expected_gain([trial(n, 0.1 * n) for n in range(4)])
    assert expected_gain([*whole, looking(5, 1.0)]) == pytest.approx(alone * 5 / 6), "of five trials, four went on"


@pytest.mark.parametrize(
    ("trials", "grace", "said"),
    [
        ([looking(0, 0.1, **{"perf/train_s": 10.0, "perf/look_s": 0.4, "step": 1.0})], "0.1epochs", []),
        ([looking(0, 0.1, **{"perf/train_s": 10.0, "perf/look_s": 0.6})], "0.1epochs", ["cost more than 5%"]),
        (
            [looking(0, 0.1, **{"perf/train_s": 10.0, "perf/look_s": 0.4, "perf/checkpoint_s": 0.2})],
            "0.1epochs",
            ["cost more than 5%"],
        ),
        (
            [
                Trial(
                    0, 0, {}, "first", 0, looks=(Look(Duration(0.1, "epochs"), 0.333333, 0.1, 1.0, {"step": 1.0}),)
                )
            ],
            "0.1epochs",
            ["the look at 0.1epochs comes after 1 whole step, which is 0.33 of an epoch"],
        ),
        (
            [Trial(0, 0, {}, "first", 0, looks=(Look(Duration(0.1, "epochs"), 0.1, None, 1.0, {}, "f1 is not"),))],
            "0.1epochs",
            ["f1 is not, so that trials are not compared there"],
        ),
        ([trial(0, 0.5)], "100steps", ["its first epoch ends before 100steps"]),
        ([trial(0, 0.5)], "2epochs", []),
    ],
)
def test_what_became_of_looks_is_said(trials, grace, said):
    found = look_remarks(trials, early(grace))
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_a_trial_that_failed_takes_no_place_on_a_rung():
    mid, failed = trial(1, 0.2), trial(2, 0.3, state="failed")
    assert move(trial(0, 0.1), mid, failed, trial(3, 0.15)) == Resume(mid)


def test_the_median_is_of_three_others():
    low = trial(2, 0.1, state="running")
    assert goes_on(low, [trial(0, 0.5), trial(1, 0.6), low], Halving("median", 1, 3), EPOCHS)
    assert not goes_on(low, [trial(0, 0.5), trial(1, 0.6), low, trial(3, 0.4)], Halving("median", 1, 3), EPOCHS)


def test_what_is_confirmed_already_is_kept_back_no_more():
    whole = trial(0, *[0.5] * EPOCHS, state="complete")
    again = trial(1, *[0.5] * EPOCHS, state="complete", origin="confirm", of=0)
    left = Budget(device_seconds=400.0, used_device_seconds=200.0)  # for one more trial and the third seed
    assert move(whole, again, budget=left, confirm_seeds=3) == Start(0)


def test_the_best_third_of_a_rung_goes_on():
    low, mid = trial(0, 0.1), trial(1, 0.2)
    assert move(low, mid, budget=Budget(trials=3)) == Start(0)
    high = trial(2, 0.3, state="running")
    assert goes_on(high, [low, mid, high], ASHA, EPOCHS)
    assert not goes_on(trial(2, 0.15, state="running"), [low, mid, trial(2, 0.15)], ASHA, EPOCHS)
    # the third to come lets the best of the others go on
    assert move(low, mid, trial(2, 0.15)) == Resume(mid)


def test_between_rungs_nothing_is_asked():
    assert goes_on(trial(0, 0.1, 0.1, state="running"), [trial(1, 0.9, 0.9, 0.9)], ASHA, EPOCHS)


def test_trials_of_one_score_are_not_told_apart_by_the_order_in_which_they_came():
    """At the first look most models find no entity; the one that finds some by chance is not the best third."""
    alike = [trial(number, 0.0) for number in range(3)]
    chance = trial(3, 0.02)
    worse = trial(4, -1.0)
    for one in (*alike, chance):
        assert goes_on(one, [*alike, chance, worse], ASHA, EPOCHS)
    assert not goes_on(worse, [*alike, chance, worse], ASHA, EPOCHS)
    apart = [trial(5, 0.3), trial(6, 0.4), trial(7, 0.5), trial(8, 0.6)]
    assert not goes_on(alike[0], [*alike, *apart], ASHA, EPOCHS), "most can be told apart"
    assert not goes_on(apart[0], apart[:2], ASHA, EPOCHS)


def test_what_is_furthest_is_promoted_first():
    rung_1 = [trial(n, 0.1 * n) for n in range(6)]
    rung_3 = [trial(n, 0.9, 0.9, 0.9 + n / 100) for n in range(6, 9)]
    assert move(*rung_1, *rung_3) == Resume(rung_3[-1])


def test_a_failed_trial_counts_for_nothing():
    failed = trial(2, 0.9, state="failed", reason="not_a_number")
    assert move(trial(0, 0.1), trial(1, 0.2), failed) == Start(0)


def test_lost_trials_come_first():
    lost = trial(0, state="lost")
    assert move(lost, trial(1, 0.3), trial(2, 0.2), trial(3, 0.1)) == Resume(lost)


def test_the_leader_is_trained_to_its_end_before_the_sweep_is():
    budget = Budget(trials=2)
    leader = trial(1, 0.5)
    assert move(trial(0, 0.4), leader, budget=budget) == Resume(leader)
    done = trial(1, *[0.5] * EPOCHS, state="complete")
    assert isinstance(move(trial(0, 0.4), done, budget=budget), Finish)
    assert isinstance(move(trial(0, 0.4, state="running"), done, budget=budget), Wait)


def test_finalists_are_confirmed_under_other_seeds():
    ended = [trial(n, *[value] * EPOCHS, state="complete") for n, value in enumerate([0.1, 0.5, 0.3, 0.4])]
    budget = Budget(trials=4)
    assert [one.number for one in finalists(ended)] == [1, 3, 0]
    seen = []
    while isinstance(step := move(*ended, budget=budget, confirm_seeds=3), Confirm):
        seen.append((step.trial.number, step.seed))
        again = trial(len(ended), 0.4, state="complete", origin="confirm", of=step.trial.number)
        ended.append(Trial(**{**again.__dict__, "seed": step.seed}))
    assert seen == [(1, 1), (1, 2), (3, 1), (3, 2), (0, 1), (0, 2)]
    assert isinstance(step, Finish)


@pytest.mark.parametrize(
    ("used", "kind"),
    [(0.0, Start), (800.0, Start), (950.0, Resume), (1000.0, Finish)],
)
def test_a_budget_of_time_keeps_enough_to_train_the_leader(used, kind):
    # the leader lacks 8 epochs of 10 s, another trial costs 10 s
    trials = [trial(0, 0.4), trial(1, 0.5)]
    assert isinstance(move(*trials, budget=Budget(device_seconds=1000.0, used_device_seconds=used)), kind)


def test_the_budget_moves_to_where_the_gain_is():
    flat = [trial(n, 0.5 + n / 1000, study=0) for n in range(4)]
    rising = [trial(n, 0.3 + n / 10, study=1) for n in range(4)]
    none = Halving("none")
    ended = [Trial(**{**t.__dict__, "state": "complete"}) for t in (*flat, *rising)]
    assert move(*ended, studies=2, halving=none) == Start(1)
    dear = [Trial(**{**t.__dict__, "epochs": (Epoch(1, t.objective, 1e6),)}) for t in ended if t.study == 1]
    assert move(*ended[:4], *dear, studies=2, halving=none) == Start(0)
    assert move(*ended[:4], studies=2, halving=none) == Start(1), "each study gets a few trials first"


def rising(count, study=0, spread=1.0, seconds=3600.0, state="complete"):
    """Ended trials of an hour each, whose best scores are a hundredth apart."""
    return [trial(n, 0.5 + spread * n / 100, state=state, study=study, seconds=seconds) for n in range(count)]


@pytest.mark.parametrize(
    ("trials", "points"),
    [
        (rising(7), math.inf),  # too few to say
        (rising(9), 2 / 10),  # spacings of 1, 2 and 3 times a hundredth; one in ten is the best
        (rising(9, seconds=1800.0), 4 / 10),
        (rising(9, spread=0.0), 0.0),
        ([looking(n, 0.5 + n / 100) for n in range(9)], 0.2 * 360),  # ten seconds each
        (
            [looking(n, 0.5) for n in range(9)] + [looking(9, 0.9, 0.9, 0.9)] * 3,
            100 * 0.4 / 13 * 240,
        ),  # by the look that more share
        ([replace(one, state="failed", epochs=()) for one in rising(9)], math.inf),
    ],
)
def test_gain_is_counted_in_points_per_device_hour(trials, points):
    assert gain_per_device_hour(trials) == pytest.approx(points)


def test_a_study_that_no_longer_pays_leaves_its_budget_to_the_others():
    flat, other = rising(9, spread=0.01), rising(9, study=1)
    assert move(*flat, *other, studies=2, halving=Halving("none")) == Start(1)
    dear = [replace(one, epochs=(Epoch(1, one.objective, 1e6),)) for one in other]
    assert move(*flat, *dear, studies=2, halving=Halving("none")) == Start(0)
    assert move(*flat, *dear, studies=2, halving=Halving("none"), least_gain=0.0001) == Start(0)
    both = move(*flat, *dear, studies=2, halving=Halving("none"), least_gain=0.1)
    assert both == Finish("another trial no longer pays")
    assert move(*flat, *other, studies=2, halving=Halving("none"), least_gain=0.1) == Start(1)
    for state in ("running", "lost"):
        searches = [Search([*flat, trial(9, study=0, state=state)], EPOCHS), Search(other, EPOCHS)]
        assert to_close(searches, 0.1) == [], "who runs, or runs again, may show otherwise"
    assert to_close([Search(flat, EPOCHS), Search(other, EPOCHS)], 0.1) == [0]
    assert to_close([Search(flat, EPOCHS)], None) == []
    closed = [Search(rising(9), EPOCHS, closed=True)]
    assert to_close(closed, 0.1) == []
    assert isinstance(next_move(closed, Budget(trials=99), Halving("none"), least_gain=0.1), Finish), "for good"


def test_a_search_that_no_longer_pays_still_trains_its_leader_to_the_end():
    trials = rising(8, spread=0.0, state="pruned")
    leader = trial(8, 0.5, state="paused")
    assert move(*trials, replace(leader, epochs=(Epoch(1, 0.5001, 3600.0),)), least_gain=5.0).trial.number == 8


def test_expected_gain_falls_with_trials_and_knows_the_spread():
    few, many = [trial(n, 0.5 + n / 100) for n in range(4)], [trial(n, 0.5 + n / 100) for n in range(40)]
    assert expected_gain(few) > expected_gain(many) > 0
    assert expected_gain([trial(0, 0.5)]) == math.inf
    assert expected_gain([trial(n, 0.5) for n in range(5)]) == 0
    # exponential tails: the mean excess of the best of n + 1 over the best of n is scale / (n + 1)
    import random

    rng, scale, found = random.Random(0), 0.1, []
    for _ in range(400):
        found.append(expected_gain([trial(n, rng.expovariate(1 / scale)) for n in range(9)]))
    assert sum(found) / len(found) == pytest.approx(scale / 10, rel=0.1)


def test_a_study_whose_first_trials_all_fail_is_given_up():
    broken = [trial(n, state="failed", reason="not_a_number", study=0) for n in range(3)]
    assert move(*broken[:2], studies=2) == Start(1)
    assert move(*broken[:2], trial(0, 0.5, study=1), trial(1, 0.4, study=1), studies=2) == Start(0)
    other = [trial(n, *[0.5] * EPOCHS, state="complete", study=1) for n in range(5)]
    assert move(*broken, *other, studies=2) == Start(1)
    assert isinstance(move(*broken), Finish)


def test_a_grid_ends_when_it_is_through():
    states = [Search([trial(0, *[0.5] * EPOCHS, state="complete")], EPOCHS, num_points=1)]
    assert isinstance(next_move(states, Budget(trials=99), ASHA), Finish)


def test_the_median_stops_what_is_below_it():
    halving = Halving("median", 1, 3)
    peers = [trial(n, 0.1 * n, 0.1 * n) for n in range(5)]
    assert goes_on(trial(9, 0.0, 0.25, state="running"), peers, halving, EPOCHS)
    assert not goes_on(trial(9, 0.0, 0.15, state="running"), peers, halving, EPOCHS)


def test_hyperbands_brackets_start_at_different_rungs():
    halving = Halving("hyperband", 1, 3)
    assert [halving.bracket(n, 9) for n in range(6)] == [0, 0, 0, 1, 1, 2]
    third = trial(3, 0.0, state="running")
    assert goes_on(third, [third], halving, 9), "bracket 1 is first judged at epoch 3"
    first = trial(0, 0.9, state="running")
    assert not goes_on(first, [first], halving, 9)


def test_without_a_scheduler_all_go_to_their_end():
    assert goes_on(trial(0, 0.0, state="running"), [trial(1, 0.9)], Halving("none"), EPOCHS)


def test_a_search_that_stopped_early_says_so():
    [said] = search_remarks(rising(9), ASHA, Closed(9, 0.2, 0.5), "f1")
    assert said == (
        "the search stopped after 9 trials, as another one is expected to bring 0.2 points of f1 per device-hour, "
        "below recipe.stop_when_gain_below=0.5"
    )
    assert search_remarks(rising(9), ASHA, None, "f1") == []
