"""The work on the text: blocks of notes become part files, on all CPUs of a Ray cluster or in this process.

A block is what is between two cuts of a source, and the cuts depend on its text alone. Each block becomes one Parquet
file with its cleaned notes and what decides which of them stay, and once that is decided another one with the tokens of
these. A file is there whole or not at all. A build that is started again makes only those that are missing.
"""

import contextlib
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinscale import held
from clinscale.corpus.cleaning import CleaningConfig
from clinscale.corpus.leakage import TestTexts
from clinscale.corpus.near_duplicates import NearDuplicatesConfig, band_keys, signatures
from clinscale.corpus.sources import Document, Note, SourceConfig, cleaned, files_of, read_notes
from clinscale.corpus.tokenizing import encode
from clinscale.errors import CapacityError
from clinscale.filters import Choice
from clinscale.runtime import stream
from clinscale.storage import (
    atomic_path,
    create_binary,
    files_in,
    filesystem,
    is_remote,
    join,
    open_binary,
    size_bytes,
)
from clinscale.tokenizers import SpecialIds

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

_PART_SUFFIX, _ENCODED_SUFFIX = ".part", ".encoded"
_PART = re.compile(r"\d{6,}-\d{6,}\.part")
_BLOCK_CHARACTERS = 4_000_000
"""Text of a block: little enough that a few of them fit into a worker, enough to be worth a file."""
_UNIT_FILES = 256
"""Small files that are read by one task."""
_BLOCKS_PER_UNIT, _ROWS_PER_BLOCK = 2**20, 2**20


@dataclass(frozen=True)
class Unit:
    """Files of one source that are read one after the other."""

    number: int
    source: SourceConfig
    uris: tuple[str, ...]
    block_characters: int
    """Text of each of its blocks."""


@dataclass
class Block:
    """Neighbouring notes of a unit."""

    unit: int
    number: int
    notes: list[Note] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    met: list[Choice] = field(default_factory=list)
    """Values by which rows are chosen that its unit has held so far."""
    others: list[str] = field(default_factory=list)
    """Columns that have held other values."""
    is_last: bool = False
    """Whether the block is the last of its unit."""

    @property
    def name(self) -> str:
        """Name of the block's part file; names sort in the order of the notes."""
        return f"{self.unit:06d}-{self.number:06d}{_PART_SUFFIX}"


@dataclass(frozen=True)
class Surveyor:
    """Turns blocks into part files: what decides which notes stay. Travels to the workers."""

    folder: str
    """Folder of the parts, in which every worker can write."""
    cleaning: CleaningConfig
    near_duplicates: NearDuplicatesConfig
    test_texts: TestTexts | None
    is_validation: Callable[[Document], bool]

    def __call__(self, block: Block) -> int:
        """Write the part of `block`; returns how many notes it holds."""
        import pyarrow

        documents = list(cleaned(block.notes, self.cleaning, block.counts))
        texts = [document.text for document in documents]
        first = (block.unit * _BLOCKS_PER_UNIT + block.number) * _ROWS_PER_BLOCK
        columns: dict[str, Any] = {
            "document": pyarrow.array(range(first, first + len(texts)), pyarrow.int64()),
            "text": pyarrow.array(texts, pyarrow.large_string()),
            "digest": pyarrow.array([_digest(text) for text in texts], pyarrow.binary(16)),
            "characters": pyarrow.array(map(len, texts), pyarrow.int64()),
            "patient": pyarrow.array([document.patient for document in documents], pyarrow.uint64()),
            "is_validation": pyarrow.array(map(self.is_validation, documents), pyarrow.bool_()),
            "leaks": pyarrow.array(
                [self.test_texts.find(text) if self.test_texts else [] for text in texts],
                pyarrow.list_(pyarrow.int32()),
            ),
        }
        if self.near_duplicates.enabled:
            found = signatures(texts, self.near_duplicates)
            keys = band_keys(found, self.near_duplicates)
            columns["bands"] = pyarrow.array(list(keys), pyarrow.list_(pyarrow.uint64()))
            columns["signature"] = pyarrow.array([row.astype("<u4").tobytes() for row in found], pyarrow.binary())
        about = {
            "counts": json.dumps(block.counts),
            "is_last": json.dumps(block.is_last),
            "met": json.dumps(block.met),
            "others": json.dumps(block.others),
        }
        with _holding(self.folder):
            _write(pyarrow.table(columns).replace_schema_metadata(about), join(self.folder, block.name))
        return len(texts)


