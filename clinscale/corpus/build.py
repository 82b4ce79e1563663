"""Notes to a ShardSet: read once, in parts, of which those notes that stay are tokenised and put together as shards.

The parts are made in any order, by any number of workers, and are kept when a build is interrupted; what is a duplicate
and the place of a note is decided when all are there. So the shards depend on the notes and the recipe alone.
"""

import contextlib
import hashlib
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinscale.config import differences
from clinscale.corpus.config import CorpusConfig
from clinscale.corpus.leakage import TestTexts
from clinscale.corpus.near_duplicates import near_duplicates
from clinscale.corpus.parts import (
    Encoder,
    Surveyor,
    Unit,
    cannot_write,
    encode_parts,
    encoded_name,
    make_parts,
    part_names,
    place_of,
    read_about,
    read_part,
    units_of,
    wherever,
)
from clinscale.corpus.shards import (
    MANIFEST,
    TOKENIZER,
    Manifest,
    ShardSet,
    Split,
    open_shards,
)
from clinscale.corpus.sources import (
    REMARKS,
    SourceConfig,
    files_of,
    refuse_unmet,
    source_digest,
    text_digest,
    warn_of_unread,
)
from clinscale.corpus.tokenizing import train_tokenizer
from clinscale.corpus.writer import SplitWriter, length_card, share_cut
from clinscale.errors import ConfigError, DataError
from clinscale.filters import Choice
from clinscale.held import hold
from clinscale.records import is_likely_cut
from clinscale.storage import (
    again_if_away,
    exists,
    files_in,
    filesystem,
    is_remote,
    join,
    local_copy,
    read_json_object,
    remove_files,
    size_bytes,
    upload,
    write_json,
)
from clinscale.tokenizers import SpecialIds, load_tokenizer, tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PARTS = "parts"
_RECIPE = "recipe.json"
_SHARD = re.compile(r"(train|validation)-(\d{5,}\.tokens|documents\.lengths)")
_PARTS_FORMAT = 4
"""Changes when parts of older code could be misread."""
_OF_BUILD = re.compile(
    r"\d{6,}-\d{6,}\.(part|encoded)|\.(\d{6,}-\d{6,}\.(part|encoded)|recipe\.json)\.[0-9a-f]{32}"
)
"""Parts, and what `atomic_path` leaves when it is killed."""
_UNKNOWN = "tokens for text that the tokenizer does not know, more than 1 % of all"
_MANY_UNKNOWN, _MOST_UNKNOWN = 0.01, 0.5
"""Shares of such tokens: above the first they are remarked on, and above the second a model would learn little else."""
_DRAWN = -1
"""Salt of the hash that draws notes for the tokenizer, which no `seed` is."""


