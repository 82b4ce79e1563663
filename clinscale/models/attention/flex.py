"""The CUDA backend: FlexAttention, given the tiles of the scores that a pattern touches.

All documents are on one token axis, so that padded and unpadded batches are one case. FlexAttention skips a tile in
which no query sees a key, takes one as it is in which every query sees every key, and asks a mask about the others.
The pairs seen in a tile are counted from the pattern in closed form; nothing here is as large as the scores.

What a compiler makes of this depends on the machine, so each machine proves it before use (`why_not`).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, and_masks, flex_attention

from clinscale.models.attention import reference
from clinscale.models.attention.patterns import BigBirdPattern, Document, LongformerPattern

# Shape letters: H heads, T tokens (all documents end to end, then padding), D head size; R rows of one document,
# B its blocks (one or BigBird's), Q and K tiles of queries and keys, G blocks of all documents

Pattern = LongformerPattern | BigBirdPattern
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
ScoreMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

TILE = 128
"""Side of a tile in tokens; the sizes of FlexAttention's kernels divide it on every GPU.

BigBird's blocks of 64 would be tiles that need no mask, but torch's backward pass refuses tiles of less than 128."""

TOLERANCES = {torch.float32: 5e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Share of its norm by which a result may differ from the reference; fp32 products may be TF32 if the user says so."""

TEST_TOKENS = 2048
"""Enough for every kind of tile; the reference that a self-test compares with is dense."""

MAX_COMPILATIONS = 128
"""Compilations that torch may make, one for each length, window and mode; its default of 8 is too few."""


def why_not(
    device: torch.device, dtype: torch.dtype, head_dim: int, pattern: Pattern, dropout: float
) -> str | None:
    """The reason why this backend cannot run a batch, as a part of a sentence; None when it can.

    The first batch of a kind compiles FlexAttention and compares it with the reference, which takes seconds.

    Args:
        device: of the queries.
        dtype: of the queries.
        head_dim: D.
        pattern: of the batch.
        dropout: of attention probabilities.
    """
    if device.type != "cuda":
        return f"device {device} is not CUDA"
    if dtype not in TOLERANCES:
        return f"FlexAttention has no {_name(dtype)}"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"head size {head_dim} is not a power of two of at least 16"
    if dropout and _has_dropout(pattern):
        return f"FlexAttention has no dropout, and attention dropout is {dropout:g} (0 would be fast)"
    family = replace(pattern, documents=(), tokens=0)
    if isinstance(family, BigBirdPattern):
        family = replace(family, layer=0, random=True)  # both are tested with random blocks and without
    return _self_test(device, dtype, head_dim, family)


