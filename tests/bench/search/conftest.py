"""A small table whose best settings are known."""

import math
import random

import pytest

from clinscale.bench.search.table import SPACE, Curve, Table
from clinscale.sweep import SearchSpace


@pytest.fixture
def table(tmp_path):
    """An invented table of three tasks with one clear best rate each."""
    space = SearchSpace.parse(SPACE, source="test")
    params = space.quasi_random(64)
    rng = random.Random(0)

    def curve(point, best):
        top = 0.9 - abs(math.log10(point["optimizer.learning_rate"] / best)) / 4 + rng.gauss(0, 0.002)
        return Curve(tuple(top * (1 - 0.5**epoch) for epoch in range(1, 7)), (1.0,) * 6)

    curves = {
        name: tuple(curve(point, best) for point in params)
        for name, best in (("a", 1e-3), ("b", 2e-3), ("c", 3e-3))
    }
    made = Table(space, tuple(params), curves)
    made.write(tmp_path / "table.json.gz")
    return tmp_path / "table.json.gz"
