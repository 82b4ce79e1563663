"""Micro batches are halved by one rule until memory holds them."""

import errno

import pytest

from clinscale.errors import CapacityError, ConfigError, OutOfMemoryError
from clinscale.runtime import GroupConfig, halved, out_of_memory_as, run_halving


def trains(fits, tried):
    def work(size):
        tried.append(size)
        if size > fits:
            raise OutOfMemoryError("too small")
        return f"trained {size}"

    return work


@pytest.mark.parametrize(
    ("size", "fits", "tried"),
    [(18, 99, [18]), (18, 4, [18, 9, 5, 3]), (3, 1, [3, 2, 1]), (1, 1, [1])],
)
def test_a_micro_batch_is_halved_until_it_fits_and_each_size_is_told_before_it_is_tried(size, fits, tried):
    found, told = [], []
    assert run_halving(trains(fits, found), size, on_halved=told.append) == f"trained {tried[-1]}"
    assert (found, told) == (tried, tried[1:])


def test_one_row_that_does_not_fit_is_the_end_in_the_callers_words():
    tried = []
    with pytest.raises(CapacityError, match="one row is too large: too small"):
        run_halving(
            trains(0, tried),
            2,
            on_halved=lambda size: None,
            at_one=lambda error: CapacityError(f"one row is too large: {error}"),
        )
    assert tried == [2, 1]
    with pytest.raises(OutOfMemoryError, match=r"^too small$"):
        run_halving(trains(0, tried), 1, on_halved=print)


def test_other_errors_are_not_answered_with_smaller_batches():
    def work(size):
        raise CapacityError("the cluster is too small")

    with pytest.raises(CapacityError, match="the cluster is too small"):
        run_halving(work, 8, on_halved=lambda size: pytest.fail("halved"))


def test_a_trial_that_died_several_times_goes_on_with_what_as_many_halvings_leave():
    for size in range(1, 40):
        expected = size
        for times in range(8):
            assert halved(size, times) == expected
            expected = halved(expected)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "x"), RuntimeError("CUDA out of memory")])
def test_a_lack_of_memory_becomes_an_error_of_ours_and_other_errors_stay(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"no (host|GPU) memory"),
        out_of_memory_as(lambda m: f"no {m} memory"),
    ):
        raise error
    with pytest.raises(OSError, match="full"), out_of_memory_as(str):
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("name", ["max_failures", "max_preemption_failures", "gpus_per_worker"])
def test_nothing_of_a_group_is_negative(name):
    with pytest.raises(ConfigError, match=name):
        GroupConfig.parse({name: -1}, source="test")
