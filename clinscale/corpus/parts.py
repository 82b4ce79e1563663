"""The one pass over the text: blocks of notes become part files, on all CPUs of a Ray cluster or in this process.

A block is what lies between two cuts of a source, and the cuts depend on its text alone. Each block becomes one Parquet
file with its notes' tokens, and with what decides which of them stay; it is there whole or not at all. A build that is
started again makes only those that are missing.
"""

import contextlib
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from clinscale.corpus.cleaning import CleaningConfig
from clinscale.corpus.leakage import TestTexts
from clinscale.corpus.near_duplicates import NearDuplicatesConfig, band_keys, signatures
from clinscale.corpus.sources import Document, Note, SourceConfig, cleaned, files_of, read_notes
from clinscale.corpus.tokenizing import SpecialIds, encode
from clinscale.errors import CapacityError
from clinscale.runtime import stream
from clinscale.storage import atomic_path, create_binary, files_in, filesystem, is_remote, join, open_binary

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

_PART_SUFFIX = ".part"
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
    is_last: bool = False
    """Of its unit."""

    @property
    def name(self) -> str:
        """Of its part file, in the order of the notes."""
        return f"{self.unit:06d}-{self.number:06d}{_PART_SUFFIX}"


@dataclass(frozen=True)
class PartMaker:
    """Turns blocks into part files; travels to the workers, its tokenizer with it."""

    folder: str
    """Of the parts, where every worker can write."""
    tokenizer: "PreTrainedTokenizerBase"
    cleaning: CleaningConfig
    near_duplicates: NearDuplicatesConfig
    test_texts: TestTexts | None
    is_validation: Callable[[Document], bool]

    def __call__(self, block: Block) -> int:
        """Write the part of `block`; returns how many notes it holds."""
        import pyarrow

        separator = SpecialIds.from_tokenizer(self.tokenizer).sep
        documents = list(cleaned(block.notes, self.cleaning, block.counts))
        texts = [document.text for document in documents]
        ids = [np.array([*found, separator], dtype="<u4") for found in encode(self.tokenizer, texts)]
        first = (block.unit * _BLOCKS_PER_UNIT + block.number) * _ROWS_PER_BLOCK
        columns: dict[str, Any] = {
            "document": pyarrow.array(range(first, first + len(texts)), pyarrow.int64()),
            "tokens": pyarrow.array([found.tobytes() for found in ids], pyarrow.binary()),
            "digest": pyarrow.array([_digest(text) for text in texts], pyarrow.binary(16)),
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
        table = pyarrow.table(columns)
        about = {"counts": json.dumps(block.counts), "is_last": json.dumps(block.is_last)}
        _write(table.replace_schema_metadata(about), join(self.folder, block.name))
        return len(texts)


def units_of(sources: Sequence[SourceConfig]) -> list[Unit]:
    """What is read apart: each large file, and small files of a folder together."""
    units: list[Unit] = []
    for source in sources:
        uris = files_of(source)
        fs, _ = filesystem(source.uri)
        group: list[str] = []
        size = 0
        for uri in uris:
            size += int(fs.size(filesystem(uri)[1]) or 0)
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


def make_parts(units: Sequence[Unit], maker: PartMaker, *, num_cpus: int, on_notes: Callable[[int], None]) -> None:
    """Make every part that is missing, by Ray Data where a session is up and in this process otherwise.

    Args:
        units: what to read.
        maker: what to do with each block.
        num_cpus: of the Ray cluster; 0 works here.
        on_notes: called with the number of notes of each part that was made.
    """
    counts = _on_ray(units, maker, num_cpus) if num_cpus else _here(units, maker)
    for count in counts:
        on_notes(count)


def _here(units: Sequence[Unit], maker: PartMaker) -> Iterator[int]:
    for unit in units:
        yield from map(maker, missing_blocks(unit, maker.folder, maker.cleaning))


def _on_ray(units: Sequence[Unit], maker: PartMaker, num_cpus: int) -> Iterator[int]:
    """A few tasks read and stream blocks to the others, which make the parts."""
    # not the whole maker: Ray Data keeps a reading task for each unit
    sources = [functools.partial(missing_blocks, unit, maker.folder, maker.cleaning) for unit in units]
    return stream(
        sources,
        functools.partial(_itself, maker),
        read={"num_cpus": 0.25, "concurrency": -(-num_cpus // 8)},
        do={"num_cpus": 0.75},
    )


def _itself(maker: PartMaker) -> PartMaker:
    return maker


def _blocks(unit: Unit, cleaning: CleaningConfig) -> Iterator[Block]:
    """A unit's notes cut after every so many characters; at least one block, the last one marked."""
    notes: list[Note] = []
    counts: Counter[str] = Counter()
    size = number = 0
    for uri in unit.uris:
        for note in read_notes(uri, unit.source, cleaning, counts):
            if size >= unit.block_characters or len(notes) == _ROWS_PER_BLOCK:
                yield Block(unit.number, number, notes, Counter(counts))
                counts.clear()
                notes, size, number = [], 0, number + 1
            notes.append(note)
            size += len(note.text)
    yield Block(unit.number, number, notes, Counter(counts), is_last=True)


def part_names(folder: str) -> list[str]:
    """Names of the parts in `folder`, in the order of the notes."""
    return [name for name in files_in(folder) if _PART.fullmatch(name)]


def _done(folder: str, unit: Unit) -> dict[int, bool]:
    """Numbers of the unit's parts that are there, and whether each is its last."""
    import pyarrow.parquet

    found = {}
    for name in part_names(folder):
        of_unit, number = map(int, name.removesuffix(_PART_SUFFIX).split("-"))
        if of_unit == unit.number:
            with open_binary(join(folder, name)) as stream:
                about = pyarrow.parquet.read_schema(stream).metadata
            found[number] = bool(json.loads(about[b"is_last"]))
    return found


def _write(table: "pyarrow.Table", uri: str) -> None:
    """Whole or not at all: an object store publishes what is complete, a local file gets its name last."""
    import pyarrow.parquet

    try:
        with create_binary(uri) if is_remote(uri) else _created(uri) as stream:
            pyarrow.parquet.write_table(table, stream, compression="none")
    except OSError as error:
        raise cannot_write(uri, error) from None


@contextlib.contextmanager
def _created(path: str) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def cannot_write(uri: str, error: OSError) -> CapacityError:
    """What to say when a disk is full or read-only."""
    return CapacityError(
        f"{uri} cannot be written ({error.strerror or type(error).__name__}); make room or choose another folder, "
        "then run the same command again: the parts that are done are kept"
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
