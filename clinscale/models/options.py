"""Choices that configs and models share."""

from typing import Literal

Attention = Literal["exact", "hf"]
"""`exact`: the same numbers as HF, several times faster. `hf`: HF's own code."""

InferencePrecision = Literal["fp32", "bf16"]
"""Precision of the weights of a model that only answers: as stored, or rounded, at half the memory and faster."""

EvaluationPattern = Literal["training", "hf"]
"""The blocks that BigBird sees in evaluation: those of training, or HF's (block 0 in place of every random one)."""
