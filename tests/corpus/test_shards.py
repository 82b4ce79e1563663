import json
import os
import shutil

import fsspec
import numpy as np
import pytest

from clinscale.corpus import open_shards
from clinscale.errors import ChangedDataError, ConfigError, DataError


@pytest.fixture
def copy(shards, tmp_path):
    """A ShardSet that a test may damage."""
    return shutil.copytree(shards.uri, tmp_path / "copy")


def change_manifest(folder, change):
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def test_a_shard_set_is_what_it_was_wherever_it_lies(shards, copy):
    opened = open_shards(copy)
    assert opened.fingerprint == shards.fingerprint
    assert opened.manifest == shards.manifest
    assert open_shards(f"file://{copy}").uri == str(copy)
    for split in ("train", "validation"):
        assert [row.tolist() for row in opened.rows(split, 64)] == [row.tolist() for row in shards.rows(split, 64)]


def test_the_uri_serves_workers_in_other_folders(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    assert open_shards("copy").uri == str(copy)


def test_one_set_serves_any_row_length(shards):
    for row_tokens in (16, 512, 4096):
        rows = shards.rows("train", row_tokens)
        assert rows[0].shape == (row_tokens,)
        assert (
            (len(rows) - 1) * (row_tokens - 2)
            < shards.manifest.splits["train"].tokens
            <= len(rows) * (row_tokens - 2)
        )
        assert max(row.max() for row in rows) < shards.vocab_size


def test_unknown_split(shards):
    with pytest.raises(ConfigError, match="no split 'test'; known: train, validation"):
        shards.rows("test", 64)


DAMAGES = {
    "cut file": (lambda folder: os.truncate(folder / "train-00001.tokens", 100), "train-00001.tokens must have"),
    "missing file": (lambda folder: (folder / "validation-00000.tokens").unlink(), "has 0; copy it again"),
    "lengths in another order": (
        lambda folder: np.fromfile(folder / "train-documents.lengths", "<u4")[::-1].tofile(
            folder / "train-documents.lengths"
        ),
        "train-documents.lengths must have the SHA-256",
    ),
    "missing tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "has no tokenizer"),
    "missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "not a ShardSet.*interrupted"),
    "cut manifest": (lambda folder: os.truncate(folder / "manifest.json", 50), "manifest.json is not valid JSON"),
    "foreign manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"name": "x"}'),
        "cannot be read by this version",
    ),
    "newer format": (
        lambda folder: change_manifest(folder, lambda values: values.update(format="clinscale-shards-9")),
        "cannot be read by this version.*clinscale-shards-2",
    ),
    "file outside": (
        lambda folder: change_manifest(
            folder, lambda values: values["splits"]["train"]["files"][0].update(name="../../etc/passwd")
        ),
        "cannot be read by this version",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_set_is_refused(copy, damage):
    action, says = DAMAGES[damage]
    action(copy)
    with pytest.raises(DataError, match=f"(?s){says}"):
        open_shards(copy)


def test_another_set_than_the_one_that_the_work_began_with_is_refused(copy, shards):
    assert open_shards(copy, expected=shards.fingerprint).fingerprint == shards.fingerprint
    with pytest.raises(ChangedDataError, match=f"fingerprint 0123 before, {shards.fingerprint} now"):
        open_shards(copy, expected="0123")


def test_no_set_at_all(tmp_path):
    with pytest.raises(DataError, match="not a ShardSet"):
        open_shards(tmp_path / "none")


def test_notes_that_an_earlier_version_filled_up_are_refused(shards, copy):
    [first, *_] = shards.manifest.splits["train"].files
    raw = np.fromfile(copy / first.name, shards.manifest.dtype)
    raw[5:40] = shards.manifest.special.pad
    raw.tofile(copy / first.name)
    with pytest.raises(DataError, match="holds padding inside notes"):
        open_shards(copy)


def write_into(path):
    """Other tokens in the file itself, as `cp` over it leaves."""
    with path.open("r+b") as stream:
        stream.write(bytes(64))


def test_what_is_written_into_an_opened_set_is_noticed_and_what_is_put_in_its_place_is_not_read(copy, caplog):
    opened = open_shards(copy)
    rows, file = opened.rows("train", 64), copy / "train-00000.tokens"
    first = rows[0].tolist()
    os.utime(file)
    opened.check_unchanged()
    assert not caplog.records
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(bytes(len(content)))
    for _ in range(2):
        opened.check_unchanged()
    assert rows[0].tolist() == first
    [told] = caplog.messages
    assert "train-00000.tokens was deleted or replaced" in told
    file.write_bytes(content)
    opened = open_shards(copy)
    write_into(file)
    for _ in range(2):
        with pytest.raises(ChangedDataError, match=r"train-00000\.tokens of ShardSet .* changed while"):
            opened.check_unchanged()
    with pytest.raises(ChangedDataError, match=r"train-00000\.tokens of ShardSet"):
        opened.rows("train", 64)


@pytest.fixture
def bucket(copy):
    """The ShardSet in an object store in memory."""
    files = fsspec.filesystem("memory")
    files.put(str(copy), "/shards-test", recursive=True)
    yield "memory://shards-test"
    files.rm("/shards-test", recursive=True)


def test_a_copy_of_a_set_in_a_store_is_kept_only_if_it_is_whole(bucket, copy, shards, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    whole = store.cat_file("/shards-test/train-00000.tokens")
    for sent in (whole[:-2], bytes(len(whole)), b"<html>"):
        store.pipe_file("/shards-test/train-00000.tokens", sent)
        with pytest.raises(
            DataError, match=r"ShardSet memory://shards-test is damaged: train-00000\.tokens must have"
        ):
            open_shards(bucket, cache_dir=tmp_path / "cache")
    store.pipe_file("/shards-test/train-00000.tokens", whole)
    assert open_shards(bucket, cache_dir=tmp_path / "cache").fingerprint == shards.fingerprint


def test_a_copy_of_which_somebody_deleted_a_file_is_made_anew(bucket, shards, tmp_path, caplog):
    opened = open_shards(bucket, cache_dir=tmp_path / "cache")
    (opened.tokenizer_dir.parent / "train-00000.tokens").unlink()
    again = open_shards(bucket, cache_dir=tmp_path / "cache")
    assert again.rows("train", 64)[0].tolist() == shards.rows("train", 64)[0].tolist()
    assert "is damaged, and is made anew" in caplog.text
    assert [path.name for path in (tmp_path / "cache").rglob(".*")] == []
