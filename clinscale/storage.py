"""Local and object-store paths through fsspec: existence, atomic writes, checksums, local copies."""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any, TypeVar

import fsspec
from fsspec.compression import compr

from clinscale import held
from clinscale.encodings import LFS_POINTER, decode
from clinscale.errors import ConfigError, DataError, exhausted_disk
from clinscale.permissions import adopt, make_folder, open_private, refuse_foreign
from clinscale.stores import PatientReads, answered

MAX_WHOLE_BYTES = 2**30
"""The largest file, decompressed, that is read as a whole: text, XML and JSON documents."""

_MAX_UNPACKING = 100
"""Largest allowed ratio of a compressed file's unpacked size to its own; that of notes is 3 to 20."""

_UNPACKED_FREELY_BYTES = 2**26
"""Unpacked size below which a file's ratio of compression is not checked."""

_BUFFER_BYTES = 2**20
_Answer = TypeVar("_Answer")

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a", "s3fs", "boto3", "botocore"), "s3"),
    **dict.fromkeys(("gs", "gcs", "gcsfs", "google"), "gs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adlfs", "azure"), "azure"),
}
"""Extra of clinscale by the protocol of an object store, or by the package that opens it."""

_LFS_POINTER_BYTES = 1024  # as long as one may be


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` names an object store (`s3://`, `gs://`, ...) rather than a local path."""
    return "://" in str(uri) and not str(uri).startswith("file://")


