"""Object stores that are away for a while: waited for, and nothing is read wrong, left out or published in part."""

import contextlib
import gzip

import fsspec
import pytest
import urllib3

from clinscale import patience, storage, stores
from clinscale.errors import ClusterError, DataError

PLACE = "memory://stores-test"
AWAY = [
    ConnectionRefusedError("refused"),
    TimeoutError(),
    urllib3.exceptions.ProtocolError("Connection aborted."),
    OSError(16, "Please reduce your request rate."),
]


@pytest.fixture
def store(monkeypatch):
    """A store in memory; `store.fails(method, times)` has it raise in place of answers."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    files = fsspec.filesystem("memory")

    def fails(owner, method, times, error=AWAY[0]):
        left, answer = [times], getattr(owner, method)

        def call(*args, **named):
            left[0] -= 1
            if left[0] >= 0:
                raise error
            return answer(*args, **named)

        monkeypatch.setattr(owner, method, call)
        return left

    files.fails = fails
    yield files
    files.rm(PLACE, recursive=True)


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_what_is_written_is_published_once_the_store_is_back(store, error, caplog):
    store.fails(store, "pipe_file", 2, error)
    with storage.create_binary(f"{PLACE}/shard") as stream:
        stream.write(b"tokens")
    assert storage.read_bytes(f"{PLACE}/shard") == b"tokens"
    waits, back = caplog.messages
    assert waits.startswith("object store memory://stores-test does not answer (")
    assert back == "object store memory://stores-test answers again"


def test_what_is_half_written_is_not_published(store):
    storage.write_json(f"{PLACE}/other", {})
    with contextlib.suppress(ZeroDivisionError), storage.create_binary(f"{PLACE}/shard") as stream:
        stream.write(b"tok")
        raise ZeroDivisionError
    assert storage.files_in(PLACE) == ["other"]


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt.gz"])
def test_a_read_goes_on_where_the_store_went_away(store, monkeypatch, name):
    text = b"".join(f"note {number}\n".encode() for number in range(300_000))
    with storage.create_binary(f"{PLACE}/{name}") as stream:
        stream.write(gzip.compress(text) if name.endswith(".gz") else text)
    opened = store.open

    def opening(*args, **named):
        stream = opened(*args, **named)
        reads = []

        def read(size):
            reads.append(size)
            if len(reads) in (1, 3):
                raise AWAY[0]
            return type(stream).read(stream, size)

        monkeypatch.setattr(stream, "read", read, raising=False)
        return stream

    monkeypatch.setattr(store, "open", opening)
    assert storage.read_bytes(f"{PLACE}/{name}") == text


def test_a_deletion_whose_answer_was_lost_is_done(store, monkeypatch):
    for name in ("part", "other"):
        storage.write_json(f"{PLACE}/{name}", {})
    delete = store.rm_file

    def lossy(path):
        delete(path)
        raise AWAY[0]

    with monkeypatch.context() as patch:
        patch.setattr(store, "rm_file", lossy)
        storage.remove_files(PLACE, ["part"])
    assert storage.files_in(PLACE) == ["other"]


def test_what_is_there_is_not_missing_while_the_store_is_away(store):
    storage.write_json(f"{PLACE}/manifest.json", {})
    store.fails(store, "info", 2)
    store.fails(store, "ls", 2)
    assert storage.exists(f"{PLACE}/manifest.json")
    assert storage.files_in(PLACE) == ["manifest.json"]


def test_what_is_missing_or_away_for_long_is_said_at_once(store, monkeypatch):
    storage.write_json(f"{PLACE}/other", {})
    with pytest.raises(DataError, match="does not exist"):
        storage.read_bytes(f"{PLACE}/manifest.json")
    monkeypatch.setattr(stores, "PATIENCE_S", 0)
    left = store.fails(store, "open", 9)
    with pytest.raises(ClusterError, match=r"store memory://stores-test has not answered for 0 s \(Connection"):
        storage.read_bytes(f"{PLACE}/other")
    assert left == [8]


def test_a_store_that_was_waited_for_is_not_waited_for_again_by_who_asked(store, monkeypatch, caplog):
    storage.write_json(f"{PLACE}/other", {})
    monkeypatch.setattr(stores, "PATIENCE_S", 0.01)
    left = store.fails(store, "info", 99)
    with pytest.raises(ClusterError, match=r"has not answered for 0\.01 s"):
        storage.again_if_away(PLACE, lambda: storage.exists(f"{PLACE}/manifest.json"))
    left[0] = 0
    assert len(caplog.messages) == 1


def of_library(module, name="Fault", bases=(Exception,), **values):
    """An error as a library that is not installed here raises it."""
    error = type(name, bases, {"__module__": module})("Mr Jones, ward 5")
    for key, value in values.items():
        setattr(error, key, value)
    return error


def answer_of(status, code):
    return {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code, "Message": "Mr Jones"}}


def caused(error, cause):
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "away", "refusal"),
    [
        (
            of_library("botocore.exceptions", "ClientError", response=answer_of(503, "SlowDown")),
            "HTTP 503",
            "SlowDown",
        ),
        (
            of_library("botocore.exceptions", "ClientError", response=answer_of(403, "AccessDenied")),
            None,
            "AccessDenied",
        ),
        (of_library("botocore.parsers", "ResponseParserError"), "ResponseParserError", "ResponseParserError"),
        (of_library("botocore.exceptions", "SSLError"), None, "SSLError"),
        (
            caused(
                of_library("boto3.exceptions", "S3UploadFailedError"),
                of_library("botocore.exceptions", "ClientError", response=answer_of(500, "InternalError")),
            ),
            "HTTP 500",
            "InternalError",
        ),
        (of_library("somewhere.else", response=answer_of(403, "AccessDenied")), None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_a_store_says_is_told_by_its_code_alone(error, away, refusal):
    assert stores.why_away(error) == away
    assert stores.refusal(error) == refusal
