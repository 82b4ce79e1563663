"""Local and object-store paths through fsspec: existence, atomic writes, checksums, local copies."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import OpenFile, get_compression

from clinscale.errors import ConfigError, DataError


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` names an object store (`s3://`, `gs://`, ...) rather than a local path."""
    return "://" in str(uri) and not str(uri).startswith("file://")


def filesystem(uri: str | Path) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it; ConfigError when its protocol cannot be spoken here."""
    try:
        fs, path = fsspec.core.url_to_fs(str(uri))
    except (ImportError, ValueError) as error:  # fsspec's answers to a missing driver and an unknown protocol
        raise ConfigError(f"{uri} cannot be opened: {error}") from None
    return fs, str(path)


def exists(uri: str | Path) -> bool:
    """Whether a file or folder lies at `uri`."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def join(uri: str | Path, *names: str) -> str:
    """`uri` with `names` appended, for local paths and object stores alike."""
    return "/".join([str(uri).rstrip("/"), *names])


@contextlib.contextmanager
def open_binary(uri: str | Path) -> Iterator[IO[bytes]]:
    """Open `uri` for reading, decompressing `.gz`; DataError for a missing or unreadable file."""
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


def _opened(uri: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    compression = get_compression(uri, "infer")
    if compression or is_remote(uri):
        fs, path = filesystem(uri)
        opened: contextlib.AbstractContextManager[IO[bytes]] = OpenFile(fs, path, compression=compression)
        return opened
    # fsspec takes three times as long, which thousands of small files make felt
    return open(os.path.expanduser(uri.removeprefix("file://")), "rb")  # noqa: PTH111, PTH123


@contextlib.contextmanager
def create_binary(uri: str | Path) -> Iterator[IO[bytes]]:
    """Open `uri` for writing, making local parent folders; an object store publishes it when the block ends."""
    fs, path = filesystem(uri)
    if not is_remote(uri):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with fs.open(path, "wb") as stream:
        yield stream


def remove_files(uri: str | Path, suffix: str) -> None:
    """Delete the files directly in folder `uri` whose names end in `suffix`; a missing folder is fine."""
    fs, path = filesystem(uri)
    for name in fs.glob(f"{path.rstrip('/')}/*{suffix}"):
        fs.rm_file(name)


def upload(folder: str | Path, uri: str | Path) -> None:
    """Copy the files of a local folder to `uri`, local or remote."""
    for path in sorted(Path(folder).iterdir()):
        with path.open("rb") as source, create_binary(join(uri, path.name)) as target:
            shutil.copyfileobj(source, target)


def decode(raw: bytes, uri: str | Path, *, offset: int = 0, encoding: str = "utf-8") -> str:
    """`raw` as text without its byte-order mark; `offset` is where it lies in its file.

    Raises:
        DataError: names the byte of the file that is not valid in `encoding`.
    """
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{uri} is not valid {encoding.upper()} at byte {offset + error.start}; "
            "convert it: iconv -f LATIN1 -t UTF-8"
        ) from None


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary local path that becomes `path` when the block ends without an error, and vanishes otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.touch()  # not mkstemp: the file must come out with the user's usual permissions
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(uri: str | Path, values: Any) -> None:
    """Write `values` so that a reader sees the old file or the whole new one, never a part."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if is_remote(uri):  # object stores publish an object only once it is complete
        with fsspec.open(str(uri), "w", encoding="utf-8") as stream:
            stream.write(text)
        return
    with atomic_path(str(uri)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(uri: str | Path, encoding: str = "utf-8") -> Any:
    """The value in a JSON file; DataError names the file and the position of a fault."""
    with open_binary(uri) as stream:
        text = decode(stream.read(), uri, encoding=encoding)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{uri} is not valid JSON at line {error.lineno}, column {error.colno}") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of one local file, as hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_copy(uri: str | Path, cache_dir: str | Path) -> Path:
    """A local path for `uri`: itself when local, else a download below `cache_dir`, whole or not there at all."""
    if not is_remote(uri):
        return Path(str(uri).removeprefix("file://"))
    fs, path = filesystem(uri)
    if not fs.exists(path):
        raise DataError(f"{uri} does not exist; check the path")
    target = Path(cache_dir) / hashlib.sha256(str(uri).encode()).hexdigest()[:16]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
        whole = Path(temporary) / "copy"
        fs.get(path, str(whole), recursive=True)
        whole.chmod(0o700)  # what is copied may be patient text, and caches lie in shared places
        with contextlib.suppress(OSError):  # another worker of this machine was faster
            whole.rename(target)
    return target
