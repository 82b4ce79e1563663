"""The surrogate goes where ends are best, and nowhere twice."""

import math

import numpy as np

from clinscale.sweep.curves import End
from clinscale.sweep.space import SearchSpace
from clinscale.sweep.surrogate import next_point

BEST, WORST = {"a": 1e-4, "b": 0.3}, {"a": 1e-2, "b": 1.0}
RANGES = SearchSpace.of_any(
    {
        "a": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
        "b": {"type": "float", "low": 0.0, "high": 1.0},
    }
)
CHOICES = SearchSpace.of_any({key: {"type": "categorical", "choices": [1, 2, 3]} for key in ("c", "d")})


def with_prior(center):
    ranges = {key: {**one.plain(), "prior": {"center": center[key]}} for key, one in RANGES.parameters.items()}
    return SearchSpace.of_any(ranges)


def found_by(space, trials, points=None):
    points = points or RANGES.quasi_random(4)
    for number in range(len(points), trials):
        ends = [End(quality(point), 0.0) for point in points]
        points.append(next_point(space, points, ends, np.random.default_rng(number)))
    return max(map(quality, points))


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


def test_a_good_prior_helps_at_once_and_a_wrong_one_is_overcome():
    usual, good, wrong = (found_by(space, 6) for space in (RANGES, with_prior(BEST), with_prior(WORST)))
    assert good >= max(usual, wrong)
    assert found_by(with_prior(WORST), 24) > 0.89
