"""Files by name and folder, and their text as it was encoded."""

import codecs
import contextlib
import io
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from clinscale.encodings import codec_of, decode, not_valid, refuse_windows
from clinscale.errors import DataError
from clinscale.records.notes import marked_up, tally_of
from clinscale.storage import (
    again_if_away,
    exists,
    filesystem,
    is_folder,
    is_remote,
    open_binary,
    read_bytes,
    read_json,
)

_BLOCK_BYTES = 2**16

MAX_LINE_BYTES = 2**26
"""The longest line of a table: what is longer is no row, and would take all memory before that shows."""

_DATASET_CARDS = frozenset({"dataset_dict.json", "dataset_info.json", "state.json"})
"""Files that `datasets.save_to_disk` writes beside the rows."""

_ASIDE = re.compile(
    r"(^|/)(\.|~\$|__MACOSX/|_temporary/|(?i:(README|LICEN[SC]E|COPYING|CHANGES|CHANGELOG|SHA256SUMS|MD5SUMS)(\.txt)?(\.gz)?$))"
)
"""Files and folders that are beside data and none: hidden ones, `.ipynb_checkpoints`, Excel's locks, what jobs of Spark
left when they failed, PhysioNet's terms and checksums."""

_PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.\w+(?:\.gz)?)")
"""The name of a part, counted from 0, of a table that `datasets` or a hub saved as several."""


def read_text(uri: str, encoding: str = "utf-8") -> str:
    """The whole of one text file, `.gz` decompressed, byte-order mark removed, line ends kept."""
    return decode(read_bytes(uri), uri, encoding=encoding)


def read_note(uri: str, encoding: str = "utf-8") -> str:
    """The text of a file that is one note, as `read_text`; DataError, too, where it is a document of another format."""
    text = read_text(uri, encoding)
    if fault := marked_up(text):
        raise DataError(f"{uri} {fault}")
    return text


def data_suffix(uri: str) -> str:
    """The suffix that names the format: `.csv` for `notes.csv.gz`."""
    return posixpath.splitext(str(uri).lower().removesuffix(".gz"))[1]


def list_files(uri: str, suffixes: Sequence[str]) -> list[str]:
    """`uri` itself when it is a file, else all files below it with one of `suffixes`, sorted by path.

    Left out is what is beside the data: hidden files and folders, `README.txt` and its like, and of a folder that HF's
    `save_to_disk` wrote, all but the tables that its `state.json` names (`map` leaves its results there as
    `cache-*.arrow`).

    Raises:
        DataError: nothing is at `uri`, no such file below it, or not all parts of a table that says of how many it is.
    """
    if not exists(uri):
        raise DataError(f"{uri} does not exist; check the path")
    if not is_folder(uri):
        return [str(uri)]
    names = _names_below(uri)
    tables = _tables_of_datasets(names)
    found = sorted(name for name in names if data_suffix(name) in suffixes and _is_data(name, tables))
    if not found:
        others = tally_of(map(data_suffix, names))
        fix = f"it holds {others}: export these to such, or name" if others else "name"
        raise DataError(f"{uri} is a folder without {' or '.join(suffixes)} files; {fix} the right folder")
    _refuse_missing_parts(found)
    return found


def other_files(uri: str, suffixes: Sequence[str]) -> str:
    """Numbers of the files in a folder that `list_files` leaves out by their ending: `3 .docx, 1 .pdf`; or empty.

    Annotations beside their notes are not counted.
    """
    if not is_folder(uri):
        return ""
    return tally_of(suffix for suffix in map(data_suffix, _names_below(uri)) if suffix not in suffixes)


def part_of(uri: str) -> tuple[str, int, int] | None:
    """Name of all parts, number from 0 and number of parts of `train-00000-of-00002.parquet`; None of other files."""
    match = _PART.fullmatch(uri)
    return match and (f"{match[1]}*-of-{match[3]}{match[4]}", int(match[2]), int(match[3]))


def _refuse_missing_parts(files: Sequence[str]) -> None:
    there: dict[tuple[str, int], set[int]] = {}
    for part in filter(None, map(part_of, files)):
        name, number, of = part
        there.setdefault((name, of), set()).add(number)
    for (name, of), numbers in there.items():
        if len(numbers) < of:
            raise DataError(
                f"{name} must be {of} files, got {len(numbers)} of them; get the others, or name each file by itself"
            )


