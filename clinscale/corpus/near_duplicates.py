"""Notes that are almost the same: copied forward, corrected, signed again. Of each such group the first note stays.

MinHash signatures (Broder 1997) by rensa estimate the Jaccard similarity of two notes' word shingles; notes that agree
in a whole band of their signatures are compared, and one that is near to an earlier note that stays is dropped. A chain
A~B~C therefore keeps C where C is near to B alone: less is lost than by dropping whole connected components.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError

_SEED = 42
_DETECTION = 0.99
_MEMORY_LIMIT = "1GB"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 256
"""Number of texts whose shingles are held at a time."""


class NearDuplicatesConfig(Config):
    """The rule by which notes count as almost the same."""

    enabled: bool = True
    """Whether near copies are dropped; without it only exact copies are."""

    threshold: float = Field(default=0.9, gt=0, le=1)
    """Share of word shingles that two notes have in common (Jaccard), as their signatures estimate it."""

    shingle_words: int = Field(default=5, ge=1)
    """Neighbouring words that are compared as one, case and white space aside."""

    num_perm: int = Field(default=128, ge=16)
    """Hashes of a signature, 4 bytes each; the estimate's standard error at 0.9 is 0.027 with 128."""

    def check(self) -> None:
        """Bands divide the signature."""
        if self.num_perm % 16:
            raise ConfigError(
                f"near_duplicates.num_perm must be a multiple of 16, got {self.num_perm}; 128 is usual"
            )

    @property
    def rows_per_band(self) -> int:
        """The longest bands that still bring 99 % of the pairs at the threshold together in at least one."""
        for rows in (16, 8, 4, 2):
            if 1 - (1 - self.threshold**rows) ** (self.num_perm // rows) >= _DETECTION:
                return rows
        return 1


def signatures(texts: Sequence[str], config: NearDuplicatesConfig) -> NDArray[np.uint32]:
    """MinHash signatures (len(texts), num_perm), the same on every machine."""
    import rensa

    shingles = [_shingles(text.lower().split(), config.shingle_words) for text in texts]
    digests = rensa.RMinHash.digests_from_token_sets(shingles, config.num_perm, _SEED)
    return np.array(digests, dtype=np.uint32).reshape(len(texts), config.num_perm)


def band_keys(found: NDArray[np.uint32], config: NearDuplicatesConfig) -> NDArray[np.uint64]:
    """One key for each band of each signature, (N, bands): equal keys mean equal bands, chance aside."""
    rows = config.rows_per_band
    bands = found.reshape(len(found), config.num_perm // rows, rows).astype(np.uint64)
    keys = np.arange(bands.shape[1], dtype=np.uint64)[None].repeat(len(found), 0)  # each band has keys of its own
    with np.errstate(over="ignore"):
        for row in range(rows):
            keys = (keys ^ bands[:, :, row]) * _MULTIPLIER
            keys ^= keys >> np.uint64(29)
    return keys


def near_duplicates(documents: Any, config: NearDuplicatesConfig, *, scratch: str) -> NDArray[np.int64]:
    """Numbers of the documents to drop, sorted.

    Args:
        documents: an Arrow dataset with `document` (int64, its order), `bands` (list of uint64), `signature` (bytes).
        config: what counts as near.
        scratch: folder for what does not fit into 1 GB of memory.
    """
    import duckdb

    with duckdb.connect(config={"memory_limit": _MEMORY_LIMIT, "temp_directory": scratch}) as database:
        database.register("documents", documents)
        pairs = database.execute(
            """
            WITH keys AS (SELECT document, unnest(bands) AS key FROM documents),
            neighbours AS (
                SELECT document,
                    first_value(document) OVER bucket AS first,
                    lag(document) OVER bucket AS previous
                FROM keys WINDOW bucket AS (PARTITION BY key ORDER BY document)
            )
            SELECT DISTINCT document, unnest([first, previous]) AS earlier FROM neighbours
            WHERE previous IS NOT NULL AND previous <> document ORDER BY document, earlier
            """
        ).fetchnumpy()
        later, earlier = (np.asarray(pairs[name], dtype=np.int64) for name in ("document", "earlier"))
        wanted = np.unique(np.concatenate([later, earlier]))
        database.register("wanted", _table(wanted))
        rows = database.execute(
            "SELECT document, signature FROM documents SEMI JOIN wanted USING (document) ORDER BY document"
        ).fetchnumpy()
    known = np.frombuffer(b"".join(rows["signature"]), dtype="<u4").reshape(-1, config.num_perm)
    return _near_a_kept_one(later, earlier, wanted, known, config.threshold)


def near_earlier(sides: Sequence[Collection[str]], config: NearDuplicatesConfig) -> list[int]:
    """Number of texts of each side that are almost one of an earlier side; copies but for case and blanks do not count.

    Some are missed: of the earlier texts that share a band with one, it is compared with the first alone.
    """
    seen: set[str] = set()
    known = np.zeros((0, config.num_perm), np.uint32)
    numbers = []
    for texts in sides:
        once = {" ".join(text.lower().split()): text for text in texts}
        new = [text for plain, text in once.items() if plain not in seen]
        parts = [signatures(new[start : start + _AT_ONCE], config) for start in range(0, len(new), _AT_ONCE)]
        found = np.concatenate([known[:0], *parts])
        numbers.append(int(_are_near(found, known, config).sum()))
        known = np.concatenate([known, found])
        seen |= once.keys()
    return numbers


def _are_near(
    found: NDArray[np.uint32], known: NDArray[np.uint32], config: NearDuplicatesConfig
) -> NDArray[np.bool_]:
    are_near = np.zeros(len(found), bool)
    if not len(known):
        return are_near
    for keys, of_known in zip(band_keys(found, config).T, band_keys(known, config).T, strict=True):
        order = np.argsort(of_known, kind="stable")
        first = order[np.searchsorted(of_known[order], keys).clip(max=len(order) - 1)]
        asked = np.flatnonzero((of_known[first] == keys) & ~are_near)
        are_near[asked] = (found[asked] == known[first[asked]]).mean(axis=1) >= config.threshold
    return are_near


def _near_a_kept_one(
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    wanted: NDArray[np.int64],
    known: NDArray[np.uint32],
    threshold: float,
) -> NDArray[np.int64]:
    dropped: set[int] = set()
    chunk = 2**16
    for start in range(0, len(later), chunk):
        part = slice(start, start + chunk)
        one, other = (np.searchsorted(wanted, numbers[part]) for numbers in (later, earlier))
        similar = (known[one] == known[other]).mean(axis=1) >= threshold
        for document, before in zip(later[part][similar].tolist(), earlier[part][similar].tolist(), strict=True):
            if before not in dropped:  # pairs come in document order, so its outcome is known
                dropped.add(document)
    return np.array(sorted(dropped), dtype=np.int64)


def _shingles(words: list[str], size: int) -> list[str]:
    return [" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1))]


def _table(numbers: NDArray[np.int64]) -> Any:
    import pyarrow

    return pyarrow.table({"document": numbers})
