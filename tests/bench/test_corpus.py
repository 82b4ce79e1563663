"""Building is timed only where both sides make the same tokens."""

import gzip
import json

import pytest

from clinscale import bench
from clinscale.bench import corpus
from clinscale.errors import ClinscaleError, ConfigError

TINY = {"megabytes": 0.05, "repeats": 1}


def test_the_document_names_every_ratio_and_speed(tmp_path):
    (tmp_path / "pretrain_corpus").mkdir()
    notes = "".join(f"{json.dumps({'text': f'Note {n}: größer, aspirin {n} mg.'})}\n" for n in range(100))
    (tmp_path / "pretrain_corpus" / "articles.jsonl.gz").write_bytes(gzip.compress(notes.encode()))
    record = bench.bench_corpus(**TINY | {"megabytes": 0.001}, data=str(tmp_path))
    assert record.surroundings.what == "corpus"
    assert record.equal is True
    assert {"datasets", "tokenizers"} <= record.surroundings.versions.keys()
    assert record.ratios.keys() == {"maps", "run_mlm", "maps_duplicates_dropped"}
    for name, found in record.ratios.items():
        assert 0 < found.min <= found.median <= found.max
        assert min(record.mb_per_s[name].values()) > 0
        assert 1_000 <= record.details[name]["bytes"] < 1_100
    assert record.ratios["maps"].asked == 1.5
    assert list(record.plain())[4:] == ["ratios", "equal", "mb_per_s", "memory", "details"]
    assert record.plain()["memory"] == {}, "none was asked for"


def test_a_build_that_loses_a_token_is_never_timed(monkeypatch):
    whole = corpus._stream
    monkeypatch.setattr(corpus, "_stream", lambda shards: whole(shards)[1:])
    monkeypatch.setattr(corpus, "side_by_side", None)
    with pytest.raises(ClinscaleError, match=r"run_mlm made \d+ tokens and clinscale \d+"):
        bench.bench_corpus(**TINY)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_driver_and_workers_hold_during_a_build_is_measured(tmp_path):
    corpus._write_noteevents(tmp_path / "notes.csv", 500_000, seed=0)
    assert corpus._build_watched(str(tmp_path / "notes.csv"), str(tmp_path / "set"), str(tmp_path / "peaks")) > 10
    peaks = json.loads((tmp_path / "peaks").read_text())
    assert peaks.keys() == {"driver", "worker"}
    assert min(peaks.values()) > 20_000_000, "Python and its libraries alone need as much"


def test_invented_notes_are_copies_only_where_they_should_be():
    from itertools import islice

    notes = list(islice(corpus._endless_notes(seed=1), 1000))
    assert notes == list(islice(corpus._endless_notes(seed=1), 1000))
    assert 20 < 1000 - len(set(notes)) < 90


def test_a_folder_without_the_public_notes_is_named(tmp_path):
    with pytest.raises(ConfigError, match="must be a local folder that holds pretrain_corpus"):
        bench.bench_corpus(**TINY, data=str(tmp_path))