def filesystem(uri: str | Path) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it; ConfigError when its protocol cannot be spoken here.

    A local one is waited for where a folder around it is held and away.

    The path is literal. Of the file systems' methods only those that take it so may be given it: `glob`, `rm`,
    `expand_path` and `get` of a single path take `[`, `*` and `?` for a pattern, which names a neighbour's files.
    """
    if not is_remote(uri):
        place = os.path.expanduser(str(uri).removeprefix("file://"))  # noqa: PTH111  `~$a.xlsx` is nobody's home
        place = os.path.abspath(place)  # noqa: PTH100  `url_to_fs` cuts paths at `::`
        held.wait_while_away(place)  # there, nothing would be found
        return fsspec.filesystem("file"), place
    try:
        fs, path = fsspec.core.url_to_fs(str(uri))
    except (ImportError, ValueError) as error:  # fsspec's answers to a missing driver and an unknown protocol
        install = how_to_install(str(uri).partition("://")[0])
        raise ConfigError(f"{uri} cannot be opened: {install or error}") from None
    return fs, str(path)


def how_to_install(needed: str) -> str:
    """The sentence that names the extra for a protocol or a package of an object store; empty where there is none."""
    extra = _EXTRAS.get(needed.partition(".")[0])
    return f"its library is not installed here; install it: pip install 'clinscale[{extra}]'" if extra else ""


def again_if_away(uri: str | Path, ask: Callable[[], _Answer]) -> _Answer:
    """Answer of `ask`, called again where the store or a held folder was away meanwhile, which it must bear.

    Raises:
        ClusterError: it is away for long.
    """
    return answered(str(uri), ask) if is_remote(uri) else held.again_if_away(uri, ask)


def exists(uri: str | Path) -> bool:
    """Whether a file or folder is at `uri`."""
    fs, path = filesystem(uri)
    if not is_remote(uri):
        return bool(fs.exists(path))
    try:
        answered(str(uri), lambda: fs.info(path))  # `exists` is False where the store does not answer
    except FileNotFoundError:
        return False
    return True


def is_folder(uri: str | Path) -> bool:
    """Whether a folder is at `uri`, where something is."""
    fs, path = filesystem(uri)
    if not is_remote(uri):
        return bool(fs.isdir(path))
    return bool(answered(str(uri), lambda: fs.info(path))["type"] == "directory")


def size_bytes(uri: str | Path) -> int:
    """Size of the file at `uri` as it is stored; 0 where the store does not tell."""
    fs, path = filesystem(uri)
    return int(again_if_away(uri, lambda: fs.size(path)) or 0)


def join(uri: str | Path, *names: str) -> str:
    """`uri` with `names` appended, for local paths and object stores alike."""
    return "/".join([str(uri).rstrip("/"), *names])


@contextlib.contextmanager
def open_binary(uri: str | Path) -> Iterator[IO[bytes]]:
    """Open `uri` for reading, decompressing `.gz`.

    Raises:
        DataError: it is missing or unreadable, is no regular file (a pipe or device never ends), or unpacks to so
            many times its size that it is no text.
    """
    try:
        with _opened(str(uri)) as stream:
            yield stream
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{uri} is a folder where a file is needed; name a file in it") from None
    except PermissionError:
        raise DataError(f"{uri} may not be read by this user; check its permissions") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{uri} cannot be read ({type(error).__name__}); is it truncated or damaged?") from None


def read_bytes(uri: str | Path) -> bytes:
    """The whole of one file, decompressed; DataError where that is more than `MAX_WHOLE_BYTES`."""
    with open_binary(uri) as stream:
        blocks = [stream.read(2**16)]
        size_bytes = len(blocks[0])
        while len(blocks[-1]) >= 2**16:
            blocks.append(stream.read(2**20))
            size_bytes += len(blocks[-1])
            if size_bytes > MAX_WHOLE_BYTES:
                raise DataError(
                    f"{uri} must have at most {MAX_WHOLE_BYTES / 2**30:g} GiB decompressed, as it is read as a whole; "
                    "split it, or give rows as JSON lines (.jsonl) or Parquet"
                )
    return b"".join(blocks)


def _opened(uri: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    opened: Any
    if is_remote(uri):
        fs, path = filesystem(uri)
        stream = answered(uri, lambda: fs.open(path, "rb"))
        opened, packed_bytes = io.BufferedReader(PatientReads(uri, stream), _BUFFER_BYTES), stream.size
    else:
        local = os.path.expanduser(uri.removeprefix("file://"))  # noqa: PTH111
        held.wait_while_away(local)
        found = os.stat(local)  # noqa: PTH116  # before it is opened, which waits for a pipe's other end
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise DataError(f"{uri} must be a regular file, got a pipe or device; copy what it gives into a file")
        # fsspec takes three times as long, which thousands of small files make felt
        opened, packed_bytes = open(local, "rb"), found.st_size  # noqa: PTH123, SIM115
    # the other programs that fsspec knows hide the format of what they packed behind their names
    return _unpacked(opened, packed_bytes, uri) if uri.lower().endswith(".gz") else opened


@contextlib.contextmanager
def _unpacked(packed: IO[bytes], packed_bytes: int | None, uri: str) -> Iterator[IO[bytes]]:
    with packed, compr["gzip"](packed, mode="rb") as stream:
        yield io.BufferedReader(_Unpacking(stream, packed_bytes, uri), 2**16)


class _Unpacking(io.RawIOBase):
    """Content of a compressed file, up to so much that the file must be made to fill memory or disk."""

    def __init__(self, stream: IO[bytes], packed_bytes: int | None, uri: str) -> None:
        self._stream, self._uri, self._packed_bytes = stream, uri, packed_bytes or 2**30

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        refuse_bomb(self._uri, self._packed_bytes, self._stream.tell())
        buffer[: len(block)] = block
        return len(block)


def refuse_bomb(uri: str | Path, packed_bytes: int, unpacked_bytes: int) -> None:
    """DataError where a file unpacks to so many times its size that it must be made to fill memory, disk or time."""
    if unpacked_bytes > max(_UNPACKED_FREELY_BYTES, _MAX_UNPACKING * packed_bytes):
        raise DataError(
            f"{uri} must unpack to at most {_MAX_UNPACKING} times its size, and goes on beyond; "
            "it is damaged or no text: unpack it yourself and look at it"
        )


@contextlib.contextmanager
def create_binary(uri: str | Path) -> Iterator[IO[bytes]]:
    """Open `uri` for writing, making local parent folders, private as `permissions` says.

    An object store gets it, from memory, when the block has ended, and publishes what is whole.
    """
    fs, path = filesystem(uri)
    if is_remote(uri):
        content = io.BytesIO()
        yield content
        answered(str(uri), lambda: fs.pipe_file(path, content.getvalue()))
        return
    make_folder(Path(path).parent)
    with open_private(path, "wb") as stream:
        yield stream


def files_in(uri: str | Path) -> list[str]:
    """Names of the files directly in folder `uri`, sorted; none of a folder that is missing."""
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)  # other processes write there, too
    try:
        found = again_if_away(uri, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(PurePath(entry["name"]).name for entry in found if entry["type"] == "file")


def remove_files(uri: str | Path, names: Iterable[str]) -> None:
    """Delete the files called `names` in folder `uri`, each by its whole name; one that is gone already is no fault."""
    fs, path = filesystem(uri)
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # also where its deletion was done and the answer lost
            again_if_away(uri, functools.partial(fs.rm_file, join(path, name)))


def upload(folder: str | Path, uri: str | Path) -> None:
    """Copy the files of a local folder to `uri`, local or remote."""
    for path in sorted(Path(folder).iterdir()):
        with path.open("rb") as source, create_binary(join(uri, path.name)) as target:
            shutil.copyfileobj(source, target)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary local path that becomes `path` when the block ends without an error, and vanishes otherwise.

    An empty file is there, private as `permissions` says, which its writer must keep.

    Raises:
        ConfigError: `path` is a pipe or a device, whose place the file would take.
    """
    target = Path(path)
    refuse_device(target)
    make_folder(target.parent)
    with held.pinned_if_held(target.parent) as folder:
        temporary = folder / f".{target.name}.{uuid.uuid4().hex}"
        open_private(temporary, "xb").close()
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(folder / target.name)
            _sync_folder(folder)
        except OSError as error:
            if error.filename is None and exhausted_disk(error):  # a write or a flush does not say of what
                error.filename = str(target)
            raise
        finally:
            temporary.unlink(missing_ok=True)


