"""Kind spans: answers through windows and back, the best legal span, and SQuAD's measures."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinscale.errors import ConfigError, DataError
from clinscale.tasks import Answer, Example, kind_of
from clinscale.tasks.kinds.answer_scorers import squad_v1, squad_v2
from clinscale.tasks.kinds.spans import _best_span

QUESTION = "What dose of metoprolol was given?"
TEXT = "Patient admitted with chest pain.\n\n  Metoprolol 25 mg was given twice daily for déjà-vu again."


def example_of(answer, text=TEXT):
    answers = (Answer(text.index(answer), answer),) if answer else ()
    return Example("1", text, QUESTION, answers=answers)


def windows_of(kind, example, tokenizer, max_tokens=36, stride_tokens=10):
    return kind.windows(example, tokenizer, (), max_tokens=max_tokens, stride_tokens=stride_tokens, train=True)


@pytest.mark.parametrize("answer", ["Patient", "25 mg", "twice daily", "déjà-vu", None])
@pytest.mark.parametrize("room", [200, 40, 24])  # the longest answer fits the overlap of the smallest
def test_gold_comes_back_at_any_window(task_of, any_tokenizer, perfect, answer, room):
    kind, example = kind_of(task_of("spans")), example_of(answer)
    question = len(any_tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    windows = windows_of(kind, example, any_tokenizer, max_tokens=question + 4 + room, stride_tokens=room // 2)
    prediction = kind.decode(example, windows, perfect(kind, windows, ()), ())
    assert prediction["answer"] == (answer or "")
    assert prediction["start"] == (example.answers[0].start if answer else None)
    assert prediction["score"] > 0.99
    assert kind.score([example], [prediction], ()) == {"f1": 1.0, "exact_match": 1.0}


@pytest.mark.parametrize("max_tokens", [40, 200])
def test_answers_inside_words_and_tokens_come_back_at_their_characters(task_of, family, perfect, max_tokens):
    text = "Gave 25mg of the (50%). Pt's  患者给予阿司匹林治疗, in 2015"
    kind = kind_of(task_of("spans"))
    for answer in (
        "25",
        "mg",
        "the",
        "the (50%)",
        "50%",
        "50%).",
        "Pt",
        "阿司匹林",
        "匹林治",
        "2015",
        "5mg",
        "15",
    ):
        example = Example("1", text, "x?", answers=(Answer(text.index(answer), answer),))
        windows = windows_of(kind, example, family, max_tokens=max_tokens)
        prediction = kind.decode(example, windows, perfect(kind, windows, ()), ())
        assert (prediction["answer"], prediction["start"]) == (answer, text.index(answer))


def test_windows_hold_the_whole_question_and_cover_the_whole_text(task_of, tokenizer):
    kind = kind_of(task_of("spans"))
    windows = windows_of(kind, example_of("25 mg"), tokenizer)
    assert len(windows) > 1
    covered = set()
    for window in windows:
        asked = [p for p, on in enumerate(window.global_mask) if on]
        assert tokenizer.decode([window.input_ids[p] for p in asked]) == f"<s>{QUESTION}"
        assert all(window.offsets[p] is None for p in asked)
        covered |= {c for p in window.text_positions for c in range(*window.offsets[p])}
    assert covered >= {c for c, character in enumerate(TEXT) if not character.isspace()}


def test_an_end_that_a_window_does_not_show_is_no_target_of_it(task_of, tokenizer):
    kind = kind_of(task_of("spans"))
    cut_before, cut_behind = 0, 0
    answers = ("chest pain", "Metoprolol 25 mg was given", "given twice daily")
    for answer, max_tokens in itertools.product(answers, (20, 22, 24, 26)):
        start, end = TEXT.index(answer), TEXT.index(answer) + len(answer)
        for window in windows_of(kind, example_of(answer), tokenizer, max_tokens=max_tokens, stride_tokens=3):
            first, last = (window.offsets[window.text_positions[i]] for i in (0, -1))
            assert bool(window.targets["start_positions"]) == (first[0] <= start < last[1])
            assert bool(window.targets["end_positions"]) == (first[0] < end <= last[1])
            cut_before += start < first[0] < end
            cut_behind += start < last[1] < end
    assert cut_before
    assert cut_behind


def test_an_answer_longer_than_any_window_is_stitched_together(task_of, tokenizer, perfect):
    kind, example = kind_of(task_of("spans")), example_of(TEXT[len("Patient ") : -len(" again.")])
    windows = windows_of(kind, example, tokenizer, max_tokens=26, stride_tokens=4)
    assert not any(w.targets["start_positions"] and w.targets["end_positions"] for w in windows)
    prediction = kind.decode(example, windows, perfect(kind, windows, ()), ())
    assert kind.score([example], [prediction], ()) == {"f1": 1.0, "exact_match": 1.0}


def test_a_question_that_fills_the_window_is_refused(task_of, tokenizer):
    example = Example("1", TEXT, QUESTION * 10)
    with pytest.raises(ConfigError, match="leaves no room for text in windows of 36"):
        windows_of(kind_of(task_of("spans")), example, tokenizer)


def test_an_example_without_question_is_refused(task_of, tokenizer):
    with pytest.raises(DataError, match="example 1: kind spans needs a second text"):
        windows_of(kind_of(task_of("spans")), Example("1", TEXT), tokenizer)


class TestDecoding:
    @pytest.fixture
    def one_window(self, task_of, tokenizer):
        def make(**fields):
            kind, example = kind_of(task_of("spans", **fields)), example_of("25 mg")
            windows = windows_of(kind, example, tokenizer, max_tokens=200)
            return kind, example, windows, {o: p for p, o in enumerate(windows[0].offsets) if o}

        return make

    def logits(self, window, **at):
        values = {side: np.zeros(len(window.input_ids)) for side in ("start", "end")}
        for side, places in at.items():
            for place, value in places.items():
                values[side][place] = value
        return {f"{side}_logits": row for side, row in values.items()}

    def test_an_end_before_its_start_is_not_legal(self, one_window):
        kind, example, (window,), _ = one_window()
        first, *_, last = window.text_positions
        output = self.logits(window, start={last: 9, first: 5}, end={first: 9, last: 6})
        prediction = kind.decode(example, [window], [output], ())
        assert (prediction["start"], prediction["end"]) == (
            window.offsets[last][0],
            window.offsets[last][1],
        )  # 9 + 6, where the forbidden span has 9 + 9

    def test_question_tokens_are_not_legal(self, one_window):
        kind, example, (window,), _ = one_window()
        place = window.text_positions[3]
        output = self.logits(window, start={2: 99, place: 5}, end={3: 99, place: 5})
        assert kind.decode(example, [window], [output], ())["start"] == window.offsets[place][0]

    def test_no_answer_wins_when_its_token_is_higher_unless_an_answer_is_owed(self, one_window):
        for unanswerable in (True, False):
            kind, example, (window,), _ = one_window(unanswerable=unanswerable)
            place = window.text_positions[0]
            output = self.logits(window, start={0: 9, place: 5}, end={0: 9, place: 5})
            prediction = kind.decode(example, [window], [output], ())
            assert (prediction["answer"] == "") == unanswerable

    def test_answers_longer_than_allowed_are_not_given(self, one_window):
        kind, example, (window,), _ = one_window(max_answer_tokens=2)
        first, second, third = window.text_positions[:3]
        output = self.logits(window, start={first: 9, second: 5}, end={third: 9})
        assert kind.decode(example, [window], [output], ())["start"] == window.offsets[second][0]

    def test_a_token_is_judged_by_the_window_that_likes_it_best(self, one_window):
        kind, example, (window,), _ = one_window(unanswerable=True)
        place = window.text_positions[0]
        sure = self.logits(window, start={place: 5}, end={place: 5})
        loud = self.logits(window, start={0: 10, place: 11}, end={0: 10, place: 11})
        assert kind.decode(example, [window] * 2, [sure, loud], ()) == kind.decode(example, [window], [sure], ())

    def test_no_answer_is_as_sure_as_the_window_that_doubts_it_most(self, one_window):
        kind, example, (window,), _ = one_window(unanswerable=True)
        sure, doubtful = (self.logits(window, start={0: high}, end={0: high}) for high in (9, 3))
        expected = kind.decode(example, [window], [doubtful], ())
        for outputs in ([sure, doubtful], [doubtful, sure]):
            assert kind.decode(example, [window] * 2, outputs, ()) == expected

    def test_windows_compare_by_their_margin_over_no_answer(self, task_of, tokenizer):
        """The second window's logits are all lifted by 50; its span is still less sure than the first one's."""
        kind, example = kind_of(task_of("spans")), example_of("25 mg")
        windows = windows_of(kind, example, tokenizer)[:2]
        places = [window.text_positions[1] for window in windows]
        sure = self.logits(windows[0], start={places[0]: 8}, end={places[0]: 8})
        lifted = {
            key: row + 50 for key, row in self.logits(windows[1], start={places[1]: 3}, end={places[1]: 3}).items()
        }
        prediction = kind.decode(example, windows, [sure, lifted], ())
        assert prediction["start"] == windows[0].offsets[places[0]][0]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scores=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans()), min_size=1, max_size=14),
    max_tokens=st.integers(1, 20),
)
def test_the_best_span_is_the_best_of_all(scores, max_tokens):
    starts = np.array([s if legal else -np.inf for s, _, legal in scores])
    ends = np.array([e if legal else -np.inf for _, e, legal in scores])
    spans = itertools.combinations_with_replacement(range(len(scores)), 2)
    every = [starts[a] + ends[b] for a, b in spans if b - a < max_tokens]
    found = _best_span(starts, ends, max_tokens)
    if max(every) == -np.inf:
        assert found is None
    else:
        assert found[0] <= found[1] < found[0] + max_tokens
        assert starts[found[0]] + ends[found[1]] == max(every)


@pytest.mark.parametrize(
    ("answer", "gold", "em", "overlap"),
    [
        ("25 mg", ["25 mg"], 1, 1),
        ("The 25  MG.", ["25 mg"], 1, 1),  # case, articles, marks and blanks do not count
        ("25 mg twice", ["25 mg"], 0, 0.8),
        ("mg mg", ["25 mg"], 0, 0.5),  # a word counts as often as both have it
        ("10 mg", ["25 mg", "10 mg daily"], 0, 0.8),  # the nearest gold answer counts
        ("", ["25 mg"], 0, 0),
        ("", [], 1, 1),
        ("25 mg", [], 0, 0),
        ("an apple", ["the apple"], 1, 1),
        ("panacea", ["nacea"], 0, 0),  # articles are whole words
        ("β-blocker", ["βblocker"], 1, 1),
    ],
)
def test_squad_measures(answer, gold, em, overlap):
    assert squad_v1(answer, gold) == (pytest.approx(overlap), em)
    assert squad_v2(answer, gold) == (pytest.approx(overlap), em)


def test_the_score_is_the_mean_over_questions(task_of):
    kind = kind_of(task_of("spans"))
    examples = [example_of("25 mg"), example_of(None), example_of("twice daily")]
    trivial = kind.trivial(examples, examples, ())
    assert kind.score(examples, trivial, ()) == pytest.approx({"f1": 1 / 3, "exact_match": 1 / 3})
