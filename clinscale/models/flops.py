"""Arithmetic of a model, counted from its shape: what a step must compute, whoever computes it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def train_flops_per_token(config: "PretrainedConfig", row_tokens: int, *, head_share: float) -> float:
    """Multiplications and additions of one training step, per token of a row without padding.

    Dense layers, the attention pattern's own pairs and the MLM head at `head_share` of the positions; backward counts
    twice the forward. Norms, activations and embeddings are left out, as is usual.

    Args:
        config: of a Longformer or BigBird.
        row_tokens: length of the rows.
        head_share: share of positions that the MLM head runs at; 1 is HF's, 0.15 is where tokens are masked.
    """
    hidden, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    dense = 2 * (4 * hidden**2 + 2 * hidden * inner) * layers
    if config.model_type == "longformer":
        windows = config.attention_window
        windows = [windows] * layers if isinstance(windows, int) else windows
        pairs = 0
        for window in windows:
            side = min(window // 2, row_tokens)
            pairs += row_tokens * (2 * side + 1) - side * (side + 1)
    else:
        size, random = config.block_size, config.num_random_blocks
        blocks = -(-row_tokens // size)
        seen = 2 * blocks + 2 * (4 + random) + (blocks - 4) * (5 + random)
        pairs = layers * (row_tokens**2 if blocks <= 5 + 2 * random else seen * size**2)
    attention = 4 * hidden * pairs / row_tokens
    head = 2 * (hidden**2 + hidden * config.vocab_size) * head_share
    return float(3 * (dense + attention + head))
