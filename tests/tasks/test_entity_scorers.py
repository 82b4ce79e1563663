"""Each scorer beside its official script's arithmetic, written down once more from the script, on random predictions.

i2b2 2014: kotfic/i2b2_evaluation_scripts. MEDDOCAN: PlanTL-GOB-ES/MEDDOCAN-Evaluation-Script. n2c2 2018: track 2's
brat_eval.py. i2b2 2012: eventEvaluation.py. BC5CDR: yfpeng's PubTatorEval of the official kit.
"""

import itertools

import numpy as np
import pytest
import seqeval.metrics

from clinscale.errors import ConfigError, DataError
from clinscale.tasks import Entity, Example, Outcomes, compare, kind_of, load_task, scores_equal
from clinscale.tasks.kinds.entity_scorers import ENTITY_SCORERS
from clinscale.tasks.kinds.file_words import in_whole_words, words_of_file
from clinscale.tasks.task import KINDS

LABELS = ("drug", "dose", "sign")
TEXT = "Gave 25mg of metoprolol-XL (50%), then β-blockers twice: no pain, no fever. " * 3


def random_spans(rng, text, number, *, apart):
    """Spans of a few characters, with repeats and overlaps unless `apart`."""
    spans, place = [], 0
    for _ in range(number):
        start = place + int(rng.integers(0, 9)) if apart else int(rng.integers(0, len(text) - 12))
        end = start + int(rng.integers(1, 12))
        if end > len(text):
            break
        spans.append(Entity(start, end, LABELS[rng.integers(3)]))
        place = end
    return spans


def noisy(rng, gold):
    """Some of the gold as it is, some moved, relabelled or repeated."""
    found = []
    for one in gold:
        chance = rng.random()
        if chance < 0.5:
            found.append(one)
        elif chance < 0.8:
            moved = max(0, one.start + int(rng.integers(-3, 4)))
            found.append(Entity(moved, moved + int(rng.integers(1, 12)), one.label))
        elif chance < 0.9:
            found.append(Entity(one.start, one.end, LABELS[rng.integers(3)]))
        if rng.random() < 0.15 and found:
            found.append(found[-1])
    return found


@pytest.fixture(scope="module")
def corpus():
    """[(text, gold that is apart, predictions with repeats and overlaps)] of 80 documents."""
    rng = np.random.default_rng(4)
    documents = []
    for _ in range(80):
        gold = random_spans(rng, TEXT, int(rng.integers(0, 14)), apart=True)
        found = noisy(rng, gold) + random_spans(rng, TEXT, int(rng.integers(0, 6)), apart=False)
        rng.shuffle(found)
        documents.append((TEXT, gold, [Entity(*one) if isinstance(one, tuple) else one for one in found]))
    return documents


def scored(task_of, documents, scorer, **fields):
    kind = kind_of(task_of("tokens", scorer=scorer, **fields))
    examples = [Example(str(n), text, entities=tuple(gold)) for n, (text, gold, _) in enumerate(documents)]
    predictions = [
        {"entities": [{"start": e.start, "end": e.end, "label": e.label} for e in found]}
        for _, _, found in documents
    ]
    return kind.score(examples, predictions, LABELS)


