"""Files of a ShardSet as a build writes them, and the figures of its notes' lengths."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinscale.corpus.packing import FRAME_TOKENS
from clinscale.corpus.shards import SHARD_SUFFIX, ShardFile, Split, SplitCard, lengths_file
from clinscale.storage import create_binary, join


class SplitWriter:
    """Writes one split's stream of ids as files of equal length."""

    def __init__(self, out: str, split: Split, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self._out, self._split, self._dtype = out, split, dtype
        self._shard_bytes = shard_tokens * dtype.itemsize
        self._pending, self._lengths = bytearray(), bytearray()
        self._files: list[ShardFile] = []

    def add(self, ids: NDArray[Any]) -> None:
        """Append one document's ids, its separator included."""
        self._lengths += len(ids).to_bytes(4, "little")
        self._pending += ids.tobytes()
        while len(self._pending) >= self._shard_bytes:
            self._write(self._shard_bytes)

    def finish(self) -> SplitCard:
        """Write what is left and say what was written."""
        if self._pending:
            self._write(len(self._pending))
        tokens = sum(file.tokens for file in self._files)
        with create_binary(join(self._out, lengths_file(self._split))) as stream:
            stream.write(self._lengths)
        return SplitCard(
            documents=len(self._lengths) // 4,
            tokens=tokens,
            files=tuple(self._files),
            lengths_sha256=hashlib.sha256(self._lengths).hexdigest(),
        )

    def _write(self, size: int) -> None:
        content = bytes(self._pending[:size])
        del self._pending[:size]
        name = f"{self._split}-{len(self._files):05d}{SHARD_SUFFIX}"
        with create_binary(join(self._out, name)) as stream:
            stream.write(content)
        sha256 = hashlib.sha256(content).hexdigest()
        self._files.append(ShardFile(name=name, tokens=size // self._dtype.itemsize, sha256=sha256))


def length_card(lengths: Counter[int]) -> dict[str, float]:
    """Mean and quantiles of the lengths of notes in tokens."""
    values, counts = np.array(sorted(lengths)), np.array([lengths[length] for length in sorted(lengths)])
    quantiles = np.quantile(values, [0.05, 0.5, 0.95, 1], weights=counts, method="inverted_cdf")
    mean = round(float(np.average(values, weights=counts)), 1)
    return {"mean": mean, **dict(zip(("p05", "p50", "p95", "max"), map(float, quantiles), strict=True))}


def share_cut(lengths: Counter[int], limit: int) -> float:
    """Share of notes that do not fit into `limit` tokens with their frame."""
    cut = sum(count for length, count in lengths.items() if length + FRAME_TOKENS > limit)
    return round(cut / lengths.total(), 4)
