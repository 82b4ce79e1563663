"""A replay is honest: it finds what is there, counts what was spent, and a search that fails counts with its cost."""

import math
import random
from pathlib import Path

import pytest

from clinscale.bench import search, search_table
from clinscale.bench.search import Listed, OneEpochTopK, Ours, StockRay, Task, bench_search, replay
from clinscale.bench.search_table import SPACE, Curve, Table
from clinscale.errors import ConfigError, DataError
from clinscale.sweep import SearchSpace
from clinscale.synthetic import write_demo_data

RECORDED = Path(__file__).with_name("search_table.json.gz")


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


def test_a_table_is_read_as_it_was_written(table):
    read = Table.read(table)
    assert len(read.params) == 64
    assert set(read.curves) == {"a", "b", "c"}
    read.write(table.with_name("again.json.gz"))
    assert table.with_name("again.json.gz").read_bytes() == table.read_bytes()
    with pytest.raises(DataError, match="does not exist"):
        Table.read(table.with_name("nowhere.json.gz"))


def test_a_list_costs_what_its_trials_cost(table):
    read = Table.read(table)
    task = Task(read, "a")
    [best] = task.best(1)
    # the best setting first: four workers are busy for the first epoch of four trials
    cost, reached = replay(task, Listed(iter([read.params[best], *read.params[:3]])))
    assert reached
    assert cost == pytest.approx(4 * (1.0 + search.START_S), rel=0.05)
    worst = sorted(range(64), key=lambda index: -task.regret[index])[:4]
    cost, reached = replay(task, Listed(iter([read.params[index] for index in worst])))
    assert not reached
    assert cost == pytest.approx(4 * (6.0 + search.START_S), rel=0.05)


@pytest.mark.parametrize("make", [Ours, StockRay, lambda space, seed: OneEpochTopK(space, seed, 16, 2)])
def test_every_method_comes_to_an_end_on_the_table(table, make):
    read = Table.read(table)
    task = Task(read, "b")
    cost, reached = replay(task, make(read.space, 0))
    assert cost > 0
    assert reached or cost > 6  # all that the table holds was tried


def test_top_k_trains_exactly_the_best_of_each_lot_to_their_end(table):
    read = Table.read(table)
    method = OneEpochTopK(read.space, 0, 4, 1)
    jobs = [method.next() for _ in range(4)]
    assert method.next() is None
    for value, job in zip([0.1, 0.4, 0.2, 0.3], jobs, strict=True):
        job.done = 1
        assert not method.report(job, value, 1.0)
    assert method.next() is jobs[1]


def test_the_document_names_every_ratio_and_what_was_asked_of_it(table):
    document = bench_search(table=table, seeds=3, noop_trials=0)
    assert set(document["ratios"]) == {"random", "stock_asha", "one_epoch_top_k", "warm_start"}
    for found in document["ratios"].values():
        assert found["asked"] >= 1
        assert found["median"] is None or found["median"] > 0
    reached = document["details"]["tasks"]["a"]["reached"]
    assert {"ours", "warm", "random", "qmc", "grid", "stock_asha", "one_epoch_top_k"} <= reached.keys()
    assert reached["warm"] == 3
    with pytest.raises(ConfigError, match="at least two seeds"):
        bench_search(table=table, seeds=1)


def test_the_recorded_table_holds_what_is_claimed():
    table = Table.read(RECORDED)
    assert RECORDED.stat().st_size < 500_000
    assert len(table.params) >= 128
    assert len(table.curves) == 3
    assert all(len(curve.value) == 6 for curves in table.curves.values() for curve in curves)
    assert list(table.params) == table.space.quasi_random(len(table.params)), "anybody can record it again"
    for name in table.curves:
        assert Task(table, name).regret.max() > 1


def test_a_curve_is_a_real_fine_tuning(base_models, tmp_path):
    asked = search_table.TASKS["few_entities"]
    write_demo_data(search_table._data_folder(str(tmp_path), asked), scale=asked["scale"], seed=asked["seed"])
    point = {**SPACE["first_trials"][0], "batch_size": 32}
    curve = search_table._curve(str(tmp_path), base_models["longformer"], "few_entities", point)
    assert len(curve.value) == len(curve.seconds) == 6
    assert all(0 <= value <= 1 for value in curve.value)
    assert min(curve.seconds) > 0


@pytest.mark.ray
def test_empty_trials_are_run_by_both(ray_cluster):
    found = search.noop_ratio(6, repeats=1)
    assert found["ours_s"] > 0
    assert found["stock_s"] > 0
