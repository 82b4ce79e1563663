"""A record prints the names and the order that people's scripts read."""

import dataclasses
import json

import pytest

from clinscale.bench.record import BenchRecord, Machine, PeakMemory, Ratio, Surroundings
from clinscale.bench.search.compare import _SearchRecord
from clinscale.cli.bench_run import people_of

HEAD = Surroundings(
    "loading",
    Machine(processor="x", cpus=2, threads=1, device="cpu", system="Linux"),
    {"python": "3.12", "torch": "2"},
    (0.5, 0.25, 0.0),
)
HEAD_JSON = (
    '"what": "loading", "machine": {"processor": "x", "cpus": 2, "threads": 1, "device": "cpu", "system": "Linux"}, '
    '"versions": {"python": "3.12", "torch": "2"}, "load": [0.5, 0.25, 0.0], '
)
RATIO = Ratio(2.0, 1.0, None, 3.5)
RATIO_JSON = '{"median": 2.0, "min": 1.0, "max": null, "asked": 3.5}'
WHOLE = BenchRecord(
    surroundings=HEAD,
    ratios={"csv": RATIO},
    at_most=("csv",),
    mb_per_s={"csv": {"a": 1.0, "b": 2.0}},
    memory={"noteevents": PeakMemory(1_000_000, 2_000_000, 3_000_000, 4_000_000)},
    per_s={"csv": {"a": {"tokens": 1.0}, "b": {"tokens": 2.0}}},
    details={"csv": {"bytes": 7}},
)


def test_a_record_prints_what_its_bench_has_in_one_order():
    assert json.dumps(WHOLE.plain()) == (
        f'{{{HEAD_JSON}"ratios": {{"csv": {RATIO_JSON}}}, "at_most": ["csv"], "equal": true, '
        '"mb_per_s": {"csv": {"a": 1.0, "b": 2.0}}, "memory": {"noteevents": {"small_bytes": 1000000, '
        '"peak_small_bytes": 2000000, "large_bytes": 3000000, "peak_large_bytes": 4000000}}, '
        '"per_s": {"csv": {"a": {"tokens": 1.0}, "b": {"tokens": 2.0}}}, "details": {"csv": {"bytes": 7}}}'
    )


def test_a_record_leaves_out_what_its_bench_does_not_have():
    record = BenchRecord(surroundings=HEAD, ratios={"x": RATIO}, details={})
    assert (
        json.dumps(record.plain())
        == f'{{{HEAD_JSON}"ratios": {{"x": {RATIO_JSON}}}, "equal": true, "details": {{}}}}'
    )


def test_a_search_prints_equality_before_its_ratios_and_an_interval_before_what_was_asked():
    ratio = dataclasses.replace(RATIO, more={"pooled": 1.5, "low": None})
    record = _SearchRecord(surroundings=HEAD, ratios={"x": ratio}, details={"seeds": 3})
    assert json.dumps(record.plain()) == (
        f'{{{HEAD_JSON}"equal": true, "ratios": {{"x": {{"median": 2.0, "min": 1.0, "max": null, "pooled": 1.5, '
        '"low": null, "asked": 3.5}}, "details": {"seeds": 3}}'
    )


def test_nobody_changes_a_record():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WHOLE.ratios = {}


def test_people_see_a_table_of_ratios_and_a_sentence_for_each_memory():
    table, *sentences = people_of(WHOLE)
    assert table.title == "bench loading: ratios to the peer"
    cells = {head: [row[place] for row in table.rows] for place, head in enumerate(table.heads)}
    assert cells == {
        "ratio": ["csv"],
        "median": ["2.0000"],
        "min": ["1.0000"],
        "max": ["∞"],
        "asked": ["at most 3.5"],
        "a MB/s": ["1.0000"],
        "b MB/s": ["2.0000"],
        "a tokens/s": ["1.0000"],
        "b tokens/s": ["2.0000"],
    }
    assert sentences == [
        "noteevents: 1.0 MB streamed within 2.0 MB of memory",
        "noteevents: 3.0 MB streamed within 4.0 MB of memory",
    ]
