"""The champion of each task: decided by numbers, on record with its reasons, undone with one call."""

from clinscale.promotion.gate import Check, Decision, Evidence, GateRules, Latency, decide
from clinscale.promotion.promote import Move, history, promote, register_judged, rollback

__all__ = [
    "Check",
    "Decision",
    "Evidence",
    "GateRules",
    "Latency",
    "Move",
    "decide",
    "history",
    "promote",
    "register_judged",
    "rollback",
]
