from dataclasses import replace

import numpy as np
import pytest
import torch

from clinscale.models.attention import exact, flex, reference
from clinscale.models.attention.patterns import (
    BigBirdPattern,
    Document,
    LongformerPattern,
    documents_of_segments,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TILE = flex.TILE

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def documents(*of_each):
    """Documents of (rows, length, holes, global tokens) end to end."""
    made, start = [], 0
    for rows, length, holes, global_tokens in of_each:
        made.append(Document(start, rows, length, holes, global_tokens))
        start += rows
    return tuple(made), start


def longformer(*of_each, window):
    return LongformerPattern(*documents(*of_each), window)


def bigbird(*of_each, **changes):
    made, tokens = documents(*(document if len(document) == 4 else (*document, ()) for document in of_each))
    # full up to (5 + 2 * 1) * 16 = 112 tokens
    model = {"heads": 2, "block_size": 16, "num_random_blocks": 1, "max_tokens": 512, "layer": 1, "random": True}
    return BigBirdPattern(made, tokens, **(model | changes))


def notes_apart(pattern, *lengths, row_tokens):
    """Notes of these lengths that share a row, each with a global first token, as the encoder hands them over."""
    segments = np.zeros((2, row_tokens), int)
    segments[0, : sum(lengths)] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    segments[1, 0] = 1  # a row that only fills up a rank's share
    codes = np.sign(segments)
    if isinstance(pattern, LongformerPattern):
        codes[np.diff(segments, prepend=0) > 0] = 2
    block_size, is_full = getattr(pattern, "block_size", 1), getattr(pattern, "is_full", lambda document: True)
    packed, axis = exact._unpadded(documents_of_segments(codes, segments), segments.size, block_size, is_full)
    return replace(pattern, documents=packed, tokens=segments.size if axis is None else len(axis))


LONG, SHORT = (224, 200, (3, 130)), (96, 90, (1,))

PATTERNS = {
    "longformer, padded": longformer((192, 150, (3, 70), (0, 100)), (192, 192, (), (5,)), window=20),
    "longformer, no padding, no globals": longformer((256, 256, (), ()), window=8),
    "longformer, packed": longformer((61, 61, (), (0,)), (7, 7, (), ()), (130, 130, (9,), (1, 64)), window=16),
    "longformer, full tiles": longformer((640, 640, (), (0, 600)), (70, 60, (), ()), window=256),
    "longformer, notes apart": notes_apart(longformer(window=16), 40, 300, 7, 129, row_tokens=500),
    "bigbird, notes apart": notes_apart(bigbird(), 40, 300, 7, 129, row_tokens=500),
    "bigbird, notes apart as HF evaluates": notes_apart(bigbird(random=False), 300, 150, row_tokens=450),
    "bigbird, short notes apart": notes_apart(bigbird(), 40, 7, 90, row_tokens=150),
    "longformer, window 0": longformer((130, 120, (1,), (2,)), window=0),
    "longformer, nothing but padding": longformer((40, 0, (), ()), (0, 0, (), ()), (50, 50, (), ()), window=300),
    "bigbird, random blocks": bigbird(LONG, (224, 224, ())),
    "bigbird, another layer": bigbird(LONG, (224, 224, ()), layer=2),
    "bigbird, as HF evaluates": bigbird(LONG, (224, 224, ()), random=False),
    "bigbird, long and short": bigbird(SHORT, LONG, (30, 30, ()), (240, 240, (239,))),
    "bigbird, short": bigbird(SHORT, (112, 112, ())),
    "bigbird, always full": bigbird(LONG, SHORT, always_full=True),
    "bigbird, nothing but padding": bigbird((96, 0, ()), (224, 0, ()), (0, 0, ())),
    "bigbird, blocks of 64": bigbird((512, 500, (70,)), block_size=64, random=False),
    "bigbird, blocks drawn twice": bigbird(
        (1024, 1024, ()), block_size=64, num_random_blocks=3, max_tokens=1024, heads=1
    ),
    "bigbird, blocks that do not divide a tile": bigbird((216, 200, ()), (24, 20, ()), block_size=24),
}

CAUSAL = ("longformer, packed", "longformer, full tiles", "longformer, window 0", "longformer, notes apart")
CAUSAL += ("bigbird, notes apart", "bigbird, as HF evaluates", "bigbird, long and short", "bigbird, always full")
CAUSAL += (
    "bigbird, nothing but padding",
    "bigbird, blocks drawn twice",
    "bigbird, blocks that do not divide a tile",
)
PATTERNS |= {f"{name}, causal": replace(PATTERNS[name], causal=True) for name in CAUSAL}

each_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())


