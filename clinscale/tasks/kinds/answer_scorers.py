"""SQuAD's measures by the definition of its two official evaluation scripts."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_v1(answer: str, gold: Sequence[str]) -> tuple[float, float]:
    """F1 of the words shared with the nearest gold answer, and whether one is equal; after normalisation.

    Version 1.1 has no questions without an answer: there it counts whether none was given.
    """
    if not gold:
        return float(not answer), float(not answer)
    given, wanted = _normal(answer), [_normal(one) for one in gold]
    return max(_f1(given.split(), one.split()) for one in wanted), float(given in wanted)


def squad_v2(answer: str, gold: Sequence[str]) -> tuple[float, float]:
    """The same; what normalises to nothing, as `the` does, is no answer, in gold and in predictions."""
    given, wanted = _normal(answer), [normal for one in gold if (normal := _normal(one))] or [""]
    equal = float(given in wanted)
    if not given or wanted == [""]:
        return equal, equal
    return max(_f1(given.split(), one.split()) for one in wanted), equal


def _normal(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(answer: list[str], gold: list[str]) -> float:
    shared = (Counter(answer) & Counter(gold)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True)
class AnswerScorer:
    """The rules of one scorer."""

    about: str
    """The script whose scores these equal, and what is special about it."""
    measure: Callable[[str, Sequence[str]], tuple[float, float]]
    """(answer, gold answers) -> F1 and exact match."""


ANSWER_SCORERS = {
    "squad_v1": AnswerScorer("the official script of SQuAD 1.1", squad_v1),
    "squad_v2": AnswerScorer(
        "the official script of SQuAD 2.0 (F1 and exact match over all questions); an answer that normalises to "
        "nothing is `no answer`",
        squad_v2,
    ),
}
"""Name in a task's `scorer` -> its rules."""
