import gzip
import json
import os
import stat
import sys

import pytest

from clinscale import storage, stores
from clinscale.errors import ClusterError, ConfigError, DataError


@pytest.fixture
def bucket():
    """A folder of fsspec's in-memory object store."""
    import fsspec

    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def test_remote_is_told_from_local():
    assert storage.is_remote("s3://bucket/notes")
    assert not storage.is_remote("/data/notes")
    assert not storage.is_remote("file:///data/notes")


def test_join_and_exists(tmp_path, bucket):
    for folder in (f"{tmp_path}/", bucket):
        place = storage.join(folder, "a", "b.json")
        assert not storage.exists(place)
        with storage.create_binary(place) as stream:
            stream.write(b"{}")
        assert storage.exists(place)
        assert storage.read_json(place) == {}


@pytest.mark.parametrize("uri", ["nosuchprotocol://a/b.json"])
def test_a_protocol_that_cannot_be_spoken_is_a_config_error(uri):
    for action in (storage.exists, storage.read_json):
        with pytest.raises(ConfigError, match="nosuchprotocol"):
            action(uri)


def test_open_binary_decompresses(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc"))
    with storage.open_binary(tmp_path / "a.gz") as stream:
        assert stream.read() == b"abc"


def whole_gzip():
    return gzip.compress(os.urandom(4000))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (whole_gzip()[:2000], "truncated"),
        (b"not gzip", "truncated or damaged"),
        (whole_gzip()[:100] + b"\x00" * 500 + whole_gzip()[600:], "truncated or damaged"),
    ],
)
def test_a_damaged_gzip_is_a_data_error(tmp_path, content, says):
    path = tmp_path / "notes.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error, storage.open_binary(path) as stream:
        stream.read()
    assert str(path) in str(error.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv does not exist"), storage.open_binary(tmp_path / "none.csv"):
        pass
    with pytest.raises(DataError, match="is a folder"), storage.open_binary(tmp_path):
        pass


def test_a_disk_that_is_full_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, storage.atomic_path(tmp_path / "answers.jsonl"):
        os.write(os.open("/dev/full", os.O_WRONLY), b"a")
    assert caught.value.filename == str(tmp_path / "answers.jsonl")


def test_atomic_path_replaces_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "card.json"
    with storage.atomic_path(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), storage.atomic_path(path) as temporary:
        assert temporary.write_text("half") / 0  # fails once half is written
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["card.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after_it(tmp_path, monkeypatch):
    """A loss of power leaves the old file or the whole new one: what is synced when is all that decides it."""
    path, synced, fsync = tmp_path / "card.json", [], os.fsync

    def recorded(descriptor):
        content = path.read_text() if path.exists() else "none"
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_ino, content))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    for before, after in (("none", "old"), ("old", "new")):
        synced.clear()
        with storage.atomic_path(path) as temporary:
            temporary.write_text(after)
        file, folder = path.stat().st_ino, tmp_path.stat().st_ino
        assert synced == [(False, file, before), (True, folder, after)]


def test_json_goes_there_and_back(tmp_path, bucket):
    values = {"größe": [1, 2.5, None], "b": {"c": True}}
    for folder in (tmp_path, bucket):
        storage.write_json(storage.join(folder, "x.json"), values)
        assert storage.read_json(storage.join(folder, "x.json")) == values


@pytest.mark.parametrize("values", [{"loss": float("nan")}, {"loss": {1, 2}}])
def test_what_is_no_json_leaves_the_old_file(tmp_path, values):
    storage.write_json(tmp_path / "x.json", {"loss": 1})
    with pytest.raises((ValueError, TypeError)):
        storage.write_json(tmp_path / "x.json", values)
    assert json.loads((tmp_path / "x.json").read_text()) == {"loss": 1}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"a": 1,\n  b}', "line 2, column 3"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xe9"}', "UTF-8 at byte 7"),
        (b'\xef\xbb\xbf{"a": "\xe9"}', "UTF-8 at byte 10"),
    ],
)
def test_a_bad_json_file_names_the_position(tmp_path, raw, says):
    (tmp_path / "x.json").write_bytes(raw)
    with pytest.raises(DataError, match=says):
        storage.read_json(tmp_path / "x.json")


def test_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert storage.read_json(tmp_path / "x.json") == {"a": 1}


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_local_copy_of_a_local_path_is_the_path(tmp_path):
    assert storage.local_copy(tmp_path, "/nowhere") == tmp_path
    assert storage.local_copy(f"file://{tmp_path}", "/nowhere") == tmp_path


def test_local_copy_downloads_a_folder_once(tmp_path, bucket):
    storage.write_json(storage.join(bucket, "set", "a.json"), 1)
    storage.write_json(storage.join(bucket, "set", "deep", "b.json"), 2)
    copy = storage.local_copy(f"{bucket}/set", tmp_path)
    assert storage.read_json(copy / "a.json") == 1
    assert storage.read_json(copy / "deep" / "b.json") == 2
    storage.write_json(storage.join(bucket, "set", "a.json"), 3)
    assert storage.local_copy(f"{bucket}/set", tmp_path) == copy
    assert storage.read_json(copy / "a.json") == 1