def qkv_of(pattern, dtype=torch.float32, head_dim=16, device=CPU):
    draw = torch.Generator().manual_seed(1)
    shape = (pattern.tokens, getattr(pattern, "heads", 2), head_dim)
    return [torch.randn(shape, generator=draw).to(device, dtype) for _ in range(3)]


@each_pattern
def test_it_is_the_reference(pattern):
    query_THD, key_THD, value_THD = qkv_of(pattern)
    with torch.no_grad():
        got_THD = flex.attend(query_THD, key_THD, value_THD, pattern)
        wanted_THD = reference.attend(query_THD, key_THD, value_THD, pattern)
    assert got_THD.shape == wanted_THD.shape
    torch.testing.assert_close(got_THD, wanted_THD, atol=2e-6, rtol=0)


def times_of(pattern, tokens):
    """Dense (H, T, T) from the pattern's definition; documents never see one another."""
    heads = getattr(pattern, "heads", 1)
    times_HTT = np.zeros((heads, tokens, tokens), int)
    for document in pattern.documents:
        rows = slice(document.start, document.start + document.rows)
        if isinstance(pattern, LongformerPattern):
            times_HTT[:, rows, rows] = pattern.sees(document)
        elif document.rows:
            times_HTT[:, rows, rows] = pattern.times(document)
    return times_HTT


def listed(counts_1HQ, which_1HQK):
    """(H, Q, K) from a block mask's lists, in which no tile may be twice."""
    tiles_HQK = np.zeros(which_1HQK.shape[1:], bool)
    for index in np.ndindex(tiles_HQK.shape[:2]):
        which = which_1HQK[0][index][: counts_1HQ[0][index]].tolist()
        assert len(which) == len(set(which))
        tiles_HQK[index][which] = True
    return tiles_HQK


@each_pattern
def test_tiles_are_exactly_those_that_are_seen(pattern):
    plan = flex.plan_of(pattern, CPU)
    mask, num_tiles = plan.block_mask, plan.tokens // TILE
    assert plan.tokens % TILE == 0
    sees_HTT = times_of(pattern, plan.tokens) > 0
    if not getattr(pattern, "random", True):
        assert (sees_HTT == sees_HTT[:1]).all()
        sees_HTT = sees_HTT[:1]  # one mask serves all heads
    pairs_HQK = sees_HTT.reshape(-1, num_tiles, TILE, num_tiles, TILE).sum((2, 4))
    partial_HQK, full_HQK = (pairs_HQK > 0) & (pairs_HQK < TILE**2), pairs_HQK == TILE**2
    np.testing.assert_array_equal(listed(mask.kv_num_blocks, mask.kv_indices), partial_HQK)
    np.testing.assert_array_equal(listed(mask.full_kv_num_blocks, mask.full_kv_indices), full_HQK)
    np.testing.assert_array_equal(mask.to_dense()[0].bool(), pairs_HQK > 0)
    # the backward pass walks the same tiles from the side of the keys
    np.testing.assert_array_equal(listed(mask.q_num_blocks, mask.q_indices), partial_HQK.swapaxes(1, 2))
    np.testing.assert_array_equal(listed(mask.full_q_num_blocks, mask.full_q_indices), full_HQK.swapaxes(1, 2))


