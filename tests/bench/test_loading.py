"""Reading is timed only where reader and script give the same, on a user's public data or on invented files."""

import dataclasses
import functools
import gzip
import json
from pathlib import Path

import pytest

from clinscale import bench
from clinscale.bench import files, loading
from clinscale.cli.bench_data import Format
from clinscale.errors import ClinscaleError, ConfigError

PUBLIC = Path("../shared/data")
TINY = {"megabytes": 0.02, "repeats": 1}


@pytest.fixture
def no_stream(monkeypatch):
    """Leaves out the part that starts processes."""
    monkeypatch.setattr(loading, "_stream_memory", lambda *arguments: None)


@pytest.mark.slow
def test_the_document_names_every_ratio_speed_and_the_memory():
    record = bench.bench_loading(**TINY, stream_megabytes=(0.5, 10.0))
    assert record.surroundings.what == "loading"
    assert record.equal is True
    assert {"pandas", "pyarrow"} <= record.surroundings.versions.keys()
    for name in bench.FORMATS:
        ratio, speed = record.ratios[name], record.mb_per_s[name]
        assert 0 < ratio.min <= ratio.median <= ratio.max
        assert ratio.asked == 0.5
        assert min(speed["a"], speed["b"]) > 0
        assert record.details[name]["data"] == "invented"
        assert record.details[name]["bytes"] > 5_000
    memory = record.memory["noteevents"]
    assert memory.large_bytes > 15 * memory.small_bytes
    grown = memory.peak_large_bytes - memory.peak_small_bytes
    assert grown < (memory.large_bytes - memory.small_bytes) / 2  # a reader that holds the file takes it all


@pytest.mark.parametrize("name", bench.FORMATS)
@pytest.mark.usefixtures("no_stream")
def test_a_reader_that_loses_a_text_is_never_timed(name, monkeypatch):
    for reader in ("read_records", "read_examples"):
        whole = getattr(loading, reader)
        monkeypatch.setattr(loading, reader, lambda *given, whole=whole: list(whole(*given))[1:])
    monkeypatch.setattr(loading, "side_by_side", None)
    with pytest.raises(ClinscaleError, match=f"bench {name}: .* different texts"):
        bench.bench_loading(**TINY, formats=[name])


@pytest.mark.parametrize("name", loading._PUBLIC)
def test_public_sets_are_read_as_the_scripts_read_them(name, tmp_path):
    data_set, pattern = loading._PUBLIC[name]
    if not list((PUBLIC / data_set).glob(pattern)):
        pytest.skip(f"the public data set {data_set} is not here")
    found, _ = loading._files(name, tmp_path, None, str(PUBLIC), 0)
    loading._assert_equal(
        name, loading._run_script(name, found), functools.partial(loading._run_reader, name, found)
    )


@pytest.mark.parametrize("name", ["bio", "brat", "i2b2_xml", "squad"])
@pytest.mark.usefixtures("no_stream")
def test_a_reader_that_loses_gold_is_never_timed(name, monkeypatch):
    def forgetful(*given, whole=loading.read_examples):
        examples = whole(*given)
        marked = next(n for n, example in enumerate(examples) if example.entities or example.answers)
        examples[marked] = dataclasses.replace(examples[marked], entities=(), answers=())
        return examples

    monkeypatch.setattr(loading, "read_examples", forgetful)
    monkeypatch.setattr(loading, "side_by_side", None)
    with pytest.raises(ClinscaleError, match=f"bench {name}: .* differ in the gold of 1 examples"):
        bench.bench_loading(**TINY, formats=[name])


@pytest.mark.usefixtures("no_stream")
def test_public_data_are_read_where_they_are_and_counted_unpacked(tmp_path):
    (tmp_path / "mtsamples").mkdir()
    table = b"note_id,transcription\n" + b"1,Invented text.\n" * 50
    (tmp_path / "mtsamples" / "mtsamples.csv.gz").write_bytes(gzip.compress(table))
    record = bench.bench_loading(**TINY, data=str(tmp_path), formats=["csv", "parquet", "jsonl"])
    read = {name: found["data"] for name, found in record.details.items()}
    assert read == {"csv": "mtsamples", "parquet": "mtsamples", "jsonl": "invented"}
    assert record.details["csv"]["bytes"] == len(table)


@pytest.mark.usefixtures("no_stream")
def test_gold_may_differ_where_the_reader_counts_a_repair(tmp_path):
    """COVID-QA has answers that are a character off."""
    question = {"id": 1, "question": "What was given?", "answers": [{"text": "aspirin", "answer_start": 11}]}
    paragraph = {"context": "They gave aspirin.", "qas": [question]}
    (tmp_path / "covid_qa").mkdir()
    (tmp_path / "covid_qa" / "covid_qa.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    record = bench.bench_loading(**TINY, data=str(tmp_path), formats=["squad"])
    assert record.details["squad"]["repaired"] == 1


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent is not a local folder; give one that holds any of mtsamples"):
        bench.bench_loading(data=str(tmp_path / "absent"))


def test_the_same_seed_invents_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        texts = files.invent_texts(seed=3)
        files.write_invented("i2b2_xml", tmp_path / name, texts, 20_000)
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert written[0] == written[1]
    assert len(written[0]) > 3


def test_the_verb_offers_every_format():
    assert [member.value for member in Format] == list(bench.FORMATS)
