"""Masked batches whose content depends on seed and position only, never on who reads them or when.

Row order is a function of (seed, epoch, position), masks of (seed, epoch, row). Ranks take consecutive parts of a
step, so that their batches in rank order are the batch of one rank alone, whatever the number of workers.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clinscale.corpus.masking import IGNORED, MaskingConfig, mask_row
from clinscale.corpus.packing import Rows
from clinscale.corpus.tokenizing import SpecialIds
from clinscale.errors import ConfigError, DataError

Batch = dict[str, NDArray[np.int64]]
"""`input_ids`, `labels` (-100 where nothing is asked) and `attention_mask`, each (rows, row_tokens)."""

# Independent random streams drawn from one seed
_ORDER, _TRAINING_MASKS, _EVALUATION_MASKS = range(3)


def masked_batch(
    rows: Rows,
    *,
    step: int,
    rank: int,
    world_size: int,
    rows_per_step: int,
    seed: int,
    masking: MaskingConfig,
    special: SpecialIds,
) -> Batch:
    """The part of `rank` in training step `step`; every row comes once per epoch, with new masks in each.

    Raises:
        ConfigError: `rows_per_step` does not divide over the ranks.
        DataError: the split holds no rows.
    """
    if rows_per_step % world_size:
        raise ConfigError(f"rows_per_step must be a multiple of world_size={world_size}, got {rows_per_step}")
    if not len(rows):
        raise DataError("the training split holds no rows; build the ShardSet from more notes")
    share = rows_per_step // world_size
    first = step * rows_per_step + rank * share
    masked = []
    for position in range(first, first + share):
        epoch, within = divmod(position, len(rows))
        row = int(_epoch_order(len(rows), seed, epoch)[within])
        original, generator = rows[row], _generator(seed, _TRAINING_MASKS, epoch, row)
        masked.append((original, *mask_row(original, generator, masking, special)))
    return _stack(masked, special)


def evaluation_batches(
    rows: Rows,
    *,
    rank: int,
    world_size: int,
    rows_per_batch: int,
    seed: int,
    masking: MaskingConfig,
    special: SpecialIds,
    max_rows: int | None = None,
) -> Iterator[Batch]:
    """The part of `rank` in the held-out rows, each row once over all ranks, with masks that never change.

    Every rank yields the same number of equally large batches, because under ZeRO-3 all ranks must do each forward
    pass together; what is missing at the end is filled with rows without labels.

    Args:
        rows: of the held-out split.
        rank: whose part.
        world_size: number of ranks.
        rows_per_batch: rows of each batch of each rank.
        seed: of the masks.
        masking: which tokens are asked for.
        special: ids of the tokenizer.
        max_rows: read this many rows at most, evenly spread over the split; None reads all.
    """
    count = min(len(rows), max_rows or len(rows))
    rows_per_round = rows_per_batch * world_size
    for start in range(rank * rows_per_batch, -(-count // rows_per_round) * rows_per_round, rows_per_round):
        masked = []
        for position in range(start, start + rows_per_batch):
            row = min(position, count - 1) * len(rows) // count
            original = rows[row]
            if position < count:
                generator = _generator(seed, _EVALUATION_MASKS, row)
                masked.append((original, *mask_row(original, generator, masking, special)))
            else:
                masked.append((original, original, np.full_like(original, IGNORED)))
        yield _stack(masked, special)


def _stack(masked: Iterable[tuple[NDArray[np.int64], ...]], special: SpecialIds) -> Batch:
    original, seen, labels = (np.stack(arrays) for arrays in zip(*masked, strict=True))
    return {"input_ids": seen, "labels": labels, "attention_mask": (original != special.pad).astype(np.int64)}


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of all rows; 8 bytes per row, so 2 MB for a billion tokens in rows of 4,096."""
    order: NDArray[np.int64] = _generator(seed, _ORDER, epoch).permutation(count)
    return order


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng((seed & (2**64 - 1), *stream))