def _names_below(uri: str) -> list[str]:
    """All files below a folder but those that are beside the data."""
    fs, path = filesystem(uri)
    if is_remote(uri):
        names = [fs.unstrip_protocol(name) for name in again_if_away(uri, lambda: fs.find(path))]
        root = fs.unstrip_protocol(path)
    else:  # fsspec would look at every file, four times as long
        names, root = list(_walked(path)), path
    return [name for name in names if not _ASIDE.search(name[len(root) :].lstrip("/"))]


def _walked(root: str) -> Iterator[str]:
    """All files below a local folder, those of folders that links lead to among them, each folder once."""
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        below[:] = () if place in seen else sorted(below)
        yield from () if place in seen else (f"{folder}/{name}" for name in files)
        seen.add(place)


def _tables_of_datasets(names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Folder that `save_to_disk` wrote -> the names of its tables."""
    folders = {posixpath.dirname(name) for name in names if name.endswith(".arrow")}
    cards = [name for name in names if posixpath.basename(name) == "state.json"]
    return {
        folder: frozenset(_named_tables(read_json(card)))
        for card in cards
        if (folder := posixpath.dirname(card)) in folders
    }


def _named_tables(card: Any) -> Iterator[str]:
    given = card.get("_data_files") if isinstance(card, dict) else None
    for file in given if isinstance(given, list) else []:
        if isinstance(file, dict) and isinstance(file.get("filename"), str):
            yield file["filename"]


def _is_data(name: str, tables: dict[str, frozenset[str]]) -> bool:
    folder, base = posixpath.split(name)
    if known := tables.get(folder):
        return base in known
    return base not in _DATASET_CARDS and not (base.startswith("cache-") and base.endswith(".arrow"))


@contextlib.contextmanager
def open_text(uri: str, encoding: str) -> Iterator[io.TextIOWrapper]:
    """The lines of a text file, `.gz` decompressed, without its byte-order mark and with their ends.

    Raises:
        DataError: it is not in `encoding`, which names the byte; a line is longer than `MAX_LINE_BYTES`.
    """
    with open_binary(uri) as stream:
        lines = _Lines(stream, uri)
        codec, mark_bytes = codec_of(lines.head, uri, encoding)
        lines.codec = codec
        lines.head = lines.head[mark_bytes:]
        try:
            yield io.TextIOWrapper(lines, encoding=codec, newline="")
        except UnicodeDecodeError:  # counts from the last block, not from the file's start
            raise DataError(not_valid(uri, codec, _bad_byte(uri, codec, mark_bytes))) from None


def _bad_byte(uri: str, codec: str, start: int) -> int:
    """Position of the first byte of the file that is not valid in its encoding; constant memory."""
    decoder = codecs.getincrementaldecoder(codec)()
    with open_binary(uri) as stream:
        offset = len(stream.read(start))
        while True:
            block = stream.read(2**16)
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - waiting + error.start
            if not block:
                return offset
            offset += len(block)


class _Lines(io.BufferedIOBase):
    """A stream of bytes that is refused where line breaks stay out for longer than a line may be."""

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._stream, self.name = stream, uri
        self._since_break_bytes = self._read_bytes = 0
        self.codec = ""
        """The encoding, once it is known."""
        self.head = stream.read(4096)
        """The first bytes, read to detect the encoding."""

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        if self.head:
            block, self.head = self.head, b""
        else:
            block = self._stream.read(max(size, _BLOCK_BYTES))
        refuse_windows(block, self.name, self.codec, start=self._read_bytes)
        self._read_bytes += len(block)
        if b"\n" in block or b"\r" in block:
            self._since_break_bytes = 0
        else:
            self._since_break_bytes += len(block)
            if self._since_break_bytes > MAX_LINE_BYTES:
                raise DataError(
                    f"{self.name} must have lines of at most {MAX_LINE_BYTES // 2**20} MiB, and has a longer one; "
                    "check that it is a table, and of this kind"
                )
        return block

    def read(self, size: int | None = -1, /) -> bytes:
        return self.read1(-1 if size is None else size)
