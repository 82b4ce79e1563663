"""Arithmetic of a model, counted from its shape: what a step must compute on any hardware."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinscale.models.families import pretrainable_family

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of one training step, per token, by what computes them."""

    dense: float
    """Projections and inner layers."""
    attention: float
    """Products of queries and keys, and of probabilities and values, of the pairs that attend."""
    head: float
    """The head of masked-language modelling."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.attention + self.head


def train_flops(config: "PretrainedConfig", row_tokens: int, *, head_share: float) -> Flops:
    """Multiplications and additions of one training step, per token of a row without padding.

    Dense layers, the attention pattern's own pairs and the MLM head at `head_share` of the positions; backward counts
    twice the forward. Norms, activations and embeddings are left out, as is usual.

    Args:
        config: of a family that clinscale pretrains.
        row_tokens: length of the rows.
        head_share: share of positions that the MLM head runs at; 1 is HF's, 0.15 is where tokens are masked.

    Raises:
        ConfigError: the family is not one of those.
    """
    family = pretrainable_family(config.model_type)
    hidden, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    return Flops(
        dense=float(3 * 2 * (4 * hidden**2 + family.inner_products * hidden * inner) * layers),
        attention=3 * 4 * hidden * family.attended_pairs(config, row_tokens) / row_tokens,
        head=3 * 2 * (hidden**2 + hidden * config.vocab_size) * head_share,
    )


def train_flops_per_token(config: "PretrainedConfig", row_tokens: int, *, head_share: float) -> float:
    """The sum of `train_flops`."""
    return train_flops(config, row_tokens, head_share=head_share).total
