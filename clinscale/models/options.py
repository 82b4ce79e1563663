"""Choices that configs and models share."""

from typing import Literal

Attention = Literal["exact", "hf"]
"""`exact`: the same numbers as HF, several times faster. `hf`: HF's own code."""

InferencePrecision = Literal["fp32", "bf16"]
"""Of the weights of a model that only answers: as they were stored, or rounded, at half the memory and faster."""

EvaluationPattern = Literal["training", "hf"]
"""Which blocks BigBird sees in evaluation: those it was trained on, or HF's (block 0 in place of every random one)."""
