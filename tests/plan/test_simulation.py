"""A simulated run agrees with what is known in closed form, and with the group that it simulates."""

import random
import statistics
from dataclasses import replace

import pytest

from clinscale.plan.simulation import Fleet, Spread, Work, daly_s, run_once, search_interval

FLEET = Fleet(least=4, most=4, losses_per_device_s=0.0, replace_s=1.0, restart_s=100.0)
WORK = Work(total_steps=1000, step_s=lambda workers: 40 / workers, stall_s=5.0, write_s=0.0)


def ending(fleet=FLEET, work=WORK, every_steps=100, seed=0):
    return run_once(fleet, work, every_steps, random.Random(seed))


def test_without_losses_it_takes_its_steps_one_start_and_its_stalls():
    found = ending()
    assert found.seconds == pytest.approx(100 + 1000 * 10 + 10 * 5)
    assert found.device_s == pytest.approx(4 * found.seconds)
    assert (found.losses, found.starts, found.repeated_steps) == (0, 1, 0)


def test_few_losses_cost_half_an_interval_and_a_restart_each():
    fleet = replace(FLEET, losses_per_device_s=1 / 40_000)  # one in 10,000 s of the group; replaced at once
    ends = [ending(fleet, seed=seed) for seed in range(400)]
    mean_s = statistics.fmean(one.seconds for one in ends)
    losses = statistics.fmean(one.losses for one in ends)
    assert mean_s == pytest.approx(10_150 + losses * (100 + 1050 / 2), rel=0.03)
    assert statistics.fmean(one.repeated_steps for one in ends) == pytest.approx(losses * 52, rel=0.15)


def test_an_elastic_group_goes_on_with_fewer_where_a_fixed_one_waits():
    scarce = replace(FLEET, losses_per_device_s=1 / 40_000, replace_s=5000.0)
    fixed, elastic = (
        statistics.fmean(ending(one, seed=seed).seconds for seed in range(200))
        for one in (scarce, replace(scarce, least=1))
    )
    assert elastic < fixed


def test_a_checkpoint_that_is_not_written_yet_is_not_gone_on_from():
    fleet = replace(FLEET, losses_per_device_s=1 / 40_000)
    quick, slow = (
        statistics.fmean(
            ending(fleet, replace(WORK, write_s=write_s), seed=seed).repeated_steps for seed in range(200)
        )
        for write_s in (0.0, 900.0)
    )
    assert slow > quick


def test_the_best_interval_is_near_dalys_where_groups_stay_whole():
    fleet = replace(FLEET, losses_per_device_s=1 / 20_000)
    work = replace(WORK, total_steps=5000, stall_s=40.0)
    configured, best, formula = search_interval(fleet, work, 400)
    assert formula == round(daly_s(40.0, 5000.0) / 10)
    assert formula / 2 <= best.every_steps <= 2 * formula
    assert best.mean_days < configured.mean_days
    assert best.low_days <= best.mean_days <= best.high_days
    assert (configured, best, formula) == search_interval(fleet, work, 400)  # to the bit


def test_daly_is_young_for_short_stalls_and_bounded_for_long_ones():
    assert daly_s(1.0, 1e6) == pytest.approx((2 * 1e6) ** 0.5, rel=0.01)
    assert daly_s(1e4, 1e3) == 1e3


def test_what_never_ends_is_said_so():
    found = Spread.of(replace(FLEET, losses_per_device_s=1 / 200), WORK, 1000, seed=0)
    assert found.mean_days is None
    assert found.device_hours > 0
