"""Throughput under faults: when they are due, and what is refused; the measurement itself takes minutes."""

import itertools
import random

import pytest

from clinscale.bench import bench_kept
from clinscale.bench.faults.throughput import Kept, moments
from clinscale.errors import ConfigError


def test_each_share_of_the_time_has_one_fault_at_a_moment_that_the_seed_chooses():
    due = list(moments(600, 2, random.Random(1)))
    assert [int(at_s // 30) for at_s in due] == [*range(20)]
    assert due == list(itertools.islice(moments(None, 2, random.Random(1)), 20))
    assert due != list(moments(600, 2, random.Random(2)))
    assert list(moments(20, 2, random.Random(1))) == [], "a rate is not exceeded in a part of a share"


def test_work_that_is_done_half_as_fast_has_kept_half():
    row = Kept("pretraining, steps", {"train worker killed": 2, "driver killed": 1}, 8.0, 4.0, 0.95).row()
    assert (row["kept"], row["asked"]) == ("50.0%", "95%")
    assert row["faults"] == "2 x train worker killed, 1 x driver killed"


def test_a_kind_of_fault_that_nobody_knows_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="got earthquake"):
        bench_kept(minutes=1, only=["earthquake"])
