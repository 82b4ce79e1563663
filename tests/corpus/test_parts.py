"""The pass over the text on a real Ray: the same shards as in one process, however often it is killed."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

from clinscale.corpus import CorpusConfig, SourceConfig, build, build_shards, load_tokenizer, parts
from clinscale.corpus.near_duplicates import NearDuplicatesConfig
from clinscale.corpus.sources import CONTINUED, NEAR, REMARKS
from clinscale.errors import CapacityError, DataError


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A CSV as MIMIC-III's, with patients, errors, copies and near copies; several blocks of 20,000 characters."""
    folder = tmp_path_factory.mktemp("notes")
    lines = ["ROW_ID,SUBJECT_ID,CATEGORY,ISERROR,TEXT"]
    for number in range(600):
        words = " ".join(f"word{(number * 7 + place * place) % 977}" for place in range(60))
        category = "Nursing" if number % 3 else "Discharge summary"
        error = "1" if number % 50 == 7 else ""
        lines.append(f'{number},{number // 4},{category},{error},"[**2101-1-1**] Note {number}:\n{words}"')
        if number % 40 == 3:
            lines.append(f'{number + 9000},{number // 4},{category},,"[**2101-1-1**] Note {number}:\n{words}"')
        if number % 40 == 5:
            lines.append(
                f'{number + 9500},{number // 4},{category},,"[**2101-1-1**] Note {number}:\n{words} signed"'
            )
    (folder / "NOTEEVENTS.csv").write_text("\n".join(lines))
    return folder / "NOTEEVENTS.csv"


def config_of(notes, **changes):
    source = {
        "uri": str(notes),
        "text_column": "TEXT",
        "id_column": "ROW_ID",
        "group_column": "SUBJECT_ID",
        "drop_rows": {"ISERROR": ["1"]},
    }
    values = {"vocab_size": 500, "validation_fraction": 0.2, "cleaning": {"placeholders": "remove"}, **changes}
    return CorpusConfig.parse({"sources": [source], **values}, source="test")


@pytest.fixture(scope="module")
def in_one_process(notes, tmp_path_factory):
    return build_shards(config_of(notes), str(tmp_path_factory.mktemp("one") / "set"))


@pytest.mark.ray
def test_ray_data_builds_the_same_shards(notes, in_one_process, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 20_000)
    seen = []
    built = build_shards(config_of(notes), str(tmp_path / "set"), num_cpus=2, on_progress=seen.append)
    assert built.fingerprint == in_one_process.fingerprint
    assert built.manifest == in_one_process.manifest
    assert len(seen) > 5
    assert not (tmp_path / "set" / "parts").exists()


@pytest.mark.ray
def test_a_fault_of_the_data_arrives_from_the_workers_as_it_is(ray_cluster, tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "given")  # else the fault is met before there are workers
    (tmp_path / "notes.jsonl").write_text('{"text": "fine"}\n{"text": 7}\n')
    config = CorpusConfig(
        sources=(SourceConfig(uri=str(tmp_path / "notes.jsonl")),), tokenizer=str(tmp_path / "given")
    )
    with pytest.raises(DataError) as fault:
        build_shards(config, str(tmp_path / "set"), num_cpus=2)
    assert "notes.jsonl row 2: column 'text' must hold text, got a value of type int" in str(fault.value)


def test_a_full_disk_keeps_the_finished_parts(notes, in_one_process, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 20_000)
    config, out = config_of(notes), str(tmp_path / "set")
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)

    def then_full(made):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, largest[1]))  # what the system then says to a write

    try:
        with pytest.raises(CapacityError, match=r"000000-000001.part cannot be written .*the parts .* are kept"):
            build_shards(config, out, on_progress=then_full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    first = (tmp_path / "set" / "parts" / "000000-000000.part").stat().st_mtime_ns
    seen = []

    def look(made):
        assert (tmp_path / "set" / "parts" / "000000-000000.part").stat().st_mtime_ns == first
        seen.append(made)

    assert build_shards(config, out, on_progress=look).fingerprint == in_one_process.fingerprint
    assert seen


def test_a_part_in_the_middle_that_is_missing_is_made(notes, in_one_process, tmp_path, monkeypatch):
    """Workers finish in any order: that the last part is there says nothing of the others."""
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 20_000)
    config, out = config_of(notes), str(tmp_path / "set")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_choose", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_shards(config, out)
    made = sorted((tmp_path / "set" / "parts").glob("*.part"))
    notes_in_second = pyarrow.parquet.read_metadata(made[1]).num_rows
    made[1].unlink()
    seen = []
    assert build_shards(config, out, on_progress=seen.append).fingerprint == in_one_process.fingerprint
    assert seen == [notes_in_second]


