"""The surrogate goes where ends are best, and nowhere twice."""

import math

import numpy as np

from clinscale.sweep.curves import End
from clinscale.sweep.space import SearchSpace
from clinscale.sweep.surrogate import next_point

RANGES = SearchSpace.of_any(
    {
        "a": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
        "b": {"type": "float", "low": 0.0, "high": 1.0},
    }
)
CHOICES = SearchSpace.of_any({key: {"type": "categorical", "choices": [1, 2, 3]} for key in ("c", "d")})


def quality(point):
    return 0.9 - (math.log10(point["a"]) + 4) ** 2 / 4 - (point["b"] - 0.3) ** 2


def test_it_finds_the_best_place_of_a_smooth_space():
    points = RANGES.quasi_random(8)
    for number in range(12):
        ends = [End(quality(point), 0.0) for point in points]
        points.append(next_point(RANGES, points, ends, np.random.default_rng(number)))
    assert max(map(quality, points[8:])) > max(max(map(quality, RANGES.quasi_random(60))), 0.89)


def test_workers_are_kept_apart_and_no_point_is_tried_twice():
    points, ends = [{"c": 1, "d": 1}, {"c": 2, "d": 2}], [End(0.9, 0.0), End(0.1, 0.0)]
    for number in range(7):
        points.append(next_point(CHOICES, points, ends, np.random.default_rng(number)))
        ends.append(None)  # under way
    assert len({tuple(point.values()) for point in points}) == 9


def test_one_that_shows_nothing_yet_and_one_that_cannot_be_trained_are_no_numbers():
    points = RANGES.quasi_random(4)
    ends = [End(0.5, 0.1), End(-math.inf, 0.0), None, End(0.5, 0.1)]
    assert set(next_point(RANGES, points, ends, np.random.default_rng(0))) == {"a", "b"}
