"""Throughput under faults: when they are due, and what is refused; the measurement itself takes minutes."""

import itertools
import json
import random
from collections import Counter

import pytest

from clinscale.bench import bench_kept
from clinscale.bench.faults.throughput import Kept, KeptRecord, moments
from clinscale.bench.measure import surroundings
from clinscale.errors import ConfigError


def test_each_share_of_the_time_has_one_fault_at_a_moment_that_the_seed_chooses():
    due = list(moments(600, 2, random.Random(1)))
    assert [int(at_s // 30) for at_s in due] == [*range(20)]
    assert due == list(itertools.islice(moments(None, 2, random.Random(1)), 20))
    assert due != list(moments(600, 2, random.Random(2)))
    assert list(moments(20, 2, random.Random(1))) == [], "a rate is not exceeded in a part of a share"


def test_work_that_is_done_half_as_fast_has_kept_half():
    faults = Counter({"train worker killed": 2, "driver killed": 1})
    kept = Kept("pretraining, steps", faults, 8.0, 4.0, 0.95)
    assert (kept.row()["kept"], kept.row()["asked"]) == ("50.0%", "95%")
    assert kept.row()["faults"] == "2 x train worker killed, 1 x driver killed"
    record = KeptRecord(surroundings("faults", "cpu"), 0, 2.0, (kept,))
    [result] = json.loads(json.dumps(record.plain()))["results"]
    assert (result["kept"], result["faults"]) == (0.5, dict(faults))


def test_a_kind_of_fault_that_nobody_knows_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="got earthquake"):
        bench_kept(minutes=1, only=["earthquake"])
