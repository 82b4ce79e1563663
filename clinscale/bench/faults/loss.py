"""The error of a try that was not survived."""


class LossError(Exception):
    """Something that a fault broke, lost or mixed, in one sentence."""


def check(holds: bool, sentence: str) -> None:
    """LossError with that sentence unless it holds."""
    if not holds:
        raise LossError(sentence)
