"""Searches are compared over seeds, with what was asked of each ratio beside it."""

import pytest

from clinscale.bench.search import bench_search
from clinscale.errors import ConfigError


def test_the_document_names_every_ratio_and_what_was_asked_of_it(table):
    record = bench_search(table=table, seeds=3, noop_trials=0)
    assert set(record.ratios) == {"random", "stock_asha", "one_epoch_top_k", "warm_start"}
    for found in record.ratios.values():
        assert found.asked >= 1
        assert found.median is None or found.median > 0
        assert list(found.plain()) == ["median", "min", "max", "pooled", "low", "high", "asked"]
    assert list(record.plain()) == ["what", "machine", "versions", "load", "equal", "ratios", "details"]
    reached = record.details["tasks"]["a"]["reached"]
    assert {"ours", "warm", "random", "qmc", "grid", "stock_asha", "one_epoch_top_k"} <= reached.keys()
    assert reached["warm"] == 3
    with pytest.raises(ConfigError, match="seeds must be at least 2"):
        bench_search(table=table, seeds=1)
