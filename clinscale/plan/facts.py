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
    dropout_bars_exact: bool
    """Whether attention dropout alone leaves its attention to Hugging Face's code."""

    @classmethod
    def of(
        cls,
        config: "PretrainedConfig",
        *,
        has_global_tokens: bool = False,
        attention: models.Attention = "exact",
        attention_dropout: float | None = None,
        on_gpu: bool = False,
    ) -> "ModelFacts":
        """The facts of a model of `config`, whose attention dropout is its own where none is given."""
        counts = models.parameter_counts(config, has_global_tokens=has_global_tokens)
        family = models.pretrainable_family(config.model_type)
        of_hidden, of_attention = family.dropout_fields
        if attention_dropout is None:
            attention_dropout = max(getattr(config, field, 0.0) for field in of_attention)
        is_exact = attention == "exact" and models.family_of(config.model_type) in models.EXACT_FAMILIES
        barred = is_exact and on_gpu and family.drops_probabilities and attention_dropout > 0
        return cls(
            config=config,
            trained=sum(count for count, trained in counts.values() if trained),
            frozen=sum(count for count, trained in counts.values() if not trained),
            small=sum(count for count, _ in counts.values() if count <= SMALL_ELEMENTS),
            embedding=config.vocab_size * config.hidden_size,
            dropout=max(getattr(config, field, 0.0) for field in of_hidden),
            attention_dropout=attention_dropout,
            is_exact=is_exact and not barred,
            dropout_bars_exact=barred,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the model's settings cost."""
        if not self.dropout_bars_exact:
            return ()
        return (
            f"attention dropout of {self.attention_dropout:g} leaves attention on GPUs to Hugging Face's code; "
            "recipe.attention_dropout=0 (in a sweep, `attention_dropout: 0` under `fixed` of its space) uses the exact "
            "one, several times faster and smaller",
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
