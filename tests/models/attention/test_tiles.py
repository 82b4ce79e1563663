"""Tiles against the dense definition, over patterns that nobody thought of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clinscale.models.attention import reference, tiles
from clinscale.models.attention.patterns import (
    BigBirdPattern,
    Document,
    LongformerPattern,
    documents_of,
    random_blocks,
)

HEADS, HEAD_DIM = 4, 8


@st.composite
def longformer_patterns(draw):
    length, rows = draw(st.integers(1, 300)), draw(st.integers(1, 3))
    codes = draw(
        st.lists(st.sampled_from([0, 1, 1, 1, 1, 1, 1, 2]), min_size=rows * length, max_size=rows * length)
    )
    codes = np.array(codes).reshape(rows, length)
    for row in range(rows):
        codes[row, length - draw(st.integers(0, length)) :] = 0
    window, causal = draw(st.integers(1, 200)), draw(st.booleans())
    return LongformerPattern(documents_of(codes), rows * length, window, causal)


@st.composite
def bigbird_patterns(draw):
    block_size, num_random = draw(st.sampled_from([4, 8, 16])), draw(st.integers(0, 3))
    blocks, rows = draw(st.integers(1, 24)), draw(st.integers(1, 2))
    codes = np.ones((rows, blocks * block_size), int)
    for row in range(rows):
        codes[row, draw(st.lists(st.integers(0, codes.shape[1] - 1), max_size=5))] = 0
        codes[row, codes.shape[1] - draw(st.integers(0, codes.shape[1])) :] = 0
    return BigBirdPattern(
        documents_of(codes),
        codes.size,
        heads=HEADS,
        block_size=block_size,
        num_random_blocks=num_random,
        max_tokens=1024,
        layer=draw(st.integers(0, 11)),
        random=draw(st.booleans()),
        causal=draw(st.booleans()),
    )


def results(attend, pattern, dtype=torch.float64, **options):
    torch.manual_seed(0)
    inputs = [torch.randn(pattern.tokens, HEADS, HEAD_DIM, dtype=dtype, requires_grad=True) for _ in range(3)]
    output = attend(*inputs, pattern, **options)
    return [output, *torch.autograd.grad(output, inputs, torch.randn(output.shape, dtype=dtype))]


@settings(deadline=None, max_examples=60)
@given(st.one_of(longformer_patterns(), bigbird_patterns()))
def test_output_and_gradients_are_those_of_the_definition(pattern):
    for mine, wanted in zip(results(tiles.attend, pattern), results(reference.attend, pattern), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)


ROW = LongformerPattern(documents_of(np.ones((1, 200), int)), 200, 32)


def test_backward_keeps_queries_keys_and_values_only():
    kept = []
    inputs = [torch.randn(200, HEADS, HEAD_DIM, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        tiles.attend(*inputs, ROW)
    assert kept == [200 * HEADS * HEAD_DIM] * 3


def test_dropout_is_right_on_average_and_repeats_with_the_seed():
    torch.manual_seed(1)
    query, key, value = (torch.randn(200, HEADS, HEAD_DIM) for _ in range(3))
    runs = torch.stack([tiles.attend(query, key, value, ROW, dropout=0.3) for _ in range(400)])
    wanted = tiles.attend(query, key, value, ROW)
    error = runs.std(0) / 400**0.5
    assert float(((runs.mean(0) - wanted).abs() / error).mean()) < 1  # 0.8 for a mean without bias
    again = []
    for _ in range(2):
        torch.manual_seed(3)
        again.append(tiles.attend(query, key, value, ROW, dropout=0.3))
    assert torch.equal(*again)


def test_gradients_under_dropout_are_those_of_the_same_draw():
    """By finite differences along a random direction."""
    torch.manual_seed(1)
    inputs = [torch.randn(200, HEADS, HEAD_DIM, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    directions = [torch.randn_like(x) for x in inputs]
    weights = torch.randn_like(inputs[0])

    def loss(step):
        torch.manual_seed(2)
        moved = [x + step * d for x, d in zip(inputs, directions, strict=True)]
        return (tiles.attend(*moved, ROW, dropout=0.3) * weights).sum()

    grads = torch.autograd.grad(loss(0.0), inputs)
    along = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    with torch.no_grad():
        assert float(loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(along, rel=1e-6)


def test_threads_change_no_number():
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            tiles.tiles_of.cache_clear()
            found.append(results(tiles.attend, ROW, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


# the patterns themselves


@pytest.mark.parametrize(
    ("block_size", "num_random", "max_tokens", "heads"),
    [(64, 3, 4096, 12), (16, 2, 1024, 2), (16, 2, 4096, 4), (32, 1, 2048, 3), (8, 0, 512, 2), (128, 2, 4096, 2)],
)
def test_random_blocks_are_the_ones_hf_draws(block_size, num_random, max_tokens, heads):
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    shape = {"block_size": block_size, "num_random_blocks": num_random, "max_position_embeddings": max_tokens}
    config = BigBirdConfig(**shape, hidden_size=8 * heads, num_attention_heads=heads)
    threshold = (5 + 2 * num_random) * block_size
    every = range(threshold + block_size, max_tokens + 1, 5 * block_size)
    for layer in (0, 1, 11):
        hf = BigBirdBlockSparseAttention(config, layer).train()
        for length in sorted({*every, *(n for n in (1024, 3072, 4096) if threshold < n <= max_tokens)}):
            np.random.seed(layer)
            square = {"from_block_size": block_size, "to_block_size": block_size}
            if length in (1024, 3072, 4096):
                drawn = [
                    hf._bigbird_block_rand_mask(
                        max_tokens, max_tokens, **square, num_rand_blocks=num_random, last_idx=1024
                    )[: length // block_size - 2]
                    for _ in range(heads)
                ]
            else:
                plan = hf._get_rand_attn_plan(length, block_size, num_random)
                drawn = hf._bigbird_block_rand_mask_with_head(
                    length,
                    length,
                    **square,
                    num_heads=heads,
                    plan_from_length=plan[0],
                    plan_num_rand_blocks=plan[1],
                )
            mine = random_blocks(
                layer,
                length,
                heads=heads,
                block_size=block_size,
                num_random_blocks=num_random,
                max_tokens=max_tokens,
            )
            assert (mine == np.stack(drawn)).all(), (layer, length)


def bigbird(length, *, random, heads=12):
    whole = (Document(start=0, rows=length, length=length),)
    return BigBirdPattern(
        whole, length, heads=heads, block_size=64, num_random_blocks=3, max_tokens=4096, layer=1, random=random
    )


def test_evaluation_sees_the_first_block_four_times():
    pattern = bigbird(4096, random=False, heads=2)  # none draws: twelve dense ones would be 1.6 GB of the same
    blocks = pattern.times(pattern.documents[0])[:, ::64, ::64]
    assert (blocks[:, 1:-1, 0] == 4).all()
    assert blocks[:, 1:-1, 1:].max() == 1


def test_at_1024_tokens_a_random_block_can_be_the_last_one_and_weighs_twice():
    pattern = bigbird(1024, random=True)
    assert pattern.times(pattern.documents[0]).max() == 2


def test_documents_are_read_from_codes():
    codes = [[2, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    first, second = documents_of(codes)
    assert first == Document(start=0, rows=5, length=4, holes=(2,), global_tokens=(0,))
    assert second == Document(start=5, rows=5, length=0)