def attend(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    pattern: Pattern,
    *,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Softmax attention of each query over the keys that `pattern` lets it see; zeros where it sees none.

    On the CPU it is slow and has no gradients: that is for tests.

    Args:
        query_THD: queries, not yet scaled; keys and values of the same shape.
        key_THD: see `query_THD`.
        value_THD: see `query_THD`.
        pattern: of the batch.
        dropout: of probabilities, for patterns without dropout (BigBird's blocks); for others it must be 0.

    Returns:
        (T, H, D) in the inputs' dtype.
    """
    if dropout and _has_dropout(pattern):
        raise ValueError(f"FlexAttention has no dropout, and the pattern asks for {dropout:g}; see why_not")
    device, tokens = query_THD.device, len(query_THD)
    plan = plan_of(pattern, device)
    if plan.tokens > tokens:
        query_THD, key_THD, value_THD = (
            torch.nn.functional.pad(x_THD, (0, 0, 0, 0, 0, plan.tokens - tokens))
            for x_THD in (query_THD, key_THD, value_THD)
        )
    query_1HTD, key_1HTD, value_1HTD = (x_THD.transpose(0, 1)[None] for x_THD in (query_THD, key_THD, value_THD))
    limit = torch._dynamo.config.patch(recompile_limit=MAX_COMPILATIONS)
    # the inputs' dtype is the one that was tested; with autocast on and off everything would be compiled twice
    with torch.autocast(device.type, enabled=False), limit:
        output_1HTD: torch.Tensor = _flex_attention(device.type)(
            query_1HTD,
            key_1HTD,
            value_1HTD,
            score_mod=plan.score_mod,
            block_mask=plan.block_mask,
            kernel_options=_kernel_options(device, query_THD.dtype),
        )
    return output_1HTD.squeeze(0).transpose(0, 1)[:tokens]  # views, also of the gradients


def _kernel_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any] | None:
    """Changes to torch's own choice for a GPU; each was measured on an H200."""
    if device.type == "cpu":
        return None
    # with torch's blocks of 128 x 128 a mask takes more registers than there are: fifteen times as slow
    options: dict[str, Any] = {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 64, "fwd_num_warps": 4, "fwd_num_stages": 2}
    if dtype == torch.float32:
        options |= {
            "fwd_BLOCK_N": 32,
            "bwd_BLOCK_M1": 32,
            "bwd_BLOCK_N1": 64,
            "bwd_BLOCK_M2": 64,
            "bwd_BLOCK_N2": 32,
        }
        is_exact = torch.get_float32_matmul_precision() == "highest"
        if is_exact and torch.cuda.get_device_capability(device) >= (8, 0):
            # three products in TF32 for one: the precision of fp32 at the speed of tensor cores
            options["FLOAT32_PRECISION"] = "'tf32x3'"
    return options


@dataclass(frozen=True)
class Plan:
    """The facts that FlexAttention needs of a batch in one layer."""

    tokens: int
    """Length of the token axis with the padding behind it."""

    block_mask: BlockMask
    score_mod: ScoreMod | None


@functools.lru_cache(maxsize=64)
def plan_of(pattern: Pattern, device: torch.device) -> Plan:
    """The plan of a batch, kept for the layers and batches of the same pattern."""
    # a new length of the token axis compiles for seconds, padding only takes memory (its tiles are skipped):
    # up to 1024 tokens every multiple of a tile, then four lengths to each power of two
    step = max(TILE, _power_of_two(pattern.tokens) // 8)
    tokens = max(-(-pattern.tokens // step), 1) * step
    # what is made during an evaluation in inference mode must serve training too
    with torch.inference_mode(False):
        mask_mod: MaskMod
        score_mod: ScoreMod | None
        if isinstance(pattern, LongformerPattern):
            pairs_HQK, mask_mod, score_mod = _longformer(pattern, tokens, device)
        else:
            pairs_HQK, mask_mod, score_mod = _bigbird(pattern, tokens, device)
        if pattern.causal:
            pairs_HQK, mask_mod = _looking_back(pairs_HQK), and_masks(_is_behind, mask_mod)
        is_full_HQK = pairs_HQK == TILE * TILE
        block_mask = BlockMask.from_kv_blocks(
            *_tile_lists((pairs_HQK > 0) & ~is_full_HQK, device),
            *_tile_lists(is_full_HQK, device),
            BLOCK_SIZE=TILE,
            mask_mod=mask_mod,
            seq_lengths=(tokens, tokens),
        )
    return Plan(tokens, block_mask, score_mod)


def _looking_back(pairs_HQK: Array) -> Array:
    """The pairs whose key is at or before the query; on the diagonal some, if any, since a token seen sees itself."""
    behind_HQK = np.tril(pairs_HQK)
    at = np.arange(behind_HQK.shape[1])
    behind_HQK[:, at, at] = np.minimum(behind_HQK[:, at, at], TILE * TILE - 1)
    return behind_HQK


def _is_behind(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key <= query


def _tile_lists(
    tiles_HQK: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of key tiles of each query tile, (1, H, Q), and their indices, before all others (1, H, Q, K).

    As wide as there are tiles, however few are seen: another shape would compile anew.
    """
    tiles_1HQK = torch.from_numpy(tiles_HQK)[None].to(device)
    which_1HQK = tiles_1HQK.int().argsort(dim=-1, descending=True, stable=True)
    return tiles_1HQK.sum(-1, dtype=torch.int32), which_1HQK.int()


def _longformer(
    pattern: LongformerPattern, tokens: int, device: torch.device
) -> tuple[Array, MaskMod, ScoreMod | None]:
    """The pairs seen in each tile (1, Q, K), the mask, and what to add to the scores."""
    window, num_tiles = pattern.one_sided_window, tokens // TILE
    document_T = np.full(tokens, -1, np.int32)  # of tokens that are not masked
    is_global_T = np.zeros(tokens, bool)
    first_T, end_T = np.zeros(tokens, int), np.zeros(tokens, int)  # of each token's document
    pairs_QK = np.zeros((num_tiles, num_tiles))
    for number, document in enumerate(pattern.documents):
        rows = slice(document.start, document.start + document.rows)
        kept_R = document.kept()
        document_T[rows] = np.where(kept_R, number, -1)
        is_global_T[rows][list(document.global_tokens)] = True
        first_T[rows], end_T[rows] = rows.start, rows.stop
        tiles, queries_1Q = _count(document, kept_R, num_blocks=1)
        _, globals_1K = _count(document, is_global_T[rows], num_blocks=1)
        pairs_QK[tiles, tiles] += queries_1Q.T @ globals_1K

    # keys of the window, tile by tile: those before its end less those before its start
    before = np.concatenate([[0], np.cumsum((document_T >= 0) & ~is_global_T)])
    at_T, reach = np.arange(tokens), min(-(-window // TILE), num_tiles - 1)
    for shift in range(-reach, reach + 1):
        tile_T = at_T // TILE + shift
        low_T = np.maximum(np.maximum(at_T - window, first_T), tile_T * TILE)
        high_T = np.minimum(np.minimum(at_T + window + 1, end_T), (tile_T + 1) * TILE)
        seen_T = before[high_T.clip(0, tokens)] - before[low_T.clip(0, tokens)]
        seen_Q = np.where(document_T >= 0, seen_T.clip(0), 0).reshape(num_tiles, TILE).sum(1)
        queries_Q = np.arange(max(0, -shift), num_tiles - max(0, shift))
        pairs_QK[queries_Q, queries_Q + shift] += seen_Q[queries_Q]

    document_of, is_global = (torch.from_numpy(x_T).to(device) for x_T in (document_T, is_global_T))

    def mask_mod(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        near = (query - key <= window) & (key - query <= window)
        together: torch.Tensor = (document_of[query] >= 0) & (document_of[query] == document_of[key])
        return together & (near | is_global[key])

    return pairs_QK[None], mask_mod, None


def _bigbird(pattern: BigBirdPattern, tokens: int, device: torch.device) -> tuple[Array, MaskMod, ScoreMod | None]:
    """The pairs seen in each tile (H, Q, K), the mask, and what to add to the scores."""
    size, num_tiles = pattern.block_size, tokens // TILE
    family = replace(pattern, documents=(), tokens=0)
    if not pattern.random:
        family = replace(family, heads=1)  # all see the same; a mask of one head is for all
    query_document_T, key_document_T = np.full(tokens, -1, np.int32), np.full(tokens, -2, np.int32)
    # blocks of queries are numbered through all documents, blocks of keys within theirs
    query_block_T, key_block_T = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32)
    # the shape depends on the model and the token axis alone: another one would compile anew
    longest = max([pattern.max_tokens, *(document.rows for document in pattern.documents)])
    times_HGB = np.zeros((pattern.heads, tokens // size + 1, -(-longest // size)), np.uint8)
    times_HGB[:, 0] = 1  # for all documents that see all of themselves
    next_block = 1
    pairs_HQK = np.zeros((family.heads, num_tiles, num_tiles))
    for number, document in enumerate(pattern.documents):
        rows = slice(document.start, document.start + document.rows)
        kept_R = document.kept()
        if pattern.is_full(document):
            num_blocks, times_HBB = 1, times_HGB[: family.heads, :1, :1]
            answered_R = np.ones_like(kept_R)  # HF answers padding too
        else:
            num_blocks = document.rows // size
            times_HBB = _block_times(family, num_blocks)
            answered_R = kept_R
            key_block_T[rows] = np.arange(document.rows) // size
            query_block_T[rows] = next_block + key_block_T[rows]
            times_HGB[:, next_block : next_block + num_blocks, :num_blocks] = times_HBB
            next_block += num_blocks
        query_document_T[rows] = np.where(answered_R, number, -1)
        key_document_T[rows] = np.where(kept_R, number, -2)
        tiles, queries_BQ = _count(document, answered_R, num_blocks)
        _, keys_BK = _count(document, kept_R, num_blocks)
        pairs_HQK[:, tiles, tiles] += queries_BQ.T @ (times_HBB > 0) @ keys_BK

    query_document, key_document, query_block, key_block, times = (
        torch.from_numpy(x).to(device)
        for x in (query_document_T, key_document_T, query_block_T, key_block_T, times_HGB)
    )

    def mask_mod(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        together: torch.Tensor = query_document[query] == key_document[key]
        return together & (times[h, query_block[query], key_block[key]] > 0)

    if times_HGB.max() <= 1:
        return pairs_HQK, mask_mod, None
    if pattern.random:
        log_times = times.clamp(min=1).float().log()

        def score_mod(
            score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            return score + log_times[h, query_block[query], key_block[key]]
    else:
        # all that is seen more than once is the first block, by all but the first and last: no table is looked up
        most_G = torch.from_numpy(times_HGB[0].max(axis=1).clip(1)).float().log()
        query_log = most_G.to(device)[query_block]
        is_first = (key_block == 0).float()

        def score_mod(
            score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            return score + query_log[query] * is_first[key]

    return pairs_HQK, mask_mod, score_mod


@functools.lru_cache(maxsize=1024)
def _block_times(pattern: BigBirdPattern, num_blocks: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Number of times that a block of queries sees a block of keys in a block-sparse document (H, B, B)."""
    times_HBB = np.zeros((pattern.heads, num_blocks, num_blocks), np.uint8)
    times_HBB[:, [0, -1]] = 1
    for row, seen_HM, times_M in pattern.rows(num_blocks):
        for head in range(pattern.heads):
            np.add.at(times_HBB[head, row], seen_HM[head], times_M.astype(np.uint8))
    return times_HBB


def _count(
    document: Document, values_R: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], num_blocks: int
) -> tuple[slice, Array]:
    """The tiles that a document touches, and in each how many tokens of its blocks have a value (B, tiles)."""
    first, end = document.start // TILE, -(-(document.start + document.rows) // TILE)
    counts_BQ = np.zeros((num_blocks, end - first))
    at_R = np.arange(document.rows)
    np.add.at(counts_BQ, (at_R * num_blocks // document.rows, (document.start + at_R) // TILE - first), values_R)
    return slice(first, end), counts_BQ


def _has_dropout(pattern: Pattern) -> bool:
    """HF's block-sparse attention has none."""
    return isinstance(pattern, LongformerPattern) or any(map(pattern.is_full, pattern.documents))


def _power_of_two(number: int) -> int:
    """The next one, from `number` on."""
    return 1 << max(number - 1, 0).bit_length()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@functools.cache
def _flex_attention(device_type: str) -> Any:
    if device_type == "cpu":
        return flex_attention
    # without fullgraph, whatever cannot be compiled would silently be computed with all scores in memory
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@functools.cache
def _self_test(device: torch.device, dtype: torch.dtype, head_dim: int, family: Pattern) -> str | None:
    """Reason not to trust this backend with a family of patterns (one without documents); None if it can be trusted."""
    test = f"its self-test on {device}, {_name(dtype)}"
    try:
        for pattern in _test_patterns(family, TEST_TOKENS):
            difference = _difference(device, dtype, head_dim, pattern)
            if not difference <= TOLERANCES[dtype]:  # NaN is neither more nor less
                return f"{test} differs from the reference by {difference:.1g}"
    except Exception as error:  # noqa: BLE001 (compilers and drivers fail in many ways, and all mean the same here)
        first_line = str(error).strip().partition("\n")[0]
        return f"{test} failed with {type(error).__name__}: {first_line}"
    return None


def _test_patterns(family: Pattern, tokens: int) -> list[Pattern]:
    """A long document with a hole, padding and global tokens, and a short one behind it that has none of these."""
    is_bigbird = isinstance(family, BigBirdPattern)
    block_size = family.block_size if isinstance(family, BigBirdPattern) else 1
    long, short = (max(part // block_size, 1) * block_size for part in (tokens * 3 // 4, tokens // 4))
    documents = (
        Document(
            start=0,
            rows=long,
            length=long * 7 // 8,
            holes=(long // 3,),
            global_tokens=() if is_bigbird else (0, long // 2),
        ),
        Document(start=long, rows=short, length=short),
    )
    pattern = replace(family, documents=documents, tokens=long + short)
    if isinstance(pattern, BigBirdPattern):  # without and with keys that are seen more than once
        return [replace(pattern, random=random) for random in (True, False)]
    return [pattern]


@torch.inference_mode(False)
@torch.enable_grad()
def _difference(device: torch.device, dtype: torch.dtype, head_dim: int, pattern: Pattern) -> float:
    """Largest difference from the reference's output and gradients in fp32, as a share of the reference's norm."""
    shape = (pattern.tokens, pattern.heads if isinstance(pattern, BigBirdPattern) else 2, head_dim)
    draw = torch.Generator().manual_seed(0)  # not the global one, which training draws from
    query_THD, key_THD, value_THD, grad_THD = (
        torch.randn(shape, generator=draw).to(device, dtype) for _ in range(4)
    )

    def results(function: Callable[..., torch.Tensor], as_dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        inputs = [x_THD.to(as_dtype, copy=True).requires_grad_() for x_THD in (query_THD, key_THD, value_THD)]
        output_THD = function(*inputs, pattern)
        return output_THD.detach(), *torch.autograd.grad(output_THD, inputs, grad_THD.to(as_dtype))

    with torch.autocast(device.type, enabled=False):
        pairs = zip(results(attend, dtype), results(reference.attend, torch.float32), strict=True)
        return float(torch.stack([(got - wanted).norm() / wanted.norm() for got, wanted in pairs]).max())
