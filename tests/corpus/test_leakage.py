"""A test document is found in the corpus however it got there, and an innocent note is not accused."""

import itertools
import pickle
import random
import re
import textwrap
import unicodedata

import pytest

from clinscale.corpus.cleaning import CleaningConfig, clean
from clinscale.corpus.leakage import LeakageConfig, TestTexts

WORDS = [f"w{number}" for number in range(3000)]


def text(seed, length=200):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


@pytest.fixture(scope="module")
def tests():
    return TestTexts.build({"aki": [text(1), text(2), text(1)], "short": ["No acute findings."]}, LeakageConfig())


def test_copies_are_found_whatever_their_case_and_punctuation(tests):
    assert tests.find(text(1)) == [0]
    assert tests.find(text(2).upper().replace(" ", ",\n ")) == [1]


def test_a_test_document_inside_a_longer_note_is_found(tests):
    assert tests.find(f"{text(8, 1000)} {text(2)} {text(9, 1000)}") == [1]


def test_a_note_inside_a_test_document_is_found(tests):
    assert tests.find(" ".join(text(1).split()[50:90])) == [0]


def test_half_of_a_test_document_is_a_leak_and_a_tenth_is_none(tests):
    words = text(1).split()
    assert tests.find(f"{' '.join(words[:110])} {text(8, 400)}") == [0]
    assert tests.find(f"{' '.join(words[:20])} {text(8, 400)}") == []


def test_short_texts_are_compared_whole(tests):
    assert tests.find("no acute FINDINGS") == [2]
    assert tests.find(f"no acute findings {text(5)}") == []


def test_innocent_and_empty_notes_are_not_accused(tests):
    assert tests.find(text(3)) == []
    assert tests.find("") == []
    assert tests.find("... --- ...") == []


def test_the_report_counts_documents_by_task(tests):
    assert tests.report([0, 2]) == {
        "aki": {"test_documents": 2, "found": 1},
        "short": {"test_documents": 1, "found": 1},
    }
    assert tests.report([])["aki"]["found"] == 0


def test_it_travels_to_workers_and_holds_no_text(tests):
    content = pickle.dumps(tests)
    assert b"w1 " not in content
    assert b"findings" not in content
    assert pickle.loads(content).find(text(1)) == [0]


def test_a_short_text_is_no_part_of_a_longer_one_whatever_its_length():
    for length in range(1, 13):
        found = TestTexts.build({"t": [text(1, length)]}, LeakageConfig())
        assert found.find(text(1, length)) == [0]
        assert found.find(f"{text(1, length)} {text(5)}") == []


def test_a_sentence_that_two_short_notes_share_is_no_leak():
    tests = TestTexts.build({"t": [text(1)]}, LeakageConfig())
    assert tests.find(" ".join(text(1).split()[:9]) + " " + text(2, 7)) == []


ACCENTED = (
    "El paciente, varón de 57 años, ingresó con [**Name 3**] por disnea – “súbita” – y µg½ de Straße, Łódź, ﬁebre.\x0c"
    "Fin\xadal. "
)
SWITCHES = {
    "placeholders": ("keep", "remove", "replace"),
    "characters": ("all", "printable", "ascii"),
    "lower_case": (False, True),
    "collapse_whitespace": (False, True),
}


@pytest.mark.parametrize(
    "note", [ACCENTED, f"{ACCENTED} {text(4, 30)} Ποιος είναι ο ασθενής; Пациент поступил с болью."]
)
def test_a_copy_is_found_however_either_side_was_cleaned(note):
    tests = TestTexts.build({"t": [note, text(6)]}, LeakageConfig())
    for values in itertools.product(*SWITCHES.values()):
        switches = CleaningConfig(**dict(zip(SWITCHES, values, strict=True)))
        assert tests.find(clean(note, switches)) == [0], switches
        assert TestTexts.build({"t": [clean(note, switches)]}, LeakageConfig()).find(note) == [0], switches


def without_accents(note):
    return "".join(sign for sign in unicodedata.normalize("NFD", note) if not unicodedata.combining(sign))


def replaced(share):
    def replace(note, draw=random.Random(3)):
        return re.sub(r"\S+", lambda word: "other" if draw.random() < share else word[0], note)

    return replace


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda note: "\n".join(textwrap.wrap(note, 40)), 1.0),
        (without_accents, 1.0),
        (str.upper, 1.0),
        (replaced(0.05), 0.95),
        (replaced(0.08), 0.75),
        (lambda note: re.sub(r"[A-Z]\w+", "[NAME]", re.sub(r"\b\d+\b", "XX", note)), 0.75),
    ],
)
def test_changed_copies_are_found_and_counted_once(change, least):
    """Notes of two templates, as one dictating physician makes them: each half is that of many others."""
    draw = random.Random(1)
    openings = [text(seed, 60) for seed in (1000, 1001)]

    def note(number):
        names = " ".join(
            f"{word} {draw.choice(['José Peña', 'Ann Lee'])} {draw.randint(1, 99)}" for word in WORDS[:3]
        )
        return f"{openings[number % 2]} {names} {text(number, 90)}"

    notes = [note(number) for number in range(160)]
    tests = TestTexts.build({"t": notes[:60]}, LeakageConfig())
    found = [tests.find(change(one)) for one in notes[:60]]
    assert sum(map(bool, found)) >= least * 60
    assert all(numbers in ([], [place]) for place, numbers in enumerate(found))
    assert not any(tests.find(change(one)) for one in notes[60:])


def test_two_test_documents_in_one_note_are_both_counted_and_so_is_one_of_two_tasks():
    both = TestTexts.build({"a": [text(1), text(2)], "b": [text(1)]}, LeakageConfig())
    assert both.find(f"{text(1)} {text(9)} {text(2)}") == [0, 1, 2]
    assert both.find(text(1)) == [0, 2]


def test_a_test_document_that_adds_a_few_words_to_what_another_has_is_counted():
    longer, added = text(1), "w5 w4 w3 w2 w1"
    shared = longer.split()[-40:]
    tests = TestTexts.build({"a": [longer, " ".join([*shared, added])]}, LeakageConfig())
    assert tests.find(f"{longer} {added} {text(9)}") == [0, 1]