def test_a_tokenizer_is_trained_on_notes_from_everywhere(tmp_path):
    """Archives are sorted by kind of note: the first gigabyte is not like the rest."""
    kinds = ["cardiomegaly", "craniotomy"]
    lines = [json.dumps({"text": f"Note {n}: {kinds[n // 200]} seen."}) for n in range(400)]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    sources = (SourceConfig(uri=str(tmp_path / "notes.jsonl")),)
    config = CorpusConfig(sources=sources, vocab_size=2000, tokenizer_bytes=6_000)
    vocabulary = load_tokenizer(str(build_shards(config, str(tmp_path / "set")).tokenizer_dir)).get_vocab()
    assert {f"Ġ{kind}" for kind in kinds} <= vocabulary.keys()
    assert sum(token.isdecimal() for token in vocabulary) < 150, "more than a third of the notes was read"


def test_what_was_left_out_is_counted_and_whole_patients_are_held_out(notes, in_one_process):
    manifest = in_one_process.manifest
    assert manifest.left_out == {"filtered": 12, "duplicate": 15, "near_duplicate": 15}
    assert sum(split.documents for split in manifest.splits.values()) == 600 - 12
    patients = 600 / 4
    held_out = manifest.splits["validation"].documents / 4
    assert held_out == pytest.approx(0.2 * patients, abs=12)
    assert sum(in_one_process.document_tokens("train")) == manifest.splits["train"].tokens
    apart = in_one_process.rows("train", 512, documents_apart=True)
    assert apart.documents_apart
    assert 0.9 < apart.packing_efficiency <= 1


def test_near_copies_stay_when_they_are_wanted(notes, tmp_path):
    config = config_of(notes, near_duplicates={"enabled": False})
    assert build_shards(config, str(tmp_path / "set")).manifest.left_out == {"filtered": 12, "duplicate": 15}
    assert NearDuplicatesConfig().enabled


@pytest.mark.parametrize("action", ["drop", "report", "refuse"])
def test_test_documents_of_tasks_are_dropped_reported_or_refused(notes, in_one_process, tmp_path, action):
    words = " ".join(f"word{(100 * 7 + place * place) % 977}" for place in range(60))
    tests = {"mimic_aki": [f"Note 100: {words}", "a document of another hospital " * 5]}
    config = config_of(notes, leakage={"action": action})
    if action == "refuse":
        with pytest.raises(DataError, match=r"1 notes of the sources hold test documents .*leakage\.action=drop"):
            build_shards(config, str(tmp_path / "set"), test_texts=tests)
        return
    manifest = build_shards(config, str(tmp_path / "set"), test_texts=tests).manifest
    assert manifest.leakage == {"mimic_aki": {"test_documents": 2, "found": 1}}
    assert manifest.left_out.get("leaked", 0) == (action == "drop")


BUILD = """
import sys, json
from clinscale.corpus import CorpusConfig, build_shards, parts
parts._BLOCK_CHARACTERS = 20_000
config = CorpusConfig.parse(json.loads(sys.argv[1]), source="test")
build_shards(config, sys.argv[2])
"""


