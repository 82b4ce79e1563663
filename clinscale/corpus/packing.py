"""Rows of equal length cut from a token stream: no padding but in the last row, any length from one ShardSet.

Documents follow each other as in RoBERTa's full-sentences packing and HF's `group_texts`, so a row may hold the
end of one note and the start of the next, and attention is not blocked between them. Nothing is dropped.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinscale.corpus.tokenizing import SpecialIds
from clinscale.errors import ConfigError

FRAME_TOKENS = 2
"""Each row starts with the classification token and ends with a separator."""


class Rows(Sequence[NDArray[np.int64]]):
    """The rows of one split: `cls`, a slice of the stream, `sep`; the last row is padded."""

    def __init__(self, shards: Sequence[NDArray[Any]], *, row_tokens: int, special: SpecialIds) -> None:
        """Cut `shards`, the consecutive pieces of one stream, all but the last equally long."""
        if row_tokens <= FRAME_TOKENS:
            raise ConfigError(f"row_tokens must be more than {FRAME_TOKENS}, got {row_tokens}; 4096 is usual")
        self._shards = shards
        self._shard_tokens = len(shards[0]) if shards else 1
        self._tokens = sum(map(len, shards))
        self.row_tokens = row_tokens
        """Length of every row."""
        self.special = special
        """Ids of the tokens that frame and fill rows."""

    def __len__(self) -> int:
        """Number of rows; 0 for a split without documents."""
        return -(-self._tokens // (self.row_tokens - FRAME_TOKENS))

    def __getitem__(self, index: Any) -> Any:
        """Row `index` as int64 (row_tokens,); IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        width = self.row_tokens - FRAME_TOKENS
        start = int(index) * width
        tokens = self._slice(start, min(start + width, self._tokens))
        row = np.full(self.row_tokens, self.special.pad, dtype=np.int64)
        row[0] = self.special.cls
        row[1 : 1 + len(tokens)] = tokens
        row[1 + len(tokens)] = self.special.sep
        return row

    @property
    def packing_efficiency(self) -> float:
        """Share of all positions that are no padding; 1.0 but for the last row."""
        rows = len(self)
        return (self._tokens + FRAME_TOKENS * rows) / (rows * self.row_tokens) if rows else 1.0

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the stream, which may cross from one shard to the next."""
        pieces = []
        while start < stop:
            shard, offset = divmod(start, self._shard_tokens)
            piece = self._shards[shard][offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)
