"""A test document is found in the corpus however it got there, and an innocent note is not accused."""

import pickle
import random

import pytest

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