@each_pattern
def test_the_mask_is_the_pattern(pattern):
    plan = flex.plan_of(pattern, CPU)
    times_HTT = times_of(pattern, plan.tokens)
    at_T = torch.arange(plan.tokens)
    indices = torch.tensor(0), torch.arange(len(times_HTT))[:, None, None], at_T[:, None], at_T
    np.testing.assert_array_equal(plan.block_mask.mask_mod(*indices).expand(times_HTT.shape), times_HTT > 0)
    assert (plan.score_mod is None) == (times_HTT.max() <= 1)
    if plan.score_mod is not None:
        added_HTT = plan.score_mod(torch.zeros(times_HTT.shape), *indices).numpy()
        np.testing.assert_allclose(added_HTT[times_HTT > 0], np.log(times_HTT[times_HTT > 0]), rtol=1e-6)


def test_patterns_have_full_tiles_and_keys_seen_twice():
    def num_full(name):
        return flex.plan_of(PATTERNS[name], CPU).block_mask.full_kv_num_blocks.sum()

    assert num_full("longformer, full tiles") > 0
    assert num_full("bigbird, blocks of 64") > 0
    assert flex.plan_of(PATTERNS["bigbird, blocks drawn twice"], CPU).score_mod is not None
    assert flex.plan_of(PATTERNS["bigbird, random blocks"], CPU).score_mod is None


def test_lengths_of_the_token_axis_fall_in_few_buckets():
    lengths = {tokens: flex.plan_of(LongformerPattern((), tokens, 1), CPU).tokens for tokens in range(1, 5000, 13)}
    assert all(tokens <= padded <= max(TILE, 1.25 * tokens + TILE) for tokens, padded in lengths.items())
    assert sorted(set(lengths.values())) == [
        *range(128, 1025, 128),
        *range(1280, 2049, 256),
        2560,
        3072,
        3584,
        4096,
        5120,
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            longformer((200, 180, (3,), (0,)), window=20),
            longformer((90, 90, (), ()), (80, 80, (1,), ()), window=20),
        ),
        (bigbird(LONG, SHORT), bigbird(SHORT, (208, 208, ()), layer=7)),
        (bigbird(LONG, SHORT, random=False), bigbird((320, 320, ()), random=False)),
    ],
)
def test_another_batch_of_about_the_same_length_compiles_nothing(first, second, monkeypatch):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(flex.flex_attention, dynamic=False, fullgraph=True, backend=backend)
    monkeypatch.setattr(flex, "_flex_attention", lambda device_type: compiled)
    with torch.no_grad():
        for pattern in (first, second):
            got_THD = flex.attend(*qkv_of(pattern), pattern)
            torch.testing.assert_close(got_THD, reference.attend(*qkv_of(pattern), pattern), atol=2e-6, rtol=0)
    assert len(compilations) == 1


def test_a_plan_made_in_inference_mode_serves_training():
    pattern = longformer((77, 77, (), ()), window=3)
    with torch.inference_mode():
        plan = flex.plan_of(pattern, CPU)
    assert not plan.block_mask.kv_indices.is_inference()


# Why not

WIDE, SPARSE = PATTERNS["longformer, padded"], PATTERNS["bigbird, random blocks"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": CPU}, "device cpu is not CUDA"),
        ({"dtype": torch.float64}, "FlexAttention has no float64"),
        ({"head_dim": 24}, "head size 24 is not a power of two of at least 16"),
        ({"head_dim": 8}, "head size 8 is not a power of two of at least 16"),
        ({"dropout": 0.1}, "FlexAttention has no dropout, and attention dropout is 0.1 (0 would be fast)"),
        ({"dropout": 0.1, "pattern": bigbird(LONG, SHORT)}, "FlexAttention has no dropout"),
    ],
)
def test_reasons(changes, reason):
    batch = {"device": CUDA, "dtype": torch.bfloat16, "head_dim": 64, "pattern": WIDE, "dropout": 0.0}
    assert flex.why_not(**(batch | changes)).startswith(reason)


def test_dropout_is_none_of_its_business_where_hf_has_none(monkeypatch):
    monkeypatch.setattr(flex, "_self_test", lambda *kind: None)
    assert flex.why_not(CUDA, torch.bfloat16, 64, SPARSE, 0.1) is None
    with torch.no_grad():
        flex.attend(*qkv_of(SPARSE), SPARSE, dropout=0.1)
        with pytest.raises(ValueError, match="no dropout"):
            flex.attend(*qkv_of(WIDE), WIDE, dropout=0.1)


