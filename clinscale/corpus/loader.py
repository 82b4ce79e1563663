"""Masked batches whose content depends on seed and position only, never on who reads them or when.

Row order is a function of (seed, epoch, position), masks of (seed, epoch, row) and, where their share has a schedule,
of the step. Ranks take consecutive parts of a step, so that their batches in rank order are the batch of one rank
alone, whatever the number of workers. Where the rows do not divide over the ranks, blank rows fill up the last ones:
every rank must do the same forward passes.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clinscale.corpus.masking import IGNORED, MaskingConfig, mask_row, ordinary
from clinscale.corpus.packing import Rows
from clinscale.corpus.streams import EVALUATION_MASKS, ORDER, TRAINING_MASKS, generator
from clinscale.errors import DataError
from clinscale.tokenizers import SpecialIds

Batch = dict[str, NDArray[np.int64]]
"""`input_ids`, `labels` (-100 where nothing is asked) and `attention_mask`, each (rows, row_tokens).

Where rows keep documents apart also `segment_ids`: 1, 2, ... for each document of a row, 0 on padding.
"""


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
    word_starts: NDArray[np.bool_] | None = None,
    total_steps: int | None = None,
    rows_before: int | None = None,
    asks_next: bool = False,
) -> Batch:
    """The part of `rank` in training step `step`; every row comes once per epoch, with new masks in each.

    Args:
        rows: of the training split.
        step: number of the optimiser step, from 0.
        rank: whose part.
        world_size: number of ranks; each gets `ceil(rows_per_step / world_size)` rows, the last ones blank rows for
            what is missing.
        rows_per_step: rows of all ranks together in this step.
        seed: of order and masks.
        masking: which tokens are asked for.
        special: ids of the tokenizer.
        word_starts: its table, for `masking.whole_words`.
        total_steps: length of the training, for `masking.schedule`.
        rows_before: rows of all steps before this one; None where each had as many.
        asks_next: nothing is masked, and each token is asked for the next one, for a causal phase.

    Raises:
        ConfigError: whole words are asked for without their table, or a schedule without `total_steps`.
        DataError: the split holds no rows.
    """
    share = -(-rows_per_step // world_size)
    samples = rows_of_step(len(rows), step=step, rows_per_step=rows_per_step, seed=seed, rows_before=rows_before)
    fraction = masking.fraction_at(step, total_steps)
    examples = [
        _next_example(rows, row, special)
        if asks_next
        else _example(
            rows, row, generator(seed, TRAINING_MASKS, epoch, row), masking, special, word_starts, fraction
        )
        for epoch, row in samples[rank * share : (rank + 1) * share].tolist()
    ]
    return _batch(examples, share, rows, special)


def cut_rows(batch: Batch, tokens: int, special: SpecialIds) -> Batch:
    """The rows of a batch, each cut end to end into rows of `tokens`, which must divide its length.

    Each position of a long row is one of a short row, with the mask and the label that it had: nothing is read twice
    or left out, and the batch holds as many tokens as before. Nothing is put in, either: the first part of a row
    begins with the classification token and the last one ends with the separator, those between begin and end within
    notes. Notes that are kept apart are numbered anew in each part. A part of padding alone becomes a blank row.
    """
    cut = {name: array.reshape(-1, tokens).copy() for name, array in batch.items()}
    empty = ~cut["attention_mask"].any(axis=1)
    cut["input_ids"][empty, 0], cut["attention_mask"][empty, 0] = special.cls, 1
    if (segments := cut.get("segment_ids")) is not None:
        segments[empty, 0] = 1
        cut["segment_ids"] = np.where(segments > 0, segments - segments[:, :1] + 1, 0)
    return cut


def rows_of_step(
    num_rows: int, *, step: int, rows_per_step: int, seed: int, rows_before: int | None = None
) -> NDArray[np.int64]:
    """Epoch and row number of each row of a training step, in the order of the ranks; (rows_per_step, 2).

    `rows_before` are the rows of all steps before it; None where each had `rows_per_step`.

    Raises:
        DataError: the split holds no rows.
    """
    if not num_rows:
        raise DataError("the training split holds no rows; build the ShardSet from more notes")
    first = step * rows_per_step if rows_before is None else rows_before
    positions = range(first, first + rows_per_step)
    places = (divmod(position, num_rows) for position in positions)
    return np.array([(epoch, epoch_order(num_rows, seed, epoch)[within]) for epoch, within in places])


def evaluation_batches(
    rows: Rows,
    *,
    rank: int,
    world_size: int,
    rows_per_batch: int,
    seed: int,
    masking: MaskingConfig,
    special: SpecialIds,
    word_starts: NDArray[np.bool_] | None = None,
    max_rows: int | None = None,
) -> Iterator[Batch]:
    """The part of `rank` in the held-out rows, each row once over all ranks, with masks that never change.

    Every rank yields the same number of equally large batches, because under ZeRO-3 all ranks must do each forward
    pass together; what is missing at the end is filled with blank rows.

    Args:
        rows: of the held-out split.
        rank: whose part.
        world_size: number of ranks.
        rows_per_batch: rows of each batch of each rank.
        seed: of the masks.
        masking: which tokens are asked for.
        special: ids of the tokenizer.
        word_starts: its table, for `masking.whole_words`.
        max_rows: read this many rows at most, evenly spread over the split; None reads all.
    """
    count = min(len(rows), max_rows or len(rows))
    rows_per_round = rows_per_batch * world_size
    for start in range(rank * rows_per_batch, -(-count // rows_per_round) * rows_per_round, rows_per_round):
        numbers = [position * len(rows) // count for position in range(start, min(start + rows_per_batch, count))]
        examples = [
            _example(rows, row, generator(seed, EVALUATION_MASKS, row), masking, special, word_starts)
            for row in numbers
        ]
        yield _batch(examples, rows_per_batch, rows, special)


def _example(
    rows: Rows,
    row: int,
    generator: np.random.Generator,
    masking: MaskingConfig,
    special: SpecialIds,
    word_starts: NDArray[np.bool_] | None,
    fraction: float | None = None,
) -> Batch:
    """One row of a batch, arrays of (row_tokens,)."""
    original = rows[row]
    seen, labels = mask_row(original, generator, masking, special, word_starts, fraction)
    return _arrays(seen, labels, _segments(rows, row), rows)


def _next_example(rows: Rows, row: int, special: SpecialIds) -> Batch:
    """One row whose labels are the next tokens of the same document; special tokens are not asked for, as in masking.

    Where documents of a row see each other, a separator is asked for the first token of the next one.
    """
    original, segments = rows[row], _segments(rows, row)
    labels = np.full_like(original, IGNORED)
    following = original[1:]
    is_asked = (segments[1:] > 0) & (segments[1:] == segments[:-1]) & ordinary(special)[following]
    labels[:-1][is_asked] = following[is_asked]
    return _arrays(original, labels, segments, rows)


def _segments(rows: Rows, row: int) -> NDArray[np.int64]:
    """The number of each token's document within its row, from 1, and 0 on padding; (row_tokens,)."""
    lengths = rows.segments(row)
    segments = np.zeros(rows.row_tokens, np.int64)
    segments[: sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return segments


def _blank(rows: Rows, special: SpecialIds) -> Batch:
    """A row that asks for nothing; one token is left, because no model is meant to read a row of padding alone."""
    seen, segments = np.full(rows.row_tokens, special.pad, dtype=np.int64), np.zeros(rows.row_tokens, np.int64)
    seen[0], segments[0] = special.cls, 1
    return _arrays(seen, np.full_like(seen, IGNORED), segments, rows)


def _arrays(seen: NDArray[np.int64], labels: NDArray[np.int64], segments: NDArray[np.int64], rows: Rows) -> Batch:
    batch = {"input_ids": seen, "labels": labels, "attention_mask": (segments > 0).astype(np.int64)}
    return batch | {"segment_ids": segments} if rows.documents_apart else batch


def _batch(examples: Sequence[Batch], share: int, rows: Rows, special: SpecialIds) -> Batch:
    """`examples`, filled up with blank rows, as arrays of (share, row_tokens)."""
    blank = _blank(rows, special)
    filled = [*examples, *[blank] * (share - len(examples))]
    return {name: np.stack([example[name] for example in filled]) for name in blank}


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of all rows; 8 bytes per row, so 2 MB for a billion tokens in rows of 4,096."""
    order: NDArray[np.int64] = generator(seed, ORDER, epoch).permutation(count)
    return order
