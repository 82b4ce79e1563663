"""Items through the processes of a real Ray: in order, with our own errors as they were raised, and no endless try."""

import os

import pytest

from clinscale.errors import ClusterError, DataError
from clinscale.runtime import stream

pytestmark = pytest.mark.ray

OPTIONS = {"read": {"num_cpus": 0}, "do": {"num_cpus": 1}}


def numbers():
    yield from range(12)


def then_a_fault():
    yield 1
    raise DataError("notes.csv row 2 is bad")


def double():
    return lambda item: 2 * item


def fail_of_ours():
    def work(item):
        raise DataError(f"item {item} is bad")

    return work


def fail_otherwise():
    def work(item):
        raise ValueError("a text that may quote a note")

    return work


def die():
    return lambda item: os._exit(9)


@pytest.mark.parametrize("num_actors", [None, 2])
def test_items_come_out_as_they_went_in(ray_cluster, num_actors):
    found = stream([numbers, numbers], double, num_actors=num_actors, in_order=True, **OPTIONS)
    assert list(found) == [2 * number for number in [*range(12), *range(12)]]


@pytest.mark.parametrize(
    ("source", "work", "num_actors", "error", "message"),
    [
        (then_a_fault, double, None, DataError, "^notes.csv row 2 is bad$"),
        (numbers, fail_of_ours, None, DataError, "^item 0 is bad$"),
        (numbers, fail_otherwise, 1, ClusterError, r"a process of the cluster failed \(ValueError\); look at"),
        (numbers, die, 1, ClusterError, r"a process of the cluster failed \(.*Error\); run"),
    ],
    ids=["source", "work", "another error", "dies"],
)
def test_what_fails_is_told(ray_cluster, source, work, num_actors, error, message):
    with pytest.raises(error, match=message) as caught:
        list(stream([source], work, num_actors=num_actors, in_order=True, **OPTIONS))
    assert "quote" not in str(caught.value)
