"""Notes to a ShardSet: tokenised once, in one streaming pass, by a tokenizer that is given or trained first."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from clinscale.config import Config, differences
from clinscale.corpus.cleaning import CleaningConfig
from clinscale.corpus.packing import FRAME_TOKENS
from clinscale.corpus.shards import (
    MANIFEST,
    SHARD_SUFFIX,
    TOKENIZER,
    Manifest,
    ShardFile,
    ShardSet,
    Split,
    SplitCard,
    open_shards,
)
from clinscale.corpus.sources import Document, SourceConfig, read_documents, source_digest, text_digest
from clinscale.corpus.tokenizing import (
    SMALLEST_VOCABULARY,
    SpecialIds,
    encode,
    load_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)
from clinscale.errors import ConfigError, DataError
from clinscale.storage import create_binary, exists, join, remove_files, upload, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_CHARACTERS = 1_000_000
"""Text handed to the tokenizer at once: enough to keep all cores busy, little enough to forget."""


class CorpusConfig(Config):
    """What a ShardSet is made from; all of it changes the tokens, so all of it is recipe."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Files and folders of notes, read in this order."""

    cleaning: CleaningConfig = CleaningConfig()
    """What is changed in the notes and which are left out."""

    tokenizer: str | None = None
    """HF name or folder, e.g. that of the model to continue from; None trains one on the training notes."""

    vocab_size: int = Field(default=8192, ge=SMALLEST_VOCABULARY)
    """Size of the trained vocabulary at most; RoBERTa's is 50,265. Unused when a tokenizer is given."""

    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Probability of a note to be held out for validation, decided by a hash of its text."""

    seed: int = Field(default=0, ge=0)
    """Of the validation split."""

    shard_tokens: int = Field(default=2**24, ge=1)
    """Tokens per file; one file of each split is held in memory while building (32 MiB at 2 bytes)."""


def build_shards(config: CorpusConfig, out: str, *, on_progress: Callable[[int], None] | None = None) -> ShardSet:
    """Tokenise the notes of `config` into a ShardSet at `out`, or return the equal one that is there already.

    A trained tokenizer sees the training notes only, so that held-out perplexity is of text that nothing has seen.

    Args:
        config: sources, cleaning, tokenizer, split.
        out: folder, local or in an object store.
        on_progress: called with the number of notes written so far.

    Raises:
        ConfigError: `out` holds a ShardSet of another recipe (names what differs).
        DataError: a source or the tokenizer cannot be read, or no note is left to train on.
    """
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    recipe = _recipe(config, given)
    if exists(join(out, MANIFEST)):
        return _existing(out, recipe)
    remove_files(out, SHARD_SUFFIX)  # of a build that was interrupted
    tokenizer = _save_tokenizer(given or train_tokenizer(_training_texts(config), config.vocab_size), out)
    special = SpecialIds.from_tokenizer(tokenizer)
    dtype = np.dtype("<u2" if special.vocab_size <= 2**16 else "<u4")
    splits: tuple[Split, ...] = ("train", "validation")
    writers = {split: _SplitWriter(out, split, dtype, config.shard_tokens) for split in splits}
    lengths: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    for batch in _batches(read_documents(config.sources, config.cleaning, counts=left_out)):
        texts = [document.text for document in batch]
        for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
            writers[_split_of(text, config)].add([*ids, special.sep])
            lengths[len(ids)] += 1
        if on_progress:
            on_progress(lengths.total())
    cards = {split: writer.finish() for split, writer in writers.items()}
    if not cards["train"].documents:
        raise DataError(
            f"no note for training in {', '.join(source.uri for source in config.sources)}; held out: "
            f"{cards['validation'].documents}, left out: {dict(left_out)}; check text_column and cleaning"
        )
    manifest = Manifest(
        recipe=recipe,
        sources=tuple(source.uri for source in config.sources),
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        special=special,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        splits=cards,
        left_out=dict(left_out),
        document_tokens=_length_card(lengths),
        share_cut_at={str(limit): _share_cut(lengths, limit) for limit in (512, 4096)},
    )
    write_json(join(out, MANIFEST), manifest.plain())
    return open_shards(out)


class _SplitWriter:
    """Writes one split's stream of ids as files of equal length."""

    def __init__(self, out: str, split: Split, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self._out, self._split, self._dtype = out, split, dtype
        self._shard_bytes = shard_tokens * dtype.itemsize
        self._pending = bytearray()
        self._files: list[ShardFile] = []
        self._documents = 0

    def add(self, ids: list[int]) -> None:
        """Append one document's ids, its separator included."""
        self._documents += 1
        self._pending += np.array(ids, dtype=self._dtype).tobytes()
        while len(self._pending) >= self._shard_bytes:
            self._write(self._shard_bytes)

    def finish(self) -> SplitCard:
        """Write what is left and say what was written."""
        if self._pending:
            self._write(len(self._pending))
        tokens = sum(file.tokens for file in self._files)
        return SplitCard(documents=self._documents, tokens=tokens, files=tuple(self._files))

    def _write(self, size: int) -> None:
        content = bytes(self._pending[:size])
        del self._pending[:size]
        name = f"{self._split}-{len(self._files):05d}{SHARD_SUFFIX}"
        with create_binary(join(self._out, name)) as stream:
            stream.write(content)
        sha256 = hashlib.sha256(content).hexdigest()
        self._files.append(ShardFile(name=name, tokens=size // self._dtype.itemsize, sha256=sha256))


def _recipe(config: CorpusConfig, given: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    """What decides the tokens: contents instead of places, so that moved notes are still the same corpus."""
    recipe = config.plain()
    recipe["tokenizer"] = tokenizer_fingerprint(given) if given else "trained"
    if given:
        del recipe["vocab_size"]
    recipe["sources"] = {
        str(number): source.model_dump(mode="json", exclude={"uri", "id_column"})
        | {"sha256": source_digest(source)}
        for number, source in enumerate(config.sources)
    }
    return recipe


def _existing(out: str, recipe: dict[str, Any]) -> ShardSet:
    shards = open_shards(out)
    changed = differences(shards.manifest.recipe, recipe)
    if changed:
        raise ConfigError(
            f"ShardSet {out} was built by another recipe; differing: {'; '.join(changed)}. "
            "Choose another folder, or delete this one to build it anew"
        )
    return shards


def _training_texts(config: CorpusConfig) -> Iterator[str]:
    for document in read_documents(config.sources, config.cleaning):
        if _split_of(document.text, config) == "train":
            yield document.text


def _save_tokenizer(tokenizer: "PreTrainedTokenizerBase", out: str) -> "PreTrainedTokenizerBase":
    """Save the tokenizer with the shards and return it as it loads from there: what is saved is what is used."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        upload(folder, join(out, TOKENIZER))
        return load_tokenizer(folder)


def _split_of(text: str, config: CorpusConfig) -> Split:
    """By a hash of the text, so that exact duplicates never straddle and added notes move no other."""
    return "validation" if text_digest(text, config.seed) < config.validation_fraction * 2**64 else "train"


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Lists of documents of about `_BATCH_CHARACTERS` together."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _length_card(lengths: Counter[int]) -> dict[str, float]:
    values, counts = np.array(sorted(lengths)), np.array([lengths[length] for length in sorted(lengths)])
    quantiles = np.quantile(values, [0.05, 0.5, 0.95, 1], weights=counts, method="inverted_cdf")
    mean = round(float(np.average(values, weights=counts)), 1)
    return {"mean": mean, **dict(zip(("p05", "p50", "p95", "max"), map(float, quantiles), strict=True))}


def _share_cut(lengths: Counter[int], limit: int) -> float:
    """Share of notes that do not fit into `limit` tokens with their frame."""
    cut = sum(count for length, count in lengths.items() if length + FRAME_TOKENS > limit)
    return round(cut / lengths.total(), 4)