def test_an_interrupted_download_leaves_nothing(tmp_path, bucket, monkeypatch):
    import fsspec

    storage.write_json(storage.join(bucket, "set", "a.json"), 1)
    memory = fsspec.filesystem("memory")

    def broken(*_, **__):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get", broken)
        patch.setattr(stores, "PATIENCE_S", 0.0)
        with pytest.raises(ClusterError, match=r"memory://bucket has not answered for 0 s"):
            storage.local_copy(f"{bucket}/set", tmp_path)
    assert not list(tmp_path.iterdir())
    assert storage.read_json(storage.local_copy(f"{bucket}/set", tmp_path) / "a.json") == 1


@pytest.mark.parametrize(
    ("uri", "extra"),
    [("s3://bucket/notes.csv", "s3"), ("gs://b/n", "gs"), ("abfs://c/n", "azure"), ("az://c/n", "azure")],
)
def test_an_object_store_whose_library_is_missing_names_the_extra(uri, extra, monkeypatch):
    for driver in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigError, match=rf"{uri} cannot be opened: .*pip install 'clinscale\[{extra}\]'"):
        storage.exists(uri)


def test_a_protocol_that_nobody_speaks_is_named_without_an_extra():
    with pytest.raises(ConfigError, match=r"foo://bucket/a cannot be opened: Protocol not known: foo$"):
        storage.exists("foo://bucket/a")


def test_local_copy_of_nothing(tmp_path, bucket):
    with pytest.raises(DataError, match="does not exist"):
        storage.local_copy(f"{bucket}/none", tmp_path)


def test_files_in_and_remove_files(tmp_path, bucket):
    (tmp_path / "from").mkdir()
    for name in ("a[1].tokens", "a1.tokens", "c.json"):
        (tmp_path / "from" / name).write_text(name)
    for target in (str(tmp_path / "to"), f"{bucket}/to"):
        assert storage.files_in(target) == []
        storage.upload(tmp_path / "from", target)
        storage.write_json(storage.join(target, "deep", "d.json"), 1)
        assert storage.files_in(target) == ["a1.tokens", "a[1].tokens", "c.json"]
        storage.remove_files(target, ["a[1].tokens"])
        assert storage.files_in(target) == ["a1.tokens", "c.json"]


@pytest.mark.parametrize("name", ["run[1]", "run*", "a::b", "local:x", "a b#c?d%20", "~x"])
def test_every_path_is_taken_as_it_is(tmp_path, bucket, name):
    for folder in (str(tmp_path), bucket):
        if "::" in name and folder == bucket:
            continue  # fsspec's own spelling of one store inside another
        place = storage.join(folder, name, "x.json")
        storage.write_json(place, 1)
        storage.write_json(storage.join(folder, "run1", "x.json"), 2)
        assert storage.read_json(place) == 1
        assert storage.exists(place)
        assert storage.files_in(storage.join(folder, name)) == ["x.json"]
        copy = storage.local_copy(storage.join(folder, name), tmp_path / "cache")
        assert storage.read_json(copy / "x.json") == 1
    assert (tmp_path / name / "x.json").is_file()


def test_a_name_that_leads_out_of_a_download_is_refused(tmp_path, bucket):
    import fsspec

    storage.write_json(f"{bucket}/set/a.json", 1)
    store = fsspec.filesystem("memory").store
    store["/bucket/set/../../x.json"] = store["/bucket/set/a.json"]
    with pytest.raises(DataError, match=r"'\.\.'"):
        storage.local_copy(f"{bucket}/set", tmp_path / "cache")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("name", ["notes.csv", "notes.csv.gz"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / "zero", f"file://{tmp_path}/{name}"):
        with pytest.raises(DataError, match="must be a regular file"), storage.open_binary(path):
            pass


def test_a_bomb_is_told_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "x.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(80):
            stream.write(bytes(2**20))
    for reader in (storage.read_json, storage.read_bytes):
        with pytest.raises(DataError, match="times its size"):
            reader(path)


def test_what_is_read_whole_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAX_WHOLE_BYTES", 2**20)
    (tmp_path / "x.json").write_bytes(b" " * 2**21)
    with pytest.raises(DataError, match="GiB decompressed"):
        storage.read_json(tmp_path / "x.json")


@pytest.mark.parametrize("raw", ["[" * 100_000, "1" * 5000, '{"a": 1, "a": 2}'])
def test_json_that_python_refuses_or_would_lose_is_a_data_error(tmp_path, raw):
    (tmp_path / "x.json").write_text(raw)
    with pytest.raises(DataError, match=r"nested too deeply|thousands of digits|same key twice"):
        storage.read_json(tmp_path / "x.json")


def test_half_a_character_in_json_is_refused_and_a_whole_one_of_two_is_read(tmp_path):
    (tmp_path / "half.json").write_text(r'{"text": ["a", {"b \ud800": 1}]}')
    (tmp_path / "whole.json").write_text(r'{"text": "\ud83d\ude00"}')
    with pytest.raises(DataError, match="half of a character"):
        storage.read_json(tmp_path / "half.json")
    assert storage.read_json(tmp_path / "whole.json") == {"text": "\U0001f600"}


def test_a_name_that_begins_like_the_home_of_nobody_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$notes.csv").write_text("id,text\n")
    assert storage.exists("~$notes.csv")
    assert storage.read_bytes("~$notes.csv") == b"id,text\n"
    assert not storage.exists("~nobody-of-that-name/notes.csv")
