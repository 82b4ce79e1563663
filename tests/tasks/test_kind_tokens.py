"""Kind tokens: gold through windows and back is gold, at any window, tokenizer and text; scores are seqeval's."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from clinscale.errors import DataError
from clinscale.tasks import Entity, Example, kind_of
from clinscale.tasks.kinds.words import tag_words, words_of

LABELS = ("drug", "problem")
FAMILY_TEXTS = (
    "Gave 25mg of the (50%). Pt's  β-blocker",
    "déjà-vu, 1.5..\n§19th",
    "T2N0 cm² x",
    "患者给予阿司匹林aspirin治疗",
)
TEXT = "Gave metoprolol 25mg for chest pain;\n\n  no déjà-vu (50%). Pt's pain–free."


def entities_in(text, *found):
    return tuple(Entity(text.index(part), text.index(part) + len(part), label) for part, label in found)


def through(kind, example, tokenizer, perfect, max_tokens, stride_tokens, labels=LABELS):
    windows = kind.windows(
        example, tokenizer, labels, max_tokens=max_tokens, stride_tokens=stride_tokens, train=True
    )
    assert all(len(w.input_ids) <= max_tokens for w in windows)
    return kind.decode(example, windows, perfect(kind, windows, labels), labels)


def spans(prediction):
    return [(e["start"], e["end"], e["label"]) for e in prediction["entities"]]


def words_text():
    word = st.sampled_from(
        ["pain", "metoprolol", "25", "x", "déjà", "β-blocker", "(50%).", "a/b", "é€", "№", "q12h"]
    )
    blank = st.sampled_from([" ", " ", "  ", "\n", " \n\t ", "\u2005"])
    return st.lists(st.tuples(word, blank), min_size=1, max_size=40).map(lambda x: "".join(w + b for w, b in x))


@pytest.mark.parametrize(("max_tokens", "stride_tokens"), [(512, 128), (16, 4), (7, 0), (6, 99)])
def test_gold_comes_back_at_any_window(task_of, any_tokenizer, perfect, max_tokens, stride_tokens):
    gold = entities_in(TEXT, ("metoprolol", "drug"), ("chest pain", "problem"), ("déjà-vu", "problem"))
    kind = kind_of(task_of("tokens"))
    if any_tokenizer.backend_tokenizer.model.__class__.__name__ == "WordLevel":
        gold = gold[:1]  # whole words between blanks are its tokens: `pain;` cannot be told from `pain`
    prediction = through(
        kind, Example("1", TEXT, entities=gold), any_tokenizer, perfect, max_tokens, stride_tokens
    )
    assert spans(prediction) == [(e.start, e.end, e.label) for e in gold]
    assert all(entity["score"] > 0.99 for entity in prediction["entities"])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=words_text(), data=st.data())
def test_gold_of_any_words_comes_back(task_of, tokenizer, perfect, text, data):
    words = words_of(text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(words)), max_size=8)))
    pairs = list(itertools.pairwise(cuts))  # touching entities, also of equal type
    gold = tuple(
        Entity(words[first][0], words[last - 1][1], data.draw(st.sampled_from(LABELS)))
        for first, last in pairs
        if data.draw(st.booleans())
    )
    kind, example = kind_of(task_of("tokens")), Example("1", text, entities=gold)
    max_tokens, stride = data.draw(st.integers(4, 60)), data.draw(st.integers(0, 30))
    prediction = through(kind, example, tokenizer, perfect, max_tokens, stride)
    found = [Entity(*span) for span in spans(prediction)]
    assert tag_words(words, found) == tag_words(words, gold)
    if gold:
        assert kind.score([example], [prediction], LABELS)["f1"] == 1.0


@pytest.mark.parametrize("gold", ["prolol", "25", "5", "50%", "%", "Pt", "Pt's", "vu (50%)", "pain;", "chest"])
def test_gold_that_begins_or_ends_inside_a_word_or_a_token_is_learned_as_it_stands(
    task_of, tokenizer_for, perfect, gold
):
    kind = kind_of(task_of("tokens"))
    example = Example("1", TEXT, entities=entities_in(TEXT, (gold, "problem")))
    prediction = through(kind, example, tokenizer_for([TEXT] * 9), perfect, 32, 8)
    assert [TEXT[start:end] for start, end, _ in spans(prediction)] == [gold]
    assert kind.score([example], [prediction], LABELS)["f1"] == 1.0


@pytest.mark.parametrize("max_tokens", [9, 64])
def test_gold_comes_back_at_its_characters_from_any_family_of_tokenizers(task_of, family, perfect, max_tokens):
    kind = kind_of(task_of("tokens"))
    for text in FAMILY_TEXTS:
        words = words_of(text)
        for first, last in itertools.combinations(range(len(words)), 2):
            gold = (Entity(words[first][0], words[last][0], "drug"), Entity(*words[last], "drug"))
            gold = tuple(Entity(e.start, len(text[: e.end].rstrip()), e.label) for e in gold)
            prediction = through(kind, Example("1", text, entities=gold), family, perfect, max_tokens, 3)
            assert spans(prediction) == [(e.start, e.end, e.label) for e in gold]


def test_prediction_answers_what_the_text_alone_parts(task_of, family):
    """Without gold no token speaks for more than a word, but where a script has no blanks."""
    kind = kind_of(task_of("tokens"))
    for text in FAMILY_TEXTS[:-1]:
        windows = kind.windows(
            Example("1", text, entities=(Entity(1, 3, "drug"),)),
            family,
            LABELS,
            max_tokens=64,
            stride_tokens=0,
            train=False,
        )
        assert [words for window in windows for words in window.speaks_for if words] == words_of(text)


def test_only_the_first_token_of_a_word_is_trained(task_of, tokenizer):
    example = Example("1", TEXT, entities=entities_in(TEXT, ("chest pain", "problem")))
    kind = kind_of(task_of("tokens"))
    (window,) = kind.windows(example, tokenizer, LABELS, max_tokens=512, stride_tokens=0, train=True)
    trained = [
        (TEXT[window.offsets[p][0]], kind.output_names(LABELS)[t])
        for p, t in enumerate(window.targets["labels"])
        if t >= 0
    ]
    assert trained.count(("c", "B-problem")) == 1
    assert trained.count(("p", "I-problem")) == 1
    assert len(trained) == len(words_of(TEXT)) < len(window.text_positions)
    assert window.global_mask == [0] * len(window.input_ids)


def test_where_windows_overlap_the_one_with_more_context_decides(task_of, tokenizer_for):
    kind = kind_of(task_of("tokens"))
    text = " x" * 12
    tokenizer = tokenizer_for([text] * 9)
    windows = kind.windows(Example("1", text), tokenizer, LABELS, max_tokens=10, stride_tokens=4, train=False)
    outputs = []
    for number, window in enumerate(windows):
        logits = np.zeros((len(window.input_ids), 5))
        logits[:, 1 if number % 2 else 3] = 9  # odd windows say B-drug, even ones B-problem
        outputs.append({"logits": logits})
    prediction = kind.decode(Example("1", text), windows, outputs, LABELS)
    assert [(w.first_token, len(w.text_positions)) for w in windows] == [(0, 8), (4, 8)]
    # Tokens 4 to 7 are in both: 4 and 5 have more after them in the first, 6 and 7 more before them in the second.
    assert [e["label"] for e in prediction["entities"]] == ["problem"] * 6 + ["drug"] * 6


def test_rows_of_padding_are_ignored(task_of, tokenizer, perfect):
    kind = kind_of(task_of("tokens"))
    example = Example("1", TEXT, entities=entities_in(TEXT, ("chest pain", "problem")))
    windows = kind.windows(example, tokenizer, LABELS, max_tokens=16, stride_tokens=4, train=True)
    outputs = perfect(kind, windows, LABELS)
    padded = [{"logits": np.vstack([o["logits"], np.full((9, 5), 1e9)])} for o in outputs]
    assert kind.decode(example, windows, padded, LABELS) == kind.decode(example, windows, outputs, LABELS)


def test_an_i_tag_that_continues_nothing_begins_an_entity(task_of, tokenizer):
    kind = kind_of(task_of("tokens"))
    example = Example("1", "chest pain x")
    (window,) = kind.windows(example, tokenizer, LABELS, max_tokens=32, stride_tokens=0, train=False)
    starts = {offset[0]: p for p, offset in enumerate(window.offsets) if offset}
    logits = np.zeros((len(window.input_ids), 5))
    logits[:, 0] = 1
    logits[starts[0], 2], logits[starts[6], 4], logits[starts[11], 4] = 9, 9, 9  # I-drug I-problem I-problem
    prediction = kind.decode(example, [window], [{"logits": logits}], LABELS)
    assert spans(prediction) == [(0, 5, "drug"), (6, 12, "problem")]


def test_a_text_of_white_space_has_no_entities(task_of, tokenizer, perfect):
    assert through(kind_of(task_of("tokens")), Example("1", " \n "), tokenizer, perfect, 8, 2) == {"entities": []}


def test_scores_equal_strict_seqeval_on_words(task_of):
    """The oracle has its own conversion: texts of single letters, so that words are characters."""
    rng = np.random.default_rng(0)
    examples, predictions, gold_tags, found_tags = [], [], [], []
    for number in range(30):
        text, rows = " ".join("abcdefghij"), []
        for _ in range(2):
            tags, entities, place = ["O"] * 10, [], 0
            while place < 10:
                length = int(rng.integers(1, 4))
                if rng.random() < 0.5 and place + length <= 10:
                    label = LABELS[rng.integers(2)]
                    tags[place : place + length] = [f"B-{label}", *[f"I-{label}"] * (length - 1)]
                    entities.append({"start": 2 * place, "end": 2 * (place + length) - 1, "label": label})
                place += length
            rows.append((tags, entities))
        gold_tags.append(rows[0][0])
        found_tags.append(rows[1][0])
        examples.append(Example(str(number), text, entities=tuple(Entity(**e) for e in rows[0][1])))
        predictions.append({"entities": rows[1][1]})
    scores = kind_of(task_of("tokens")).score(examples, predictions, LABELS)
    assert 0 < scores["f1"] < 1
    assert scores["f1"] == pytest.approx(f1_score(gold_tags, found_tags, mode="strict", scheme=IOB2))


def test_without_gold_entities_there_is_no_score(task_of):
    with pytest.raises(DataError, match="f1 is not defined"):
        kind_of(task_of("tokens")).score([Example("1", "x")], [{"entities": []}], LABELS)


def test_the_trivial_answer_is_no_entities(task_of):
    kind = kind_of(task_of("tokens"))
    example = Example("1", "chest pain", entities=(Entity(0, 5, "problem"),))
    trivial = kind.trivial([example], [example], LABELS)
    assert kind.score([example], trivial, LABELS) == dict.fromkeys(kind.metrics, 0)


def test_a_word_belongs_to_the_first_entity_that_touches_it():
    words = words_of("chestpain radiating")
    assert tag_words(words, [Entity(5, 19, "b"), Entity(0, 5, "a")]) == ["B-a", "B-b"]


def test_relaxed_f1_counts_what_overlaps_gold_of_its_type(task_of):
    kind = kind_of(task_of("tokens"))
    text = "severe chest pain and fever"
    gold = Example("1", text, entities=entities_in(text, ("chest pain", "problem"), ("fever", "problem")))
    part = {"start": 0, "end": 12, "label": "problem", "score": 1.0}  # severe chest
    other = {"start": 22, "end": 27, "label": "drug", "score": 1.0}
    scores = kind.score([gold], [{"entities": [part, other]}], LABELS)
    assert (scores["f1"], scores["relaxed_f1"]) == (0, 0.5)
