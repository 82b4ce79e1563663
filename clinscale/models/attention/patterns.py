"""The one definition of each attention pattern, as plain numbers that every backend reads.

Tokens of a batch are laid end to end: document b of a padded batch begins at b * L, of an unpadded one where the
last ended. Longformer after Beltagy et al. 2020 (section 3.1), BigBird after Zaheer et al. 2020 (section 2), each
as `transformers` runs it.

A causal pattern is the same one, of whose keys each query sees those at or before itself: what Longformer's own
language model does with its window (section 4). A global token stays one for all behind it, and itself looks back
only, so that nothing ahead reaches a token through it.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PAPER_LENGTHS = (1024, 3072, 4096)
"""Lengths at which HF draws the random blocks as the BigBird paper's code did."""


@dataclass(frozen=True)
class Document:
    """One row of a batch, or one note of a row that holds several, on the token axis."""

    start: int
    """Index of the document's first token."""

    rows: int
    """Tokens that an answer is given for, padding included."""

    length: int
    """Tokens up to the last that is not padding."""

    holes: tuple[int, ...] = ()
    """Masked tokens below `length`, relative to `start`."""

    global_tokens: tuple[int, ...] = ()
    """Longformer's tokens with global attention, relative to `start`."""

    def kept(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(rows,): not masked."""
        kept = np.arange(self.rows) < self.length
        kept[list(self.holes)] = False
        return kept


@dataclass(frozen=True)
class LongformerPattern:
    """A token sees its neighbours and the global tokens; a global token sees the whole document.

    A masked token is seen by none and gets zeros. The rows of global tokens hold their local attention here; the
    module replaces them (`global_queries`).
    """

    documents: tuple[Document, ...]
    tokens: int
    """Length of the token axis."""
    one_sided_window: int
    """Tokens seen to either side; half of HF's `attention_window`."""
    causal: bool = False
    """No token sees what comes after it."""

    def sees(self, document: Document) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Dense (rows, rows): may the query see the key; the definition that backends are tested against."""
        at = np.arange(document.rows)
        local, is_global = document.kept(), np.zeros(document.rows, bool)
        is_global[list(document.global_tokens)] = True
        near = np.abs(at[:, None] - at[None, :]) <= self.one_sided_window
        sees: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = local[:, None] & (near & local | is_global)
        return np.tril(sees) if self.causal else sees


@dataclass(frozen=True)
class BigBirdPattern:
    """A block of tokens sees its neighbours, the first and last block and a few random ones; short rows see all.

    A key that is drawn twice counts twice in the softmax, as in HF. In block-sparse rows a masked query gets zeros;
    in full rows it gets an answer like any other. A document that is all padding gets zeros (HF: the mean of padding).
    """

    documents: tuple[Document, ...]
    tokens: int
    """Length of the token axis."""
    heads: int
    block_size: int
    num_random_blocks: int
    max_tokens: int
    """The model's position table; the paper's plan is drawn for that length."""
    layer: int
    random: bool
    """Random blocks as in training; otherwise block 0 represents each of them, as HF evaluates."""
    always_full: bool = False
    """Every row sees all, however long: `attention_type="original_full"`."""
    causal: bool = False
    """No token sees what comes after it."""

    def is_full(self, document: Document) -> bool:
        """Too short for blocks: HF's switch to full attention."""
        return self.always_full or document.rows <= (5 + 2 * self.num_random_blocks) * self.block_size

    def rows(self, num_blocks: int) -> "Iterator[tuple[int, Ints, np.ndarray]]":
        """Rows of all blocks but the first and last: the number, the blocks seen (H, M) and their multiplicity (M,)."""
        plan = random_blocks(
            self.layer,
            num_blocks * self.block_size,
            heads=self.heads,
            block_size=self.block_size,
            num_random_blocks=self.num_random_blocks,
            max_tokens=self.max_tokens,
        )
        last = num_blocks - 1
        for row in range(1, last):
            fixed = sorted({0, row - 1, row, row + 1, last})
            seen = np.broadcast_to(np.array(fixed), (self.heads, len(fixed)))
            times = np.ones(len(fixed), int)
            if self.random:
                seen = np.concatenate([seen, plan[:, row - 1]], axis=1)
                times = np.ones(seen.shape[1], int)
            else:
                times[0] += self.num_random_blocks
            yield row, seen, times

    def times(self, document: Document) -> Ints:
        """Dense (H, rows, rows): how often the query sees the key; the definition that backends are tested against."""
        keys = document.kept()
        if self.is_full(document):
            times = np.broadcast_to(keys.astype(int), (self.heads, document.rows, document.rows))
            return np.tril(times) if self.causal else times
        size = self.block_size
        blocks = np.zeros((self.heads, document.rows // size, document.rows // size), int)
        blocks[:, [0, -1]] = 1
        for row, seen, times in self.rows(document.rows // size):
            for head in range(self.heads):
                np.add.at(blocks[head, row], seen[head], times)
        times = blocks.repeat(size, 1).repeat(size, 2) * keys[:, None] * keys
        return np.tril(times) if self.causal else times


@functools.lru_cache(maxsize=512)
def random_blocks(
    layer: int, length: int, *, heads: int, block_size: int, num_random_blocks: int, max_tokens: int
) -> Ints:
    """BigBird's random blocks of one layer, the same in every step; drawn as HF does, from a generator of its own.

    HF's `_bigbird_block_rand_mask` (at `PAPER_LENGTHS`) and `_bigbird_block_rand_mask_with_head` (elsewhere) seed the
    global NumPy generator with the layer's number in each forward pass; this is a pure function.

    Returns:
        (heads, length / block_size - 2, num_random_blocks): for each block but the first and last.
    """
    draw = np.random.RandomState(layer)
    if length in PAPER_LENGTHS:
        plan = [_paper_plan(draw, max_tokens, block_size, num_random_blocks) for _ in range(heads)]
        return np.stack(plan)[:, : length // block_size - 2]
    # the first blocks of a document are the candidates; HF's plan for every length that is block-sparse at all
    candidates = 2 * num_random_blocks + 5
    blocks = length // block_size
    plan_HRM = np.zeros((heads, blocks - 2, num_random_blocks), np.int64)
    for row in range(1, blocks):
        for head in range(heads):
            order = draw.permutation(candidates)
            excluded = {row - 1, row, row + 1, 0, candidates - 1}
            excluded |= {candidates - 2} if row == 1 else set()
            excluded |= {1} if row == candidates - 2 else set()
            if row <= blocks - 2:  # HF draws for the last block too, and throws it away
                chosen = [block for block in order if block not in excluded][:num_random_blocks]
                plan_HRM[head, row - 1] = chosen
    return plan_HRM


def _paper_plan(draw: np.random.RandomState, max_tokens: int, block_size: int, num_random_blocks: int) -> Ints:
    """One head's plan for `max_tokens`; candidates end with the first 1,024 tokens."""
    blocks = max_tokens // block_size
    inner = np.arange(1, blocks - 1)
    last = 1024 // block_size - 1 if block_size < 512 else blocks - 1
    plan = np.zeros((blocks - 2, num_random_blocks), np.int64)
    for row in range(1, blocks - 1):
        start = row - 2
        if row == 1:
            candidates = inner[2:last]
        elif row == 2:
            candidates = inner[3:last]
        elif start > last or row >= blocks - 3:
            candidates = inner[:last]
        elif row + 1 == last:
            candidates = inner[:start]
        else:
            candidates = np.concatenate((inner[:start], inner[row + 1 : last]))
        plan[row - 1] = draw.permutation(candidates)[:num_random_blocks]
    return plan


def documents_of(codes_BL: Sequence[Sequence[int]] | Ints, rows: int | None = None) -> tuple[Document, ...]:
    """The documents of a padded batch, from 0 (masked), 1 (local) and 2 (global) for each token (B, L).

    `rows` are the tokens of each row that an answer is wanted for; None is all.
    """
    codes = np.asarray(codes_BL)
    width = codes.shape[1]
    return tuple(_document(index * width, rows or width, code_L) for index, code_L in enumerate(codes))


def documents_of_segments(codes_BL: Ints, segments_BL: Ints) -> tuple[Document, ...]:
    """The documents of rows that hold several: each run of one number, 0 being padding, is a document (B, L)."""
    codes, documents = codes_BL.ravel(), []
    is_first_BL = np.diff(segments_BL, axis=1, prepend=-1) != 0
    firsts = np.flatnonzero(is_first_BL).tolist()
    for start, end in zip(firsts, [*firsts[1:], codes.size], strict=True):
        if segments_BL.flat[start]:
            documents.append(_document(start, end - start, codes[start:end]))
    return tuple(documents)


def _document(start: int, rows: int, code_L: Ints) -> Document:
    kept = np.flatnonzero(code_L)
    length = int(kept[-1]) + 1 if len(kept) else 0
    return Document(
        start=start,
        rows=rows,
        length=length,
        holes=tuple(np.flatnonzero(code_L[:length] == 0).tolist()),
        global_tokens=tuple(np.flatnonzero(code_L == 2).tolist()),
    )
