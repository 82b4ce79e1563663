"""The families and named sizes that clinscale builds from scratch; plain values, no torch."""

from typing import Any, Literal

from pydantic import Field

from clinscale.config import Config, nearest
from clinscale.errors import ConfigError

Family = Literal["longformer", "bigbird"]

MODEL_TYPES: dict[str, Family] = {"longformer": "longformer", "big_bird": "bigbird"}
"""HF's `model_type` to the family's name; other encoders (BERT, RoBERTa) are families of their own type."""

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}

Attention = Literal["exact", "hf"]
"""`exact`: the same numbers as HF, several times faster. `hf`: HF's own code."""

InferencePrecision = Literal["fp32", "bf16"]
"""Of the weights of a model that only answers: as they were stored, or rounded, at half the memory and faster."""

EvaluationPattern = Literal["training", "hf"]
"""Which blocks BigBird sees in evaluation: those it was trained on, or HF's (block 0 in place of every random one)."""

SIZES: dict[str, dict[Family, dict[str, Any]]] = {
    "base": {  # as published: Clinical-Longformer's and google/bigbird-roberta-base's config.json
        "longformer": {**_BASE, "attention_window": 512, "max_tokens": 4096},
        "bigbird": {**_BASE, "block_size": 64, "num_random_blocks": 3, "max_tokens": 4096},
    },
    "tiny": {  # trains in a minute on one CPU core, and still attends sparsely beyond a few hundred tokens
        "longformer": {**_TINY, "attention_window": 64, "max_tokens": 1024},
        "bigbird": {**_TINY, "block_size": 16, "num_random_blocks": 2, "max_tokens": 1024},
    },
}


class ModelConfig(Config):
    """Which encoder to pretrain: published weights by HF name or folder, or a new one at a named size."""

    family: Family = "longformer"
    """`longformer` or `bigbird`; of a new model. Published weights bring their own."""

    size: str = "base"
    """A named size of a new model: `tiny` for CPU, `base` as published."""

    pretrained: str | None = None
    """HF name or folder to continue from; None starts from random weights at `size`."""

    convert_to: Family | None = None
    """`longformer` or `bigbird`: published BERT- or RoBERTa-type weights of 512 tokens first become one of these."""

    max_tokens: int | None = None
    """Positions of a new or a converted model; None is the size's own (4,096 for `base`) or 4,096."""

    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the HF config to set on a new or a converted model, e.g. `{attention_window: 256}`."""

    def check(self) -> None:
        """The size is known, and weights that exist already are not resized."""
        if self.size not in SIZES:
            raise ConfigError(f"model.size: {self.size!r} is not a named size; {nearest(self.size, list(SIZES))}")
        if self.convert_to and not self.pretrained:
            raise ConfigError(
                f"model.convert_to={self.convert_to} needs the weights that it converts; name them by model.pretrained"
            )
        if self.pretrained and not self.convert_to and (self.hf_overrides or self.max_tokens):
            raise ConfigError(
                f"model.pretrained={self.pretrained!r} brings its own shape; drop max_tokens and hf_overrides, or let "
                "it become another by model.convert_to"
            )


def family_of(model_type: str) -> str:
    """The family's name of an HF `model_type`; unknown types are their own family."""
    return MODEL_TYPES.get(model_type, model_type)
