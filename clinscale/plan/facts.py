"""Facts of a model that memory and time are counted from; no tensor is made."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinscale import models
from clinscale.engine import SMALL_ELEMENTS, Precision

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ModelFacts:
    """A masked language model by its numbers."""

    config: "PretrainedConfig"
    """HF's config, or as much of it as `models.shape_of` reads."""
    trained: int
    """Number of parameters with gradients."""
    frozen: int
    """Number of those without."""
    small: int
    """Number of all in tensors of up to `SMALL_ELEMENTS`, which ZeRO 3 keeps whole."""
    embedding: int
    """Elements of the embedding of tokens, the largest tensor."""
    dropout: float
    """Dropout of hidden states."""
    attention_dropout: float
    """Dropout of attention probabilities."""
    is_exact: bool
    """Whether clinscale computes its attention, which keeps neither scores nor probabilities."""

    @classmethod
    def of(
        cls,
        config: "PretrainedConfig",
        *,
        has_global_tokens: bool = False,
        attention: models.Attention = "exact",
        attention_dropout: float = 0.0,
    ) -> "ModelFacts":
        """The facts of a model of `config`."""
        counts = models.parameter_counts(config, has_global_tokens=has_global_tokens)
        fields, _ = models.pretrainable_family(config.model_type).dropout_fields
        return cls(
            config=config,
            trained=sum(count for count, trained in counts.values() if trained),
            frozen=sum(count for count, trained in counts.values() if not trained),
            small=sum(count for count, _ in counts.values() if count <= SMALL_ELEMENTS),
            embedding=config.vocab_size * config.hidden_size,
            dropout=max(getattr(config, field, 0.0) for field in fields),
            attention_dropout=attention_dropout,
            is_exact=attention == "exact" and models.family_of(config.model_type) in models.EXACT_FAMILIES,
        )

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.trained + self.frozen

    @functools.cached_property
    def max_tokens(self) -> int:
        """Tokens that it reads at once."""
        return models.pretrainable_family(self.config.model_type).max_tokens(self.config)


def width_of(precision: Precision) -> int:
    """Bytes of a number of that precision."""
    return 4 if precision == "fp32" else 2
