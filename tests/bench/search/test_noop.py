"""What an empty trial costs is measured on both sides."""

import pytest

from clinscale.bench.search.noop import noop_ratio


@pytest.mark.slow
@pytest.mark.ray
def test_empty_trials_are_run_by_both(ray_cluster):
    found = noop_ratio(2, repeats=1)
    assert list(found.plain()) == ["median", "min", "max", "stock_s", "ours_s", "asked"]
    assert min(found.more.values()) > 0
