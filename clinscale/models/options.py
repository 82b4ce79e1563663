"""Choices that configs and models share."""

from typing import Literal

from clinscale.config import Config

Attention = Literal["exact", "hf"]
"""`exact`: the same numbers as HF, several times faster. `hf`: HF's own code."""

InferencePrecision = Literal["fp32", "bf16"]
"""Precision of the weights of a model that only answers: as stored, or rounded, at half the memory and faster."""

EvaluationPattern = Literal["training", "hf"]
"""The blocks that BigBird sees in evaluation: those of training, or HF's (block 0 in place of every random one)."""


class AttentionConfig(Config):
    """The code that computes a model's attention, declared once for pretraining, fine-tuning and trials."""

    attention: Attention = "exact"
    """`exact` gives HF's numbers several times faster, and in fine-tuning computes no padding; `hf` runs HF's own
    code."""
