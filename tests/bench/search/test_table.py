"""A recorded table is real, whole and can be recorded again."""

from pathlib import Path

import pytest

from clinscale.bench.search import table as search_table
from clinscale.bench.search.replay import Task
from clinscale.bench.search.table import SPACE, Table
from clinscale.errors import DataError
from clinscale.synthetic import write_demo_data

RECORDED = Path(__file__).with_name("table.json.gz")


def test_a_table_is_read_as_it_was_written(table):
    read = Table.read(table)
    assert len(read.params) == 64
    assert set(read.curves) == {"a", "b", "c"}
    read.write(table.with_name("again.json.gz"))
    assert table.with_name("again.json.gz").read_bytes() == table.read_bytes()
    with pytest.raises(DataError, match="does not exist"):
        Table.read(table.with_name("nowhere.json.gz"))


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
    asked = search_table.TASKS["entities_36_notes"]
    write_demo_data(search_table._data_folder(str(tmp_path), asked), scale=asked["scale"], seed=asked["seed"])
    point = {**SPACE["first_trials"][0], "batch_size": 16}
    curve = search_table._curve(str(tmp_path), base_models["longformer"], "entities_36_notes", point)
    assert len(curve.value) == len(curve.seconds) == 6
    assert all(0 <= value <= 1 for value in curve.value)
    assert min(curve.seconds) > 0