def test_kinds_that_are_tested_once(monkeypatch):
    kinds = []
    monkeypatch.setattr(flex, "_self_test", lambda *kind: kinds.append(kind))
    for pattern in (SPARSE, replace(SPARSE, layer=5, random=False), bigbird((300, 300, ()))):
        flex.why_not(CUDA, torch.bfloat16, 64, pattern, 0.0)
    assert len(set(kinds)) == 1
    flex.why_not(CUDA, torch.bfloat16, 64, WIDE, 0.0)
    assert len(set(kinds)) == 2


@pytest.fixture
def self_test(monkeypatch):
    """The reason that a self-test gives when `attend` is the function it is called with."""

    def run(attend, pattern=WIDE):
        monkeypatch.setattr(flex, "attend", attend)
        monkeypatch.setattr(flex, "TEST_TOKENS", 256)
        flex._self_test.cache_clear()
        reason = flex._self_test(CPU, torch.float32, 16, replace(pattern, documents=(), tokens=0))
        flex._self_test.cache_clear()
        return reason

    return run


@pytest.mark.parametrize("pattern", [WIDE, SPARSE], ids=["longformer", "bigbird"])
def test_the_self_test_finds_what_is_wrong(pattern, self_test):
    start = "its self-test on cpu, float32 "

    def wrong(query_THD, key_THD, value_THD, of):
        value_THD = torch.cat([value_THD[:-1], value_THD[-1:].detach()])  # one token without a gradient
        return reference.attend(query_THD, key_THD, value_THD, of)

    def fails(*_):
        raise RuntimeError("no compiler\nand more")

    assert self_test(reference.attend, pattern) is None
    assert self_test(wrong, pattern).startswith(f"{start}differs from the reference by 0.")
    assert self_test(lambda q, k, v, of: reference.attend(q, k, v, of) * torch.nan, pattern).endswith("by nan")
    assert self_test(fails, pattern) == f"{start}failed with RuntimeError: no compiler"


def test_the_self_test_covers_every_kind_of_tile_and_leaves_the_random_state_alone(self_test):
    base = replace(SPARSE, documents=(), tokens=0, heads=12, block_size=64, num_random_blocks=3, max_tokens=4096)
    patterns = flex._test_patterns(base, 1024)
    assert [pattern.is_full(document) for pattern in patterns for document in pattern.documents] == [
        False,
        True,
    ] * 2
    plans = [
        flex.plan_of(pattern, CPU)
        for pattern in (*patterns, *flex._test_patterns(replace(WIDE, one_sided_window=256), 1024))
    ]
    assert all(plan.block_mask.full_kv_num_blocks.any() and plan.block_mask.kv_num_blocks.any() for plan in plans)
    assert [plan.score_mod is None for plan in plans] == [True, False, True]
    state = torch.get_rng_state()
    assert self_test(reference.attend) is None
    assert torch.equal(state, torch.get_rng_state())


def test_fp32_is_not_tf32_unless_the_user_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert flex._kernel_options(CUDA, torch.float32)["FLOAT32_PRECISION"] == "'tf32x3'"
    assert "FLOAT32_PRECISION" not in flex._kernel_options(CUDA, torch.bfloat16)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert "FLOAT32_PRECISION" not in flex._kernel_options(CUDA, torch.float32)
    assert flex._kernel_options(CPU, torch.float32) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "longformer, padded",
        "longformer, full tiles",
        "bigbird, long and short",
        "bigbird, as HF evaluates",
        "bigbird, blocks drawn twice",
    ],
)
def test_output_and_gradients_on_a_gpu_are_those_of_the_reference(name, dtype):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    assert flex.why_not(CUDA, dtype, 64, PATTERNS[name], 0.0) is None
    # fp32 is fp32, if three products in TF32 for each stand for it
    limit = {torch.float32: 1e-5, torch.bfloat16: flex.TOLERANCES[torch.bfloat16]}[dtype]
    assert flex._difference(CUDA, dtype, 64, PATTERNS[name]) <= limit