def refuse_device(path: Path) -> None:
    """Raise ConfigError where what is to be written would take the place of a pipe or a device, for all its users."""
    with contextlib.suppress(OSError):  # who writes it says what is wrong with the name
        mode = os.stat(path).st_mode  # noqa: PTH116
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(f"{path} must be a file, got a pipe or device; choose another name")


def _sync_folder(folder: Path) -> None:
    """Make a name in `folder` outlive a loss of power, as far as its file system offers that."""
    with contextlib.suppress(OSError):  # a few know no such thing; the file itself is on the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(uri: str | Path, values: Any) -> None:
    """Write `values` so that a reader sees the old file or the whole new one, never a part."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if is_remote(uri):  # object stores publish an object only once it is complete
        with create_binary(uri) as stream:
            stream.write(text.encode())
        return
    with atomic_path(str(uri)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(uri: str | Path, encoding: str = "utf-8") -> Any:
    """The value in a JSON file; DataError names the file and the position of a fault."""
    text = decode(read_bytes(uri), uri, encoding=encoding)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{uri} {error}") from None


def read_json_object(uri: str | Path) -> dict[str, Any]:
    """The object in a JSON file; DataError as `read_json`, and where it holds another value."""
    found = read_json(uri)
    if not isinstance(found, dict):
        raise DataError(f"{uri} must hold a JSON object, got a {type(found).__name__}; restore the file")
    return found


def parse_json(text: str, *, is_line: bool = False) -> Any:
    """The value that `text`, which may be one line of a file, is the JSON of.

    Raises:
        ValueError: what is wrong, in words that follow the name of the file or row and quote nothing of it.
    """
    try:
        value = _JSON.decode(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise ValueError("holds half of a character that takes two; write the file again as UTF-8") from None
    except json.JSONDecodeError as error:
        line = "" if is_line else f"line {error.lineno}, "
        ended = ", where its value has ended already" if error.msg == "Extra data" else ""
        raise ValueError(f"is not valid JSON at {line}column {error.colno}{ended}") from None
    except RecursionError:
        raise ValueError("is nested too deeply; flatten it") from None
    except _RepeatedKeyError:
        raise ValueError("has an object with the same key twice, and one would be lost; rename one") from None
    except ValueError:  # Python's limit
        raise ValueError("holds a number of thousands of digits; write it as text") from None


class _RepeatedKeyError(ValueError):
    """An object names one of its keys twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _RepeatedKeyError
    return fields


