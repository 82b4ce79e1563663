"""Rows of equal length cut from a token stream, for any length from one ShardSet. Nothing is dropped.

By default documents follow each other as in RoBERTa's full-sentences packing and HF's `group_texts`: a row may hold
the end of one note and the start of the next, attention is not blocked between them, and only the last row is padded.

Kept apart, each document has its own frame, a long one is cut into pieces, and the pieces are laid into rows longest
first, each into the fullest row that has room (best-fit decreasing over lengths; Krell et al. 2021,
arXiv:2107.02027), so that little is padding.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clinscale.errors import ConfigError, DataError
from clinscale.tokenizers import SpecialIds

FRAME_TOKENS = 2
"""Each row, or each piece of a document, starts with the classification token and ends with a separator."""


class Rows(Sequence[NDArray[np.int64]]):
    """The rows of one split: segments of `cls`, a slice of the stream, `sep`, and padding behind them.

    A row is one segment, or as many as it holds pieces of documents where documents are kept apart.
    """

    def __init__(
        self,
        shards: Sequence[NDArray[Any]],
        *,
        row_tokens: int,
        special: SpecialIds,
        document_tokens: NDArray[Any] | None = None,
    ) -> None:
        """Cut `shards`, the consecutive pieces of one stream, all but the last equally long.

        Args:
            shards: token ids.
            row_tokens: length of every row.
            special: ids of the tokens that frame and fill rows.
            document_tokens: length of each document, its closing separator included; keeps documents apart.

        Raises:
            ConfigError: rows too short to hold anything.
            DataError: the documents' lengths are not those of the stream.
        """
        if row_tokens <= FRAME_TOKENS:
            raise ConfigError(f"row_tokens must be more than {FRAME_TOKENS}, got {row_tokens}; 4096 is usual")
        self._shards = shards
        self._shard_tokens = len(shards[0]) if shards else 1
        self._tokens = sum(map(len, shards))
        self.row_tokens = row_tokens
        """Length of every row."""
        self.special = special
        """Ids of the tokens that frame and fill rows."""
        self._beginnings: Mapping[int, NDArray[np.int64]] = {}
        self._pieces = None if document_tokens is None else _Pieces(document_tokens, row_tokens)
        if document_tokens is not None and (found := int(document_tokens.sum())) != self._tokens:
            raise DataError(
                f"the ShardSet's documents must have {self._tokens} tokens together as its stream has, "
                f"their lengths say {found}; build it anew"
            )

    @property
    def documents_apart(self) -> bool:
        """Whether each segment is of one document, and must not see the others."""
        return self._pieces is not None

    def __len__(self) -> int:
        """Number of rows; 0 for a split without documents."""
        if self._pieces:
            return len(self._pieces.first) - 1
        return -(-self._tokens // (self.row_tokens - FRAME_TOKENS))

    def __getitem__(self, index: Any) -> Any:
        """Row `index` as int64 (row_tokens,); IndexError beyond the last."""
        row = np.full(self.row_tokens, self.special.pad, dtype=np.int64)
        at = 0
        for start, length in self._slices(index):
            row[at] = self.special.cls
            row[at + 1 : at + 1 + length] = self._slice(start, start + length)
            row[at + 1 + length] = self.special.sep
            at += length + FRAME_TOKENS
        beginning = self._beginnings.get(int(index))
        if beginning is not None:
            row[1 : 1 + len(beginning)] = beginning
        return row

    def beginning_with(self, beginnings: Mapping[int, NDArray[np.int64]]) -> Self:
        """A copy of the rows in which the given tokens replace those after the first token of the rows named.

        Each must fit into the first segment of its row.
        """
        rows = copy(self)
        rows._beginnings = beginnings
        return rows

    def segments(self, index: int) -> list[int]:
        """Lengths of the segments of row `index` in tokens, their frames included; what is missing is padding."""
        return [length + FRAME_TOKENS for _, length in self._slices(index)]

    @property
    def packing_efficiency(self) -> float:
        """Share of all positions that are no padding."""
        rows = len(self)
        if not rows:
            return 1.0
        if self._pieces:
            used = int(self._pieces.length.sum()) + FRAME_TOKENS * len(self._pieces.length)
        else:
            used = self._tokens + FRAME_TOKENS * rows
        return used / (rows * self.row_tokens)

    def _slices(self, index: int) -> list[tuple[int, int]]:
        """Start of a row's segments in the stream, and their numbers of tokens without their frames."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if self._pieces:
            of_row = slice(*self._pieces.first[index : index + 2])
            return list(
                zip(self._pieces.start[of_row].tolist(), self._pieces.length[of_row].tolist(), strict=True)
            )
        width = self.row_tokens - FRAME_TOKENS
        start = int(index) * width
        return [(start, min(width, self._tokens - start))]

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens `start` to `stop` of the stream, which may cross from one shard to the next."""
        pieces = []
        while start < stop:
            shard, offset = divmod(start, self._shard_tokens)
            piece = self._shards[shard][offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)


class _Pieces:
    """The pieces of all documents, row by row; 12 bytes for each and 8 for each row."""

    def __init__(self, document_tokens: NDArray[Any], row_tokens: int) -> None:
        width = row_tokens - FRAME_TOKENS
        stored = document_tokens.astype(np.int64)
        content = stored - 1  # without the separator, which is part of the frame
        start = np.cumsum(stored) - stored
        full, rest = np.divmod(content, width)
        # pieces that fill a row, then the last pieces
        number_within = np.arange(full.sum()) - np.repeat(np.cumsum(full) - full, full)
        has_rest = rest > 0
        starts = np.concatenate([np.repeat(start, full) + number_within * width, (start + full * width)[has_rest]])
        lengths = np.concatenate([np.full(len(number_within), width), rest[has_rest]])
        rows = np.concatenate(
            [
                np.arange(len(number_within)),
                len(number_within) + _best_fit_decreasing(rest[has_rest] + FRAME_TOKENS, row_tokens),
            ]
        )
        order = np.argsort(rows, kind="stable")
        self.start = starts[order]
        """First token of each piece in the stream."""
        self.length = lengths[order].astype(np.int32)
        """Tokens of each piece, without its frame."""
        self.first = np.concatenate([[0], np.cumsum(np.bincount(rows))])
        """First piece of each row, and the number of pieces."""


def _best_fit_decreasing(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """A row for each size, so that none holds more than `capacity`: all pieces of one size at a time."""
    row_of = np.zeros(len(sizes), dtype=np.int64)
    rows_with: dict[int, list[NDArray[np.int64]]] = {}  # by the room that is left
    rooms: list[int] = []  # the keys of `rows_with`, sorted
    num_rows = 0

    def put_back(rows: NDArray[np.int64], room: int) -> None:
        if len(rows):
            if room not in rows_with:
                insort(rooms, room)
            rows_with.setdefault(room, []).append(rows)

    longest_first = np.argsort(-sizes, kind="stable")
    for pieces in np.split(longest_first, np.flatnonzero(np.diff(sizes[longest_first])) + 1):
        while len(pieces):
            size = int(sizes[pieces[0]])
            at = bisect_left(rooms, size)
            if at < len(rooms):
                room = rooms[at]
                rows = rows_with[room].pop()
                if not rows_with[room]:
                    del rows_with[room], rooms[at]
            else:
                room = capacity
                rows = num_rows + np.arange(-(-len(pieces) // (capacity // size)))
                num_rows += len(rows)
            each = room // size
            placed = np.repeat(rows, each)[: len(pieces)]
            row_of[pieces[: len(placed)]] = placed
            pieces = pieces[len(placed) :]
            filled, left = divmod(len(placed), each)
            put_back(rows[:filled], room - each * size)
            put_back(rows[filled : filled + 1], room - left * size)
            put_back(rows[filled + 1 :], room)
    return row_of