@dataclass(frozen=True)
class Encoder:
    """Writes the tokens of the notes of a part that stay; travels to the workers, its tokenizer with it."""

    folder: str
    tokenizer: "PreTrainedTokenizerBase"
    dropped: NDArray[np.int64]
    """Numbers of the notes that go into no shard, sorted."""

    def __call__(self, part: str) -> int:
        """Encode the part called `part`; returns how many notes stay."""
        with _holding(self.folder):
            return self._encode(part)

    def _encode(self, part: str) -> int:
        import pyarrow

        table = read_part(self.folder, part, ["document", "text", "is_validation"])
        table = table.filter(~np.isin(table["document"].to_numpy(), self.dropped))
        separator = SpecialIds.from_tokenizer(self.tokenizer).sep
        ids = encode(self.tokenizer, table["text"].to_pylist())
        tokens = [np.array([*found, separator], dtype="<u4").tobytes() for found in ids]
        columns = {"tokens": pyarrow.array(tokens, pyarrow.binary()), "is_validation": table["is_validation"]}
        _write(pyarrow.table(columns), join(self.folder, encoded_name(part)))
        return len(table)


def encoded_name(part: str) -> str:
    """Name of the file with the tokens of a part."""
    return part.removesuffix(_PART_SUFFIX) + _ENCODED_SUFFIX


def read_part(folder: str, name: str, columns: Sequence[str]) -> "pyarrow.Table":
    """Some columns of a file of `folder`."""
    import pyarrow.parquet

    with open_binary(join(folder, name)) as stream:
        return pyarrow.parquet.read_table(stream, columns=list(columns))


def read_about(folder: str, name: str) -> dict[str, Any]:
    """The facts that a part records of its block: `counts`, `is_last`, `met`, `others`."""
    import pyarrow.parquet

    with open_binary(join(folder, name)) as stream:
        about = pyarrow.parquet.read_schema(stream).metadata
    return {key.decode(): json.loads(value) for key, value in about.items() if key != b"ARROW:schema"}


def units_of(sources: Sequence[SourceConfig]) -> list[Unit]:
    """The units that are read separately: each large file, and small files of a folder together."""
    units: list[Unit] = []
    for source in sources:
        uris = files_of(source)
        group: list[str] = []
        size = 0
        for uri in uris:
            size += size_bytes(uri)
            group.append(wherever(uri))
            if size >= _BLOCK_CHARACTERS or len(group) == _UNIT_FILES:
                units.append(Unit(len(units), source, tuple(group), _BLOCK_CHARACTERS))
                group, size = [], 0
        if group:
            units.append(Unit(len(units), source, tuple(group), _BLOCK_CHARACTERS))
    return units


def wherever(uri: str) -> str:
    """A path as processes that run in other folders find it."""
    return uri if is_remote(uri) else filesystem(uri)[1]


def missing_blocks(unit: Unit, folder: str, cleaning: CleaningConfig) -> Iterator[Block]:
    """The blocks of a unit that have no part in `folder` yet, in order; reads nothing when none is missing."""
    done = _done(folder, unit)
    if any(done.values()) and len(done) == max(done) + 1:
        return
    for block in _blocks(unit, cleaning):
        if block.number not in done:
            yield block