def build_shards(
    config: CorpusConfig,
    out: str,
    *,
    test_texts: Mapping[str, Iterable[str]] | None = None,
    num_cpus: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> ShardSet:
    """Tokenise the notes of `config` into a ShardSet at `out`, or return the equal one that is there already.

    A trained tokenizer sees the training notes only, so that held-out perplexity is of text that nothing has seen, and
    nothing of the notes that are left out.

    Args:
        config: sources, cleaning, tokenizer, split.
        out: folder, local or in an object store; what an interrupted build left there is used.
        test_texts: by task, the texts of its test documents, which the corpus should not hold.
        num_cpus: of the Ray session that does the work; 0 does it in this process. Changes no shard.
        on_progress: called with the number of notes read so far.

    Raises:
        ConfigError: `out` holds a ShardSet of another recipe (names what differs).
        DataError: a source or the tokenizer cannot be read, the tokenizer does not know most of the notes, none is left
            to train on, or test documents leak while `leakage.action` is `refuse`.
        CapacityError: `out` cannot be written; the same command goes on from there. ClusterError: it is away for long.
    """
    out = wherever(out)  # `~`, `file://` and `..` behind a link are one place to all that write
    try:
        with contextlib.ExitStack() as held:
            return _build(config, out, test_texts or {}, num_cpus, on_progress or (lambda _: None), held)
    except OSError as error:
        raise cannot_write(out, error) from None


def _build(
    config: CorpusConfig,
    out: str,
    test_texts: Mapping[str, Iterable[str]],
    num_cpus: int,
    on_progress: Callable[[int], None],
    held: contextlib.ExitStack,
) -> ShardSet:
    _refuse_among_notes(out, config.sources)
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    tests = TestTexts.build(test_texts, config.leakage) if test_texts else None
    digests = [source_digest(source) for source in config.sources]
    for source in config.sources:
        warn_of_unread(source)
    recipe = _recipe(config, given, tests, [sha256 for sha256, _ in digests])
    parts = wherever(join(out, _PARTS))
    if exists(join(out, MANIFEST)):
        return _existing(out, parts, recipe)
    _claim(out, parts, recipe)
    if not is_remote(out):
        held.enter_context(hold(wherever(out), f"the build of {out}"))
    share = config.tokenizer_bytes / max(1, sum(num_bytes for _, num_bytes in digests))
    with tempfile.TemporaryDirectory(prefix="clinscale-") as cache:
        done = 0

        def on_notes(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done)

        surveyor = Surveyor(
            folder=parts,
            cleaning=config.cleaning,
            near_duplicates=config.near_duplicates,
            test_texts=tests,
            is_validation=config.is_validation,
        )
        units = units_of(config.sources)
        make_parts(units, surveyor, num_cpus=num_cpus, on_notes=on_notes)
        _refuse_unmet(parts, units)
        chosen = again_if_away(parts, lambda: _choose(parts, config, tests, scratch=cache))
    tokenizer = _tokenizer_of(out, given, config, _training_texts(parts, chosen, share))
    special = SpecialIds.from_tokenizer(tokenizer)
    encode_parts(Encoder(parts, tokenizer, chosen.dropped), num_cpus=num_cpus)
    dtype = np.dtype("<u2" if special.vocab_size <= 2**16 else "<u4")
    splits: tuple[Split, ...] = ("train", "validation")
    writers = {split: SplitWriter(out, split, dtype, config.shard_tokens) for split in splits}
    lengths: Counter[int] = Counter()
    unknown = 0
    for split, ids in _kept(parts):
        writers[split].add(ids.astype(dtype))
        lengths[len(ids) - 1] += 1
        if tokenizer.unk_token_id is not None:
            unknown += int(np.count_nonzero(ids[:-1] == tokenizer.unk_token_id))
    cards = {split: writer.finish() for split, writer in writers.items()}
    if not cards["train"].documents:
        raise DataError(
            f"no note for training in {', '.join(source.uri for source in config.sources)}; held out: "
            f"{cards['validation'].documents}, left out: {chosen.left_out}; check text_column and cleaning"
        )
    tokens = sum(length * number for length, number in lengths.items())
    if unknown > _MOST_UNKNOWN * tokens:
        raise DataError(
            f"tokenizer {config.tokenizer or 'trained'} must know most of the notes, and {unknown:,} of their "
            f"{tokens:,} tokens are {tokenizer.unk_token}; give one that was trained on text in this language and case"
        )
    many = {_UNKNOWN: unknown} if unknown > _MANY_UNKNOWN * tokens else {}
    manifest = Manifest(
        recipe=recipe,
        sources=tuple(source.uri for source in config.sources),
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        special=special,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        splits=cards,
        left_out=chosen.left_out,
        remarks=chosen.remarks | many,
        leakage=chosen.leakage,
        document_tokens=length_card(lengths),
        share_cut_at={str(limit): share_cut(lengths, limit) for limit in (512, 4096)},
    )
    write_json(join(out, MANIFEST), manifest.plain())
    _remove_parts(parts)
    return open_shards(out)


def source_bytes(config: CorpusConfig) -> int:
    """Size of all files of the sources, compressed ones as they are; DataError when one is missing."""
    return sum(size_bytes(uri) for source in config.sources for uri in files_of(source))


@dataclass(frozen=True)
class _Choice:
    """Notes of the parts that go into no shard, and the reasons."""

    dropped: NDArray[np.int64]
    """Numbers of the dropped notes, sorted."""
    left_out: dict[str, int]
    remarks: dict[str, int]
    leakage: dict[str, dict[str, int]]


def _choose(parts: str, config: CorpusConfig, tests: TestTexts | None, *, scratch: str) -> _Choice:
    """Exact copies, near copies, leaks: from the parts' columns, out of core."""
    import duckdb
    import pyarrow.dataset

    fs, path = filesystem(parts)
    names = part_names(parts)
    table = pyarrow.dataset.dataset([join(path, name) for name in names], format="parquet", filesystem=fs)
    left_out: Counter[str] = Counter()
    for name in names:
        left_out.update(read_about(parts, name)["counts"])
    dropped = np.zeros(0, np.int64)

    def drop(numbers: NDArray[np.int64], reason: str) -> None:
        nonlocal dropped
        before = len(dropped)
        dropped = np.union1d(dropped, numbers)
        if len(dropped) > before:
            left_out[reason] += len(dropped) - before

    with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": scratch}) as database:
        database.register("documents", table)
        if config.cleaning.drop_duplicates:
            copies = database.execute(
                "SELECT document FROM documents QUALIFY row_number() OVER (PARTITION BY digest ORDER BY document) > 1"
            ).fetchnumpy()
            drop(np.asarray(copies["document"], np.int64), "duplicate")
        characters, alike = database.execute(
            "SELECT characters, count(DISTINCT digest) FROM documents "
            "WHERE characters = (SELECT max(characters) FROM documents) GROUP BY characters"
        ).fetchone() or (0, 0)
        leaks = database.execute(
            "SELECT document, leaks FROM documents WHERE len(leaks) > 0 ORDER BY document"
        ).fetchall()
    leakage = tests.report({number for _, found in leaks for number in found}) if tests else {}
    leaking = np.array([document for document, _ in leaks], dtype=np.int64)
    if len(leaking) and config.leakage.action == "refuse":
        raise DataError(
            f"{len(leaking)} notes of the sources hold test documents of tasks: {leakage}; leave their files out, or "
            "set leakage.action=drop"
        )
    if config.leakage.action == "drop":
        drop(leaking, "leaked")
    if config.near_duplicates.enabled:
        others = ~pyarrow.dataset.field("document").isin(pyarrow.array(dropped))
        found = near_duplicates(table.filter(others), config.near_duplicates, scratch=scratch)
        drop(found, "near_duplicate")
    remarks = {remark: left_out.pop(remark) for remark in REMARKS if remark in left_out}
    if is_likely_cut(characters, alike):
        remarks[f"notes of {characters:,} characters, where none has more: were they cut at export?"] = alike
    return _Choice(dropped, dict(left_out), remarks, leakage)


def _refuse_unmet(parts: str, units: Sequence[Unit]) -> None:
    """Call `refuse_unmet` with all parts of a source."""
    met: dict[int, set[Choice]] = defaultdict(set)
    others: dict[int, set[str]] = defaultdict(set)
    for name in part_names(parts):
        source, about = units[place_of(name)[0]].source, read_about(parts, name)
        met[id(source)].update(map(tuple, about["met"]))
        others[id(source)].update(about["others"])
    for unit in units:
        refuse_unmet(unit.source, met[id(unit.source)], others[id(unit.source)])


def _training_texts(parts: str, chosen: _Choice, share: float) -> Iterator[tuple[int, str]]:
    """Patient and text of a share of the training notes that stay.

    They are from everywhere in the sources: archives are sorted by kind of note.
    """
    for name in part_names(parts):
        table = read_part(parts, name, ["document", "text", "patient", "is_validation"])
        is_training = ~(np.isin(table["document"].to_numpy(), chosen.dropped) | table["is_validation"].to_numpy())
        texts, patients = (table[name].filter(is_training).to_pylist() for name in ("text", "patient"))
        for patient, text in zip(patients, texts, strict=True):
            if text_digest(text, _DRAWN) < share * 2**64:
                yield patient, text


def _kept(parts: str) -> Iterator[tuple[Split, NDArray[np.uint32]]]:
    """Split and token ids of each note that stays, in the order of the sources."""
    for name in part_names(parts):
        table = read_part(parts, encoded_name(name), ["tokens", "is_validation"])
        for tokens, is_validation in zip(table["tokens"], table["is_validation"], strict=True):
            yield "validation" if is_validation.as_py() else "train", np.frombuffer(tokens.as_py(), dtype="<u4")


def _recipe(
    config: CorpusConfig,
    given: "PreTrainedTokenizerBase | None",
    tests: TestTexts | None,
    digests: Sequence[str],
) -> dict[str, Any]:
    """Everything that decides the tokens: contents, not places, so that moved notes are still the same corpus."""
    recipe = config.plain()
    recipe["tokenizer"] = tokenizer_fingerprint(given) if given else "trained"
    if given:
        del recipe["vocab_size"], recipe["min_documents"], recipe["tokenizer_bytes"]
    recipe["sources"] = {
        str(number): source.model_dump(mode="json", exclude={"uri", "id_column"}) | {"sha256": sha256}
        for number, (source, sha256) in enumerate(zip(config.sources, digests, strict=True))
    }
    if tests is None:
        del recipe["leakage"]
    else:
        recipe["leakage"]["tests"] = {
            "tasks": list(tests.tasks),
            "sha256": hashlib.sha256(tests.hashes.tobytes()).hexdigest(),
        }
    return recipe


def _existing(out: str, parts: str, recipe: dict[str, Any]) -> ShardSet:
    shards = open_shards(out)
    _refuse_another(f"ShardSet {out}", shards.manifest.recipe, recipe)
    if exists(join(parts, _RECIPE)):  # the build was killed between its last two steps
        _remove_parts(parts)
    return shards


def _claim(out: str, parts: str, recipe: dict[str, Any]) -> None:
    """Mark `out` as this build's; what an interrupted build of the recipe left there is gone on with.

    What no build has marked is somebody else's: it is neither deleted nor written over.
    """
    mark = join(parts, _RECIPE)
    recipe = {**recipe, "parts": _PARTS_FORMAT}
    if exists(mark):
        _refuse_another(f"{out} holds the unfinished build of a ShardSet, which", read_json_object(mark), recipe)
        return
    taken = [name for name in files_in(out) if _SHARD.fullmatch(name)]
    taken += [name for name in (_PARTS, TOKENIZER) if exists(join(out, name))]
    if taken:
        raise ConfigError(
            f"--out {out} must hold nothing that the build would write over, and holds {taken[0]}, which no build of a "
            "ShardSet has left there; choose another folder"
        )
    write_json(mark, recipe)


def _refuse_another(what: str, known: dict[str, Any], recipe: dict[str, Any]) -> None:
    changed = differences(known, json.loads(json.dumps(recipe)))
    if changed:
        raise ConfigError(
            f"{what} was built by another recipe; differing: {'; '.join(changed)}. "
            "Choose another folder, or delete this one to build it anew"
        )


def _refuse_among_notes(out: str, sources: Sequence[SourceConfig]) -> None:
    """The shards' own files must not be taken for notes by the next start."""
    place = _really(out)
    for source in sources:
        if _really(source.uri) in (place, *place.parents):
            raise ConfigError(f"--out {out} must not be in the source {source.uri}; choose a folder beside it")


def _really(uri: str) -> PurePath:
    """The place of files, by whatever link it was named."""
    return PurePath(uri) if is_remote(uri) else Path(wherever(uri)).resolve()


def _remove_parts(parts: str) -> None:
    """Delete what builds have written to `parts`, the mark last, and the folder when nothing else is in it."""
    remove_files(parts, [name for name in files_in(parts) if _OF_BUILD.fullmatch(name)])
    remove_files(parts, [_RECIPE])
    if not is_remote(parts):
        with contextlib.suppress(OSError):  # somebody's files
            Path(parts).rmdir()


def _tokenizer_of(
    out: str,
    given: "PreTrainedTokenizerBase | None",
    config: CorpusConfig,
    texts: Iterable[tuple[int, str]],
) -> "PreTrainedTokenizerBase":
    """The tokenizer as it loads from beside the shards: what is saved is what is used."""
    place = join(out, TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        if not exists(join(place, "tokenizer_config.json")):  # the last of its files
            made = given or train_tokenizer(texts, config.vocab_size, min_documents=config.min_documents)
            made.save_pretrained(folder)
            upload(folder, place)
        return again_if_away(place, lambda: load_tokenizer(str(local_copy(place, folder))))
