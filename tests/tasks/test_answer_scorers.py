"""SQuAD's measures beside the arithmetic of its two official scripts, evaluate-v1.1.py and evaluate-v2.0.py."""

import collections
import random
import re
import string

import pytest

from clinscale.tasks import Answer, Example, kind_of
from clinscale.tasks.kinds.answer_scorers import ANSWER_SCORERS, squad_v1, squad_v2
from clinscale.tasks.task import KINDS

PIECES = ["25", "mg", "The", "a", "an", "pain", "(pain)", ",", ".", "β-blocker", "  ", "metoprolol", "the", "—"]


def normalised(text):
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def overlap(prediction, truth, *, version):
    given, wanted = normalised(prediction).split(), normalised(truth).split()
    if version == 2 and (not given or not wanted):
        return float(given == wanted)
    same = sum((collections.Counter(given) & collections.Counter(wanted)).values())
    if same == 0:
        return 0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def official(prediction, answers, *, version):
    if version == 2:
        answers = [answer for answer in answers if normalised(answer)] or [""]
    exact = max(float(normalised(answer) == normalised(prediction)) for answer in answers)
    return max(overlap(prediction, answer, version=version) for answer in answers), exact


def test_random_answers_score_as_in_the_official_scripts():
    chance = random.Random(3)

    def phrase():
        return " ".join(chance.choices(PIECES, k=chance.randint(0, 4)))

    seen = set()
    for _ in range(4000):
        answer, gold = phrase(), [phrase() for _ in range(chance.randint(0, 3))]
        if chance.random() < 0.3 and gold:
            answer = gold[0].upper()
        if gold:
            assert squad_v1(answer, gold) == pytest.approx(official(answer, gold, version=1))
        assert squad_v2(answer, gold) == pytest.approx(official(answer, gold, version=2))
        seen.add((bool(gold), squad_v2(answer, gold)[1]))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("answer", "gold", "first", "second"),
    [
        ("the", [], (0, 0), (1, 1)),  # normalises to nothing, which is no answer in version 2
        (".", [], (0, 0), (1, 1)),
        ("", [], (1, 1), (1, 1)),
        ("pain", [], (0, 0), (0, 0)),
        ("", ["the"], (0, 1), (1, 1)),
        ("", ["the", "pain"], (0, 1), (0, 0)),  # version 2 drops the gold that is nothing
    ],
)
def test_no_answer_is_what_each_version_says_it_is(answer, gold, first, second):
    assert (squad_v1(answer, gold), squad_v2(answer, gold)) == (first, second)


def test_a_task_is_scored_by_the_version_it_is_of(task_of):
    example = Example("1", "the pain", "What?", answers=())
    predictions = [{"answer": "the"}]
    assert kind_of(task_of("spans")).score([example], predictions, ())["f1"] == 1
    assert kind_of(task_of("spans", scorer="squad_v1")).score([example], predictions, ())["f1"] == 0
    answered = Example("1", "the pain", "What?", answers=(Answer(4, "pain"),))
    assert kind_of(task_of("spans", unanswerable=False)).score([answered], predictions, ())["f1"] == 0


def test_every_answer_scorer_can_be_chosen():
    assert set(ANSWER_SCORERS) == set(KINDS["spans"].scorers)
