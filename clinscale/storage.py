"""Local and object-store paths through fsspec: existence, atomic writes, checksums, local copies."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from clinscale.errors import DataError


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` names an object store (`s3://`, `gs://`, ...) rather than a local path."""
    return "://" in str(uri) and not str(uri).startswith("file://")


def exists(uri: str | Path) -> bool:
    """Whether a file or folder lies at `uri`."""
    fs, path = fsspec.core.url_to_fs(str(uri))
    return bool(fs.exists(path))


def join(uri: str | Path, *names: str) -> str:
    """`uri` with `names` appended, for local paths and object stores alike."""
    return "/".join([str(uri).rstrip("/"), *names])


@contextlib.contextmanager
def open_binary(uri: str | Path) -> Iterator[IO[bytes]]:
    """Open `uri` for reading, decompressing `.gz`; DataError for a missing or unreadable file."""
    try:
        with fsspec.open(str(uri), "rb", compression="infer") as stream:
            yield stream
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{uri} is a folder where a file is needed; name a file in it") from None
    except PermissionError:
        raise DataError(f"{uri} may not be read by this user; check its permissions") from None
    except (EOFError, OSError) as error:
        raise DataError(f"{uri} cannot be read ({type(error).__name__}); is it truncated?") from None


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary local path that becomes `path` when the block ends without an error, and vanishes otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
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


def read_json(uri: str | Path) -> Any:
    """The value in a JSON file; DataError names the file and the position of a fault."""
    with open_binary(uri) as stream:
        raw = stream.read()
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not valid UTF-8 at byte {error.start}; convert it to UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{uri} is not valid JSON at line {error.lineno}, column {error.colno}") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of one local file, as hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_copy(uri: str | Path, cache_dir: str | Path) -> Path:
    """A local path for `uri`: itself when local, else a download below `cache_dir`."""
    if not is_remote(uri):
        return Path(str(uri).removeprefix("file://"))
    fs, path = fsspec.core.url_to_fs(str(uri))
    target = Path(cache_dir) / hashlib.sha256(str(uri).encode()).hexdigest()[:16]
    if not target.exists():
        fs.get(path, str(target), recursive=True)
    return target