def make_parts(
    units: Sequence[Unit], surveyor: Surveyor, *, num_cpus: int, on_notes: Callable[[int], None]
) -> None:
    """Make every part that is missing, by Ray Data where a session is up and in this process otherwise.

    Args:
        units: what to read.
        surveyor: what to do with each block.
        num_cpus: of the Ray cluster; 0 works here.
        on_notes: called with the number of notes of each part that was made.
    """
    # not the whole surveyor: Ray Data keeps a reading task for each unit
    sources = [functools.partial(missing_blocks, unit, surveyor.folder, surveyor.cleaning) for unit in units]
    for count in _each(sources, surveyor, num_cpus):
        on_notes(count)


def encode_parts(encoder: Encoder, *, num_cpus: int) -> None:
    """Write the tokens of every part whose tokens are missing, in the same places."""
    done = set(files_in(encoder.folder))
    missing = [name for name in part_names(encoder.folder) if encoded_name(name) not in done]
    if missing:
        for _ in _each([functools.partial(iter, missing)], encoder, num_cpus):
            pass


def _each(
    sources: Sequence[Callable[[], Iterator[Any]]], work: Callable[[Any], int], num_cpus: int
) -> Iterator[int]:
    """Results of `work` for each item; on Ray a few tasks read and stream items to the others."""
    if not num_cpus:
        return (work(item) for source in sources for item in source())
    return stream(
        sources,
        functools.partial(_itself, work),
        read={"num_cpus": 0.25, "concurrency": -(-num_cpus // 8)},
        do={"num_cpus": 0.75},
    )


def _itself(work: Callable[[Any], int]) -> Callable[[Any], int]:
    return work


def _blocks(unit: Unit, cleaning: CleaningConfig) -> Iterator[Block]:
    """A unit's notes cut after every so many characters; at least one block, the last one marked."""
    notes: list[Note] = []
    counts: Counter[str] = Counter()
    wanted = unit.source.row_filter
    size = number = 0

    def block(*, is_last: bool = False) -> Block:
        return Block(
            unit.number, number, notes, Counter(counts), sorted(wanted.met), sorted(wanted.others), is_last=is_last
        )

    for uri in unit.uris:
        for note in read_notes(uri, unit.source, cleaning, counts, wanted):
            if size >= unit.block_characters or len(notes) == _ROWS_PER_BLOCK:
                yield block()
                counts.clear()
                notes, size, number = [], 0, number + 1
            notes.append(note)
            size += len(note.text)
    yield block(is_last=True)


def part_names(folder: str) -> list[str]:
    """Names of the parts in `folder`, in the order of the notes."""
    held.require_there(folder)  # one that is away looks like one without parts
    return [name for name in files_in(folder) if _PART.fullmatch(name)]


def _done(folder: str, unit: Unit) -> dict[int, bool]:
    """Numbers of the unit's parts that are there, and whether each is its last."""
    found = {}
    for name in part_names(folder):
        of_unit, number = place_of(name)
        if of_unit == unit.number:
            found[number] = bool(read_about(folder, name)["is_last"])
    return found


def place_of(part: str) -> tuple[int, int]:
    """Number of a part's unit, and of its block in it."""
    unit, number = part.removesuffix(_PART_SUFFIX).split("-")
    return int(unit), int(number)


def _write(table: "pyarrow.Table", uri: str) -> None:
    """Whole or not at all: an object store publishes what is complete, a local file gets its name last."""
    import pyarrow.parquet

    try:
        with create_binary(uri) if is_remote(uri) else _created(uri) as stream:
            pyarrow.parquet.write_table(table, stream, compression="lz4")
    except OSError as error:
        raise cannot_write(uri, error) from None


@contextlib.contextmanager
def _created(path: str) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def _holding(folder: str) -> contextlib.AbstractContextManager[None]:
    """The parts' folder, which the build has made, is waited for in this process, too."""
    if is_remote(folder):
        return contextlib.nullcontext()
    return held.hold(folder, f"the build of {Path(folder).parent}")


def cannot_write(uri: str, error: OSError) -> CapacityError:
    """The error for a disk that is full or read-only."""
    return CapacityError(
        f"{uri} cannot be written ({error.strerror or type(error).__name__}); make room or choose another folder, "
        "then run the same command again: the parts that are done are kept"
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