@pytest.mark.chaos
def test_a_build_that_is_killed_again_and_again_ends_as_undisturbed(notes, in_one_process, tmp_path):
    command = [sys.executable, "-c", BUILD, json.dumps(config_of(notes).plain()), str(tmp_path / "set")]
    made = tmp_path / "set" / "parts"
    for wanted in (1, 4):
        process = subprocess.Popen(command)
        while len(list(made.glob("*.part"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "set" / "manifest.json").exists(), "nothing was killed"
    subprocess.run(command, check=True)
    assert build_shards(config_of(notes), str(tmp_path / "set")).fingerprint == in_one_process.fingerprint


def test_a_folder_of_save_to_disk_is_read_without_its_own_json(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["one note", "another note", "a third"]}).save_to_disk(tmp_path / "set")
    config = CorpusConfig(
        sources=(SourceConfig(uri=str(tmp_path / "set")),), vocab_size=300, validation_fraction=0.0
    )
    assert build_shards(config, str(tmp_path / "out")).manifest.splits["train"].documents == 3


def test_an_object_store_is_read_and_written(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    with fs.open("/hospital/notes.jsonl", "wt") as stream:
        stream.write("\n".join(json.dumps({"text": f"note number {number}"}) for number in range(20)))
    config = CorpusConfig(
        sources=(SourceConfig(uri="memory://hospital/notes.jsonl"),), vocab_size=300, validation_fraction=0.0
    )
    built = build_shards(config, "memory://hospital/shards")
    assert built.manifest.splits["train"].documents == 20
    assert not fs.glob("/hospital/shards/parts/*")


def test_the_tokenizer_sees_nothing_of_what_is_left_out(tmp_path):
    """A test document in other letters than the task's, a near copy, and a note that is filtered out."""
    words = [f"common{number % 50}" for number in range(40)]
    notes = [{"text": f"Note {number}: {' '.join(words)} {number}", "error": 0} for number in range(30)]
    leaked = "Zyxwvö Zyxwvö Zyxwvö " + " ".join(f"secret{number}" for number in range(60))
    near = " ".join(f"near{number}" for number in range(99))
    notes += [{"text": leaked.upper().replace("Ö", "O"), "error": 0}, {"text": near, "error": 0}]
    notes += [{"text": f"{near} nearcopy nearcopy", "error": 0}, {"text": "wrongnote " * 20, "error": 1.0}]
    (tmp_path / "notes.jsonl").write_text("\n".join(map(json.dumps, notes)))
    config = CorpusConfig.parse(
        {
            "sources": [{"uri": str(tmp_path / "notes.jsonl"), "drop_rows": {"error": ["1"]}}],
            "vocab_size": 3000,
            "min_documents": 1,
            "validation_fraction": 0,
            "cleaning": {"characters": "ascii"},
            "near_duplicates": {"threshold": 0.8},
        },
        source="test",
    )
    built = build_shards(config, str(tmp_path / "set"), test_texts={"task": [leaked]})
    assert built.manifest.leakage == {"task": {"test_documents": 1, "found": 1}}
    assert {name: built.manifest.left_out[name] for name in ("filtered", "leaked")} == {"filtered": 1, "leaked": 1}
    vocabulary = "".join(load_tokenizer(str(built.tokenizer_dir)).get_vocab()).lower()
    assert "common" in vocabulary
    assert not [word for word in ("zyx", "secret", "nearcopy", "wrong") if word in vocabulary]


def test_a_value_that_no_row_holds_is_refused_over_all_files_of_a_source(tmp_path, monkeypatch):
    """It may be spelled otherwise; where its column is blank throughout, there is nothing to leave out."""
    monkeypatch.setattr(parts, "_BLOCK_CHARACTERS", 50)

    def build_of(folder, values, keep):
        (tmp_path / folder).mkdir()
        for number, value in enumerate(values):
            rows = f'text,error\n"a note of some length, number {number}",{value}\n"another one, {number}",\n'
            (tmp_path / folder / f"{number}.csv").write_text(rows)
        source = {"uri": str(tmp_path / folder), keep: {"error": ["1"]}}
        config = {"sources": [source], "vocab_size": 300, "validation_fraction": 0}
        return build_shards(CorpusConfig.parse(config, source="test"), str(tmp_path / f"{folder}-set"))

    for keep in ("drop_rows", "keep_rows"):
        with pytest.raises(DataError, match=rf"{keep}: error: '1' is held by no row"):
            build_of(f"other-{keep}", ["Y", "N", ""], keep)
    assert build_of("some", ["Y", "", "1.0"], "drop_rows").manifest.left_out["filtered"] == 1
    assert "filtered" not in build_of("blank", ["", "", "nan"], "drop_rows").manifest.left_out


def test_columns_may_be_paths(tmp_path):
    rows = [
        {
            "report": {"findings": f"note number {number}"},
            "patient": {"id": number // 2 + 0.0},
            "meta": [{"kind": "ct"}],
        }
        for number in range(40)
    ]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "meta": [{"kind": "x"}]}])))
    source = {
        "uri": str(tmp_path / "n.jsonl"),
        "text_column": "report.findings",
        "group_column": "patient.id",
        "id_column": "patient.id",
        "keep_rows": {"meta.0.kind": ["ct"]},
    }
    config = CorpusConfig.parse(
        {"sources": [source], "vocab_size": 300, "validation_fraction": 0.3}, source="test"
    )
    built = build_shards(config, str(tmp_path / "set"))
    assert built.manifest.left_out["filtered"] == 1
    assert built.manifest.splits["validation"].documents % 2 == 0, "patients are whole"


def test_notes_in_parts_and_line_breaks_as_two_characters_are_remarked_on_and_read_as_they_are(tmp_path):
    lines = [
        rf"{number // 2},word{number} here.\nword{number + 1} there.\nword{number + 2}." for number in range(20)
    ]
    (tmp_path / "notes.csv").write_text("\n".join(["NOTE_ID,TEXT", *lines, "10,in one line"]))
    source = SourceConfig(uri=str(tmp_path / "notes.csv"), text_column="TEXT", id_column="NOTE_ID")
    config = CorpusConfig(sources=(source,), vocab_size=300, validation_fraction=0.2)
    manifest = build_shards(config, str(tmp_path / "set")).manifest
    assert manifest.remarks == {CONTINUED: 10, REMARKS[1]: 20}
    assert manifest.left_out == {}
    assert sum(split.documents for split in manifest.splits.values()) == 21


def test_notes_that_were_cut_at_a_length_are_remarked_on(tmp_path):
    rows = [(f"{number} " + "word " * 30)[:120] for number in (1, 2, 2, 3)]
    (tmp_path / "notes.csv").write_text("\n".join(["text,kind", *(f"{row},ERROR" for row in rows)]))
    source = SourceConfig(uri=str(tmp_path / "notes.csv"), drop_rows={"kind": ("error",)})
    apart = NearDuplicatesConfig(enabled=False)
    config = CorpusConfig(sources=(source,), vocab_size=300, validation_fraction=0.2, near_duplicates=apart)
    with pytest.raises(DataError, match="is held by no row"):
        build_shards(config, str(tmp_path / "set"))
    (tmp_path / "notes.csv").write_text(f"{(tmp_path / 'notes.csv').read_text()}\nshort,error")
    assert build_shards(config, str(tmp_path / "other")).manifest.remarks == {
        NEAR: 4,
        "notes of 120 characters, where none has more: were they cut at export?": 3,
    }