_JSON = json.JSONDecoder(object_pairs_hook=_object)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of a half; two that belong together are a whole character."""


def refuse_no_files(folder: str | Path) -> None:
    """DataError where a local folder holds in place of a file what a library that opens it cannot read.

    That is a Git LFS pointer, text in place of a file never fetched, or a pipe or device, which never ends.
    """
    for path in sorted(Path(folder).iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path} must be a regular file, got a pipe or device; put the file itself there")
        if path.is_file() and path.stat().st_size < _LFS_POINTER_BYTES and os.access(path, os.R_OK):
            with path.open("rb") as stream:
                if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise DataError(
                        f"{path} is a Git LFS pointer in place of the file; run `git lfs pull` where it came from"
                    )


def sha256(path: str | Path) -> str:
    """SHA-256 of one local file, as hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Sha256Beside:
    """SHA-256 of blocks in their order, by a thread: it costs no time beside the reading and writing of its user."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._last: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> "Sha256Beside":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, block: bytes) -> None:
        """Take one more block, when the one before is done: no more than two are held."""
        if self._last:
            self._last.result()
        self._last = self._thread.submit(self._digest.update, block)

    def hexdigest(self) -> str:
        """The hash of all blocks until now, as hex."""
        if self._last:
            self._last.result()
        return self._digest.hexdigest()


def copy_hashed(source: str | Path, target: str | Path) -> tuple[str, int]:
    """Copy one local file to a new `target`; SHA-256, as hex, and size of what was written there."""
    size_bytes = 0
    with Sha256Beside() as digest, Path(source).open("rb") as given, open_private(target, "xb") as taken:
        while block := given.read(2**22):
            digest.add(block)
            size_bytes += taken.write(block)
        return digest.hexdigest(), size_bytes


def local_copy(
    uri: str | Path, cache_dir: str | Path, *, check: Callable[[Path], object] = lambda copy: None
) -> Path:
    """A local path for `uri`: itself when local, else a download below `cache_dir`, whole or not there at all.

    `check` raises where a download is not what it must be, so that it is not kept.
    """
    if not is_remote(uri):
        return Path(str(uri).removeprefix("file://"))
    fs, path = filesystem(uri)
    if not exists(uri):
        raise DataError(f"{uri} does not exist; check the path")
    target = Path(cache_dir) / hashlib.sha256(str(uri).encode()).hexdigest()[:16]
    if os.path.lexists(target):
        refuse_foreign(target)
        return target
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
        whole = Path(temporary) / "copy"
        fs.invalidate_cache(path)  # other processes write there, too
        places = {
            name: str(whole / PurePath(name).relative_to(path))
            for name in again_if_away(uri, lambda: fs.find(path))
        }
        if any(".." in PurePath(place).parts for place in places.values()):
            raise DataError(f"{uri} holds a name with '..', which would be written elsewhere; rename it")
        # lists of both ends, since one path alone is taken for a pattern
        again_if_away(uri, lambda: fs.get(list(places), list(places.values())))
        adopt(whole)  # what is copied may be patient text, and caches are in shared places
        check(whole)
        with contextlib.suppress(OSError):  # another worker of this machine was faster
            whole.rename(target)
    return target
