"""The CPU backend: attention tile by tile, exact, with scores that stay in the processor's cache.

A tile is a few queries with all the keys they see. Its scores live only while it is worked on: the backward pass
computes them again, so that nothing but queries, keys and values is kept, where HF keeps scores, masks and
probabilities of the whole sequence. Everything is a batched matrix product or one softmax, in plain torch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clinscale.models.attention.patterns import BigBirdPattern, Document, LongformerPattern

# Shape letters: H heads, T tokens (all documents end to end), D head size; N problems of a tile, Q queries, K keys

QUERIES_PER_TILE = 64
"""Fewer waste less of the band, more make better matrix products; measured with `clinscale bench attention`."""

HEADS_PER_TILE = 6
"""Heads of one tile: as many as keep its scores, 4-byte numbers, in a core's cache."""


def attend(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    pattern: LongformerPattern | BigBirdPattern,
    *,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Softmax attention of each query over the keys that `pattern` lets it see.

    Args:
        query_THD: queries, not yet scaled; keys and values of the same shape.
        key_THD: see `query_THD`.
        value_THD: see `query_THD`.
        pattern: of the batch.
        dropout: share of probabilities set to zero, where the pattern has dropout; 0 outside training.

    Returns:
        (T, H, D) in the inputs' dtype; sums of the softmax run in fp32 or wider.
    """
    tiles = tiles_of(pattern, query_THD.dtype)
    seed = int(torch.randint(2**62, ())) if dropout else 0
    output_THD: torch.Tensor = _TiledAttention.apply(  # type: ignore[no-untyped-call]
        query_THD, key_THD, value_THD, tiles, dropout, seed
    )
    if len(tiles.zero_rows):
        output_THD = output_THD.index_fill(0, tiles.zero_rows, 0)
    return output_THD


@dataclass(frozen=True)
class Tile:
    """Consecutive queries and the keys they see."""

    queries: slice
    """Tokens."""

    keys: slice | torch.Tensor
    """Consecutive tokens, or blocks of `block_size` tokens (H, M), each head its own."""

    block_size: int = 1
    """Tokens that an entry of `keys` represents, where it is a tensor."""

    more_keys: torch.Tensor | None = None
    """Tokens (G,) seen besides consecutive `keys`: Longformer's global ones."""

    biases: "tuple[Bias, ...]" = ()
    """Added to the scores."""

    has_dropout: bool = True
    """HF's block-sparse attention has none."""

    def num_keys(self) -> int:
        """Keys that each query sees."""
        if isinstance(self.keys, slice):
            more = 0 if self.more_keys is None else len(self.more_keys)
            return int(self.keys.stop - self.keys.start) + more
        return int(self.keys.shape[-1]) * self.block_size


@dataclass(frozen=True)
class Bias:
    """Values to add to some columns of a tile's scores."""

    columns: slice
    values: torch.Tensor
    """Broadcasts to (H, Q, columns)."""


@functools.lru_cache(maxsize=128)
@torch.inference_mode(False)  # what an evaluation leaves here must serve training
def tiles_of(pattern: LongformerPattern | BigBirdPattern, dtype: torch.dtype) -> "Tiles":
    """The tiles of a batch, kept for the layers and batches of the same pattern."""
    tiles: list[Tile] = []
    zero_rows: list[int] = []
    for document in pattern.documents:
        if isinstance(pattern, LongformerPattern):
            tiles += _band(pattern, document, dtype)
            zero_rows += [document.start + token for token in document.holes]
        elif pattern.is_full(document):
            tiles += _full(document, slice(0, document.rows), dtype, causal=pattern.causal)
            if pattern.causal:  # masked tokens that begin a document see no key
                leading = itertools.takewhile(lambda pair: pair[0] == pair[1], enumerate(document.holes))
                zero_rows += [document.start + token for _, token in leading]
        else:
            tiles += _blocks(pattern, document, dtype)
            # whole blocks of padding have no tile
            end = -(-document.length // pattern.block_size) * pattern.block_size
            zero_rows += [document.start + token for token in (*document.holes, *range(document.length, end))]
    return Tiles(tiles, torch.tensor(zero_rows, dtype=torch.long))


class Tiles:
    """The tiles that `attend` works through."""

    def __init__(self, tiles: Sequence[Tile], zero_rows: torch.Tensor) -> None:
        self._tiles = tiles
        self.zero_rows = zero_rows
        """Masked tokens that share a tile with others; their answer is zero."""
        self._works: dict[Any, list[_Work]] = {}

    @torch.inference_mode(False)
    def works(self, x_HTD: torch.Tensor) -> "list[_Work]":
        """All tiles, a few heads at a time; heads outside, so that a head's keys stay in cache."""
        heads, tokens, _ = x_HTD.shape
        # products of 2-byte numbers are faster in larger batches; more threads want more problems
        together = heads if x_HTD.dtype.itemsize < 4 else min(heads, max(HEADS_PER_TILE, torch.get_num_threads()))
        key = (heads, tokens, x_HTD.dtype, together)
        if key not in self._works:
            groups = [slice(start, min(start + together, heads)) for start in range(0, heads, together)]
            self._works[key] = [
                _Work(tile, group, tokens, x_HTD.dtype) for group in groups for tile in self._tiles
            ]
        return self._works[key]


def _band(pattern: LongformerPattern, document: Document, dtype: torch.dtype) -> Iterator[Tile]:
    window, first, end = pattern.one_sided_window, document.start, document.start + document.length
    removed = [*document.holes, *document.global_tokens]
    removed_T = _removed(document, removed, dtype) if removed else None
    seen_by_all = torch.tensor(document.global_tokens) + first if document.global_tokens else None
    ahead = 0 if pattern.causal else window
    for start in range(first, end, QUERIES_PER_TILE):
        stop = min(start + QUERIES_PER_TILE, end)
        keys = slice(max(first, start - window), min(end, stop + ahead))
        biases = []
        if removed_T is not None and (values_K := removed_T[keys.start - first : keys.stop - first]).any():
            biases.append(Bias(slice(0, len(values_K)), values_K[None, None]))
        # the band is a parallelogram: two corners of the rectangle are outside, less what the document's ends cut off
        left_QQ, right_QQ = _corner(stop - start, dtype)
        cut_off = keys.start - (start - window)
        if (columns := stop - start - cut_off) > 0:
            biases.append(Bias(slice(0, columns), left_QQ[None, :, cut_off:]))
        right = start + ahead - keys.start
        if (columns := keys.stop - keys.start - right) > 0:
            biases.append(Bias(slice(right, right + columns), right_QQ[None, :, :columns]))
        if pattern.causal and seen_by_all is not None:
            is_ahead_QG = seen_by_all > torch.arange(start, stop)[:, None]
            values_QG = torch.zeros(is_ahead_QG.shape, dtype=dtype).masked_fill(is_ahead_QG, _nothing(dtype))
            run = keys.stop - keys.start
            biases.append(Bias(slice(run, run + len(seen_by_all)), values_QG[None]))
        yield Tile(slice(start, stop), keys, more_keys=seen_by_all, biases=tuple(biases))


def _full(
    document: Document, rows: slice, dtype: torch.dtype, *, causal: bool, has_dropout: bool = True
) -> Iterator[Tile]:
    """Rows that see every key of the document, or every one at or before themselves."""
    if not document.length:
        return
    removed_K = _removed(document, document.holes, dtype) if document.holes else None
    for start in range(rows.start, rows.stop, QUERIES_PER_TILE):
        stop = min(start + QUERIES_PER_TILE, rows.stop)
        seen = min(stop, document.length) if causal else document.length
        biases = []
        if removed_K is not None:
            biases.append(Bias(slice(0, seen), removed_K[None, None, :seen]))
        if causal and seen > start:
            _, right_QQ = _corner(stop - start, dtype)
            biases.append(Bias(slice(start, seen), right_QQ[None, :, : seen - start]))
        queries = slice(document.start + start, document.start + stop)
        keys = slice(document.start, document.start + seen)
        yield Tile(queries, keys, biases=tuple(biases), has_dropout=has_dropout)


def _blocks(pattern: BigBirdPattern, document: Document, dtype: torch.dtype) -> Iterator[Tile]:
    size = pattern.block_size
    num_blocks, offset = document.rows // size, document.start // size
    with_keys = -(-document.length // size)
    padding = range(document.length, document.rows)
    removed = [*document.holes, *padding]
    removed_BS = _removed(document, removed, dtype).view(-1, size) if removed else None
    if with_keys:
        yield from _full(document, slice(0, size), dtype, causal=pattern.causal, has_dropout=False)
    for row, seen, times in pattern.rows(num_blocks):
        if row >= with_keys:  # queries that are all padding get zeros
            break
        if pattern.causal:  # blocks that no head sees are left out
            is_behind_M = (seen <= row).any(axis=0)
            seen, times = seen[:, is_behind_M], times[is_behind_M]
        seen_HM = torch.from_numpy(seen.copy())
        biases = list(_blocks_ahead(seen_HM, row, size, dtype)) if pattern.causal else []
        if times[0] > 1:
            biases.append(Bias(slice(0, size), torch.full((1, 1, size), math.log(times[0]), dtype=dtype)))
        if removed_BS is not None:
            biases += _removed_blocks(removed_BS, seen_HM)
        start = document.start + row * size
        yield Tile(
            slice(start, start + size), seen_HM + offset, block_size=size, biases=tuple(biases), has_dropout=False
        )
    if with_keys == num_blocks:
        last = slice(document.rows - size, document.rows)
        yield from _full(document, last, dtype, causal=pattern.causal, has_dropout=False)


def _blocks_ahead(seen_HM: torch.Tensor, row: int, size: int, dtype: torch.dtype) -> Iterator[Bias]:
    """The keys ahead of the queries of block `row`: later ones of the same block, and blocks of single heads."""
    _, later_SS = _corner(size, dtype)
    for place, blocks_H in enumerate(seen_HM.unbind(1)):
        if (blocks_H >= row).any():
            values_HSS = (blocks_H == row)[:, None, None] * later_SS
            values_HSS = values_HSS.masked_fill((blocks_H > row)[:, None, None], _nothing(dtype))
            yield Bias(slice(place * size, (place + 1) * size), values_HSS)


def _removed_blocks(removed_BS: torch.Tensor, seen_HM: torch.Tensor) -> Iterator[Bias]:
    """The masked tokens (B, S) of the blocks that hold any."""
    size = removed_BS.shape[1]
    for place, blocks_H in enumerate(seen_HM.unbind(1)):
        is_shared = bool((blocks_H == blocks_H[0]).all())
        values_HS = removed_BS[blocks_H[:1] if is_shared else blocks_H]
        if values_HS.any():
            yield Bias(slice(place * size, (place + 1) * size), values_HS[:, None])


def _removed(document: Document, tokens: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """(rows,): a value for masked tokens that leaves nothing of them after the softmax."""
    values_T = torch.zeros(document.rows, dtype=dtype)
    values_T[list(tokens)] = _nothing(dtype)
    return values_T


@functools.lru_cache(maxsize=64)
def _corner(queries: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, Q) each: what the band cuts off at its left and right end."""
    square = torch.full((queries, queries), _nothing(dtype), dtype=dtype)
    return square.tril(-1), square.triu(1)


def _nothing(dtype: torch.dtype) -> float:
    """Low enough for a probability of 0, high enough to be added twice: rows without any key must not become NaN."""
    return torch.finfo(dtype).min / 4


class _TiledAttention(torch.autograd.Function):
    """See `attend`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        query_THD, key_THD, value_THD, tiles, dropout, seed = args
        # the scale goes into the queries, as in HF's Longformer; for a head size of 64 it changes no bit
        scale = query_THD.shape[-1] ** -0.5
        q_HTD = query_THD.transpose(0, 1).mul(scale).contiguous()
        k_HTD, v_HTD = key_THD.transpose(0, 1).contiguous(), value_THD.transpose(0, 1).contiguous()
        out_HTD = torch.zeros_like(q_HTD)
        keep = _Dropout(dropout, seed)
        buffers = _Buffers(q_HTD)
        for work in tiles.works(q_HTD):
            k_NKD = work.take_keys(k_HTD, buffers["keys"])
            probs_NQK = work.probabilities(work.take_queries(q_HTD), k_NKD, buffers)
            if dropout and work.has_dropout:
                probs_NQK.mul_(keep.mask_like(probs_NQK))
            v_NKD = work.take_keys(v_HTD, buffers["values"])
            work.put_queries(out_HTD, torch.bmm(probs_NQK, v_NKD))
        ctx.save_for_backward(q_HTD, k_HTD, v_HTD)
        ctx.tiles, ctx.dropout, ctx.seed, ctx.scale = tiles, dropout, seed, scale
        return out_HTD.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q_HTD, k_HTD, v_HTD = ctx.saved_tensors
        dout_HTD = grads[0].transpose(0, 1).contiguous()
        dtype = q_HTD.dtype
        dq_HTD = torch.zeros_like(q_HTD)
        # many tiles add to one key, so half precision is summed in fp32
        wide = torch.promote_types(dtype, torch.float32)
        dk_HTD, dv_HTD = torch.zeros_like(k_HTD, dtype=wide), torch.zeros_like(v_HTD, dtype=wide)
        keep = _Dropout(ctx.dropout, ctx.seed)
        buffers = _Buffers(q_HTD)
        for work in ctx.tiles.works(q_HTD):
            q_NQD, dout_NQD = work.take_queries(q_HTD), work.take_queries(dout_HTD)
            k_NKD = work.take_keys(k_HTD, buffers["keys"])
            probs_NQK = work.probabilities(q_NQD, k_NKD, buffers)
            mask_NQK = keep.mask_like(probs_NQK) if ctx.dropout and work.has_dropout else None
            kept_NQK = probs_NQK if mask_NQK is None else probs_NQK * mask_NQK
            work.add_keys(dv_HTD, kept_NQK, dout_NQD, buffers)
            v_NKD = work.take_keys(v_HTD, buffers["values"])
            dprobs_NQK = torch.bmm(dout_NQD, v_NKD.transpose(1, 2), out=buffers["scores"](*probs_NQK.shape))
            if mask_NQK is not None:
                dprobs_NQK.mul_(mask_NQK)
            dscores_NQK = buffers["dscores"](*probs_NQK.shape)
            torch._softmax_backward_data(dprobs_NQK, probs_NQK, -1, dtype, grad_input=dscores_NQK)
            work.put_queries(dq_HTD, torch.bmm(dscores_NQK, k_NKD))
            work.add_keys(dk_HTD, dscores_NQK, q_NQD, buffers)
        dq_HTD.mul_(ctx.scale)
        return (*(grad.to(dtype).transpose(0, 1) for grad in (dq_HTD, dk_HTD, dv_HTD)), None, None, None)


class _Buffers(dict[str, Callable[..., torch.Tensor]]):
    """Scratch memory by name that every tile uses anew, so that it stays in cache: `buffers[name](*shape)`."""

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like

    def __missing__(self, name: str) -> Callable[..., torch.Tensor]:
        memory = self._like.new_empty(0)

        def shaped(*shape: int, apart: int = 0) -> torch.Tensor:
            nonlocal memory
            *outer, inner = shape
            count = math.prod(outer) * (inner + apart)
            if memory.numel() < count:
                memory = self._like.new_empty(count)
            return memory[:count].view(*outer, inner + apart)[..., :inner]

        self[name] = shaped
        return shaped


class _Work:
    """One tile for a few of the heads, which are the N problems."""

    def __init__(self, tile: Tile, heads: slice, tokens: int, dtype: torch.dtype) -> None:
        self._heads, self._queries, self._keys, self._more = heads, tile.queries, tile.keys, tile.more_keys
        self._problems, self._num_queries = heads.stop - heads.start, tile.queries.stop - tile.queries.start
        self._num_keys, self._block_size = tile.num_keys(), tile.block_size
        self.has_dropout = tile.has_dropout
        self._biases = [
            (bias.columns, bias.values[heads] if len(bias.values) > 1 else bias.values) for bias in tile.biases
        ]
        self._rows = torch.empty(0)
        if isinstance(tile.keys, torch.Tensor):  # rows of (H * T / block_size, block_size * D)
            first_H1 = torch.arange(heads.start, heads.stop)[:, None] * (tokens // tile.block_size)
            self._rows = (tile.keys[heads] + first_H1).flatten()
        # products of 4-byte numbers are as fast on a view of the keys, those of 2-byte numbers are not
        self._is_view = isinstance(tile.keys, slice) and tile.more_keys is None and dtype.itemsize >= 4

    def probabilities(self, q_NQD: torch.Tensor, k_NKD: torch.Tensor, buffers: _Buffers) -> torch.Tensor:
        """Softmax of the scores, (N, Q, K)."""
        shape = (self._problems, self._num_queries, self._num_keys)
        scores_NQK = torch.bmm(q_NQD, k_NKD.transpose(1, 2), out=buffers["scores"](*shape))
        for columns, values in self._biases:
            scores_NQK[:, :, columns] += values
        return torch.softmax(scores_NQK, dim=-1, out=buffers["probs"](*shape))

    def take_queries(self, x_HTD: torch.Tensor) -> torch.Tensor:
        """The queries' rows, (N, Q, D)."""
        return x_HTD[self._heads, self._queries]

    def put_queries(self, x_HTD: torch.Tensor, values_NQD: torch.Tensor) -> None:
        """Write the queries' rows; no two tiles share a query."""
        x_HTD[self._heads, self._queries] = values_NQD

    def take_keys(self, x_HTD: torch.Tensor, buffer: Callable[..., torch.Tensor]) -> torch.Tensor:
        """(N, K, D); a view where it can be, else in `buffer`."""
        if self._is_view:
            return x_HTD[self._heads, self._keys]
        out_NKD = buffer(self._problems, self._num_keys, x_HTD.shape[-1])
        if isinstance(self._keys, slice):
            run = self._keys.stop - self._keys.start
            out_NKD[:, :run] = x_HTD[self._heads, self._keys]
            if self._more is not None:
                out_NKD[:, run:] = x_HTD[self._heads][:, self._more]
            return out_NKD
        width = self._block_size * x_HTD.shape[-1]
        torch.index_select(x_HTD.view(-1, width), 0, self._rows, out=out_NKD.view(-1, width))
        return out_NKD

    def add_keys(
        self,
        x_HTD: torch.Tensor,
        weights_NQK: torch.Tensor,
        values_NQD: torch.Tensor,
        buffers: _Buffers,
    ) -> None:
        """Add `weights` (transposed) times `values` to the keys' rows; tiles share keys."""
        dim = x_HTD.shape[-1]
        product_NKD = buffers["product"](self._problems, self._num_keys, dim)
        if self._num_keys % 512 == 0:
            # rows of 2**n bytes, read as columns, fall into the same cache lines: lay them a little apart
            weights_NQK = buffers["weights"](*weights_NQK.shape, apart=16).copy_(weights_NQK)
        torch.bmm(weights_NQK.transpose(1, 2), values_NQD, out=product_NKD)
        if isinstance(self._keys, slice):
            run = self._keys.stop - self._keys.start
            x_HTD[self._heads, self._keys] += product_NKD[:, :run]
            if self._more is not None:
                x_HTD[self._heads].index_add_(1, self._more, product_NKD[:, run:].to(x_HTD.dtype))
        else:
            width = self._block_size * dim
            x_HTD.view(-1, width).index_add_(0, self._rows, product_NKD.view(-1, width).to(x_HTD.dtype))


class _Dropout:
    """The same masks in forward and backward, from a seed instead of from memory."""

    def __init__(self, rate: float, seed: int) -> None:
        # 16 random bits decide on a probability: a third of the time of `bernoulli_`, which draws 53 for each
        self._dropped = round(rate * 2**16)
        self._generator = torch.Generator().manual_seed(seed)

    def mask_like(self, probs_NQK: torch.Tensor) -> torch.Tensor:
        """(N, Q, K) of 0 and 1 / (1 - rate)."""
        count = probs_NQK.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=self._generator)
        bits_NQK = words.view(torch.int16)[:count].view(probs_NQK.shape)
        keep = 1 - self._dropped / 2**16
        return (bits_NQK >= self._dropped - 2**15).to(probs_NQK.dtype).div_(keep)
