"""SQuAD's measures, by the definition of its official evaluation script (version 1.1)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer equals any gold answer after normalisation; without gold, 1 if there is no answer."""
    if not gold:
        return float(not answer)
    return max(float(_normal(answer) == _normal(one)) for one in gold)


def f1(answer: str, gold: Sequence[str]) -> float:
    """F1 of the words shared with the nearest gold answer; without gold, 1 if there is no answer (version 2)."""
    if not gold:
        return float(not answer)
    return max(_f1(_normal(answer).split(), _normal(one).split()) for one in gold)


def _normal(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(answer: list[str], gold: list[str]) -> float:
    shared = (Counter(answer) & Counter(gold)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