def measures(tp, fp, fn):
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return pytest.approx(
        {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    )


def strict(scores):
    return {name: scores[name] for name in ("precision", "recall", "f1")}


@pytest.mark.parametrize("scorer", ["i2b2_2014", "meddocan", "characters"])
def test_sets_of_spans_are_compared_as_in_i2b2_2014_and_meddocan(task_of, corpus, scorer):
    tp = fp = fn = 0
    for _, gold, found in corpus:
        golds, system = ({(e.label, e.start, e.end) for e in side} for side in (gold, found))
        tp, fp, fn = tp + len(golds & system), fp + len(system - golds), fn + len(golds - system)
    assert strict(scored(task_of, corpus, scorer)) == measures(tp, fp, fn)


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_n2c2_2018_ignores_what_meets_gold_that_is_met(task_of, corpus, mode):
    def equal(g, s):
        same = (g.start, g.end) == (s.start, s.end)
        overlaps = g.end > s.start and g.start < s.end
        return g.label == s.label and (same if mode == "strict" else overlaps)

    tp = fp = fn = 0
    for _, gold, found in corpus:
        matched, kept = [], list(range(len(found)))
        for at, s in enumerate(found):
            for g_at, g in enumerate(gold):
                if equal(g, s):
                    if g_at not in matched:
                        matched.append(g_at)
                    elif at in kept:
                        kept.remove(at)
        here = len({at for at in kept for g in gold if equal(g, found[at])})
        tp, fp, fn = tp + here, fp + len(kept) - here, fn + len(gold) - here
    scorer = "n2c2_2018" if mode == "strict" else "n2c2_2018_lenient"
    assert strict(scored(task_of, corpus, scorer)) == measures(tp, fp, fn)


def test_bc5cdr_counts_a_wrong_mention_each_time(task_of, corpus):
    tp = fp = fn = 0
    for _, gold, found in corpus:
        tp += sum(one in found for one in gold)
        fn += sum(one not in found for one in gold)
        fp += sum(one not in gold for one in found)
    assert strict(scored(task_of, corpus, "bc5cdr")) == measures(tp, fp, fn)


def test_i2b2_2012_relaxed_f1_is_its_scripts_event_f_of_any_type(task_of, corpus):
    def matches(one, others):
        for other in others:
            if one.start <= other.start:
                if one.end >= other.start + 1:
                    return True
            elif other.end > one.start + 1:
                return True
        return False

    in_system = sum(matches(one, gold) for _, gold, found in corpus for one in found)
    in_gold = sum(matches(one, found) for _, gold, found in corpus for one in gold)
    precision = in_system / sum(len(found) for _, _, found in corpus)
    recall = in_gold / sum(len(gold) for _, gold, _ in corpus)
    expected = 2 * precision * recall / (precision + recall)
    assert scored(task_of, corpus, "i2b2_2012")["relaxed_f1"] == pytest.approx(expected)
    assert scored(task_of, corpus, "characters")["relaxed_f1"] < expected, "there the types must be equal"


def test_relaxed_f1_counts_overlaps_of_one_type(task_of, corpus):
    def matches(one, others):
        return any(o.label == one.label and o.start < one.end and one.start < o.end for o in others)

    sides = [(set(gold), set(found)) for _, gold, found in corpus]
    precision = sum(matches(one, gold) for gold, found in sides for one in found) / sum(len(f) for _, f in sides)
    recall = sum(matches(one, found) for gold, found in sides for one in gold) / sum(len(g) for g, _ in sides)
    expected = 2 * precision * recall / (precision + recall)
    assert scored(task_of, corpus, "characters")["relaxed_f1"] == pytest.approx(expected)


def test_on_a_files_own_tokens_scores_are_seqevals(task_of):
    """Predictions at tokens' edges and inside of them; a token is of the first entity that touches it."""
    rng = np.random.default_rng(1)
    tokens = ["β-blockers", "25mg", "(50%)", "a/b", "pain", ".", "no\u00a0break", "q12h"]
    examples, predictions, gold_tags, found_tags = [], [], [], []
    for number in range(60):
        words = [tokens[at] for at in rng.integers(0, len(tokens), 12)]
        starts = [0, *itertools.accumulate(len(word) + 1 for word in words)]
        rows, sides = [], []
        for inside in (False, True):
            tags, entities, at = ["O"] * 12, [], 0
            while at < 12:
                length = int(rng.integers(1, 4))
                if rng.random() < 0.5 and at + length <= 12:
                    label, last = LABELS[rng.integers(3)], at + length - 1
                    start, end = starts[at], starts[last] + len(words[last])
                    if inside and rng.random() < 0.4:  # part of the first and of the last token
                        start, end = start + len(words[at]) - 1, starts[last] + 1 if length > 1 else end
                    tags[at : at + length] = [f"B-{label}", *[f"I-{label}"] * (length - 1)]
                    entities.append(Entity(start, end, label))
                at += length
            rows.append(tags)
            sides.append(entities)
        gold_tags.append(rows[0])
        found_tags.append(rows[1])
        examples.append(Example(str(number), " ".join(words), entities=tuple(sides[0]), is_split_into_words=True))
        predictions.append({"entities": [{"start": e.start, "end": e.end, "label": e.label} for e in sides[1]]})
    scores = kind_of(task_of("tokens", format="bio")).score(examples, predictions, LABELS)
    assert 0 < scores["f1"] < 1
    assert scores["f1"] == pytest.approx(seqeval.metrics.f1_score(gold_tags, found_tags))
    assert scores["precision"] == pytest.approx(seqeval.metrics.precision_score(gold_tags, found_tags))


def test_what_is_off_by_characters_is_not_right_but_by_the_earlier_rule(task_of):
    text = "metoprolol 25mg for pain"
    gold = [Entity(0, 10, "drug"), Entity(20, 24, "sign")]
    off = [(text, gold, [Entity(0, 9, "drug"), Entity(20, 24, "sign")])]
    assert scored(task_of, off, None)["f1"] == 0.5
    assert scored(task_of, off, "words")["f1"] == 1.0
    assert scored(task_of, off, "i2b2_2010")["f1"] == 1.0, "which counts words between blanks"


def test_every_scorer_says_whose_scores_it_gives(task_of):
    assert set(ENTITY_SCORERS) == set(KINDS["tokens"].scorers)
    assert "n2c2 2018" in scores_equal(task_of("tokens", scorer="n2c2_2018_lenient"))
    assert scores_equal(task_of("sequence")) == "scikit-learn's"


@pytest.mark.parametrize(
    ("task", "scorer"),
    [
        ("i2b2_2010", "i2b2_2010"),
        ("i2b2_2012", "i2b2_2012"),
        ("i2b2_2014", "i2b2_2014"),
        ("i2b2_2006", "characters"),
        ("maccrobat", "characters"),
        ("meddocan", "meddocan"),
        ("ncbi_disease", "seqeval"),
        ("covid_qa", "squad_v1"),
        ("emrqa_relation", "squad_v1"),
        ("demo_questions", "squad_v2"),
        ("mednli", None),
    ],
)
def test_the_catalogs_scorers_are_those_of_the_data_sets(task, scorer):
    assert load_task(task).scored_by == scorer


@pytest.mark.parametrize(
    ("kind", "scorer", "advice"),
    [
        ("tokens", "n2c2_2019", "did you mean n2c2_2018"),
        ("spans", "seqeval", "known: squad_v1"),
        ("sequence", "seqeval", "known: none"),
    ],
)
def test_a_scorer_of_another_kind_is_refused(task_of, kind, scorer, advice):
    with pytest.raises(ConfigError, match=f"scorer '{scorer}' is none of kind {kind}; {advice}"):
        task_of(kind, scorer=scorer)


def test_outcomes_by_two_scorers_are_not_compared(task_of, corpus):
    def outcomes(scorer):
        kind = kind_of(task_of("tokens", scorer=scorer))
        examples = [Example(str(n), text, entities=tuple(gold)) for n, (text, gold, _) in enumerate(corpus)]
        return Outcomes.of(kind, examples, [{"entities": []} for _ in corpus], LABELS, len)

    ours, theirs = outcomes("characters"), outcomes("words")
    with pytest.raises(DataError, match="different metrics or scorers"):
        compare(ours, theirs)
    stored = theirs.plain()
    del stored["scorer"], stored["task"]["scorer"]  # as an earlier version wrote them
    earlier = Outcomes.parse(stored, source="x")
    assert compare(earlier, theirs, resamples=10).p_value == 1
    with pytest.raises(DataError, match="different metrics or scorers"):
        compare(ours, earlier)


def test_predictions_on_a_files_tokens_are_whole_tokens():
    example = Example("1", "a/b c(d) e", is_split_into_words=True)
    found = [
        {"start": 0, "end": 1, "label": "x", "score": 0.5},
        {"start": 2, "end": 5, "label": "y", "score": 0.7},  # holds the first character of the second token
        {"start": 7, "end": 8, "label": "z", "score": 0.9},  # and this one of none
    ]
    whole = in_whole_words(words_of_file(example), found)
    assert [(e["start"], e["end"], e["label"]) for e in whole] == [(0, 3, "x"), (4, 8, "y")]
