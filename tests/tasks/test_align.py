"""Marks whose offsets disagree with the text: found together, by the drift of their document, or left out."""

import pytest

from clinscale.tasks.readers.align import Mark, _Sought, locate

LINES = [f"Visit {n}: took {n} mg of aspirin 😀 for pain." for n in range(60)]


def marks_in(text, *surfaces, count=len):
    """Marks of every occurrence, whose offsets `count` the characters before them."""
    found = []
    for surface in surfaces:
        at = text.find(surface)
        while at >= 0:
            start = count(text[:at])
            found.append(Mark("X", start, start + count(surface), surface, "a mark"))
            at = text.find(surface, at + 1)
    return found


def places(text, *surfaces):
    return [(mark.start, mark.end) for mark in marks_in(text, *surfaces)]


def found(text, marks):
    return [span and span[:2] for span in locate(text, marks)]


@pytest.mark.parametrize(
    ("end", "count"),
    [
        ("\r\n", lambda part: len(part.replace("\r\n", "\n"))),
        ("\n", lambda part: len(part.replace("\n", "\r\n"))),
        ("\n", lambda part: len(part.encode("utf-16-le")) // 2),
        ("\r\n", lambda part: len(part.replace("\r\n", "\n").encode("utf-16-le")) // 2),
        ("\n", lambda part: len(part.encode())),
        ("\n", lambda part: len(part) + 1),  # a byte-order mark
        ("\r\n", lambda part: len(part.replace("\r\n", "\n")) + 1),
        ("\n", lambda part: len(part) + 5000),  # a header that was taken away
        ("\n", lambda part: len(part) + 4 * ("Visit 30" in part)),  # blanks that were taken away in between
        ("\n", lambda part: len(part) + 400 * ("Visit 30" in part)),
        ("\n", lambda part: len(part) + 3 * part.count("pain")),  # something else that counts otherwise
    ],
)
def test_the_drift_of_a_document_is_found(end, count):
    text = end.join(LINES)
    assert found(text, marks_in(text, "mg", "aspirin", count=count)) == places(text, "mg", "aspirin")


def test_one_mark_that_is_off_is_looked_for_nearby_and_moves_no_other():
    text = "\n".join(LINES)
    marks, right = marks_in(text, "mg"), places(text, "mg")
    marks[7] = marks[7]._replace(start=marks[7].start - 9, end=marks[7].end - 9)
    assert found(text, marks) == right
    marks[7] = marks[7]._replace(start=marks[7].start + 3000, end=marks[7].end + 3000)
    assert found(text, marks) == [*right[:7], None, *right[8:]]


@pytest.mark.parametrize(("start", "there"), [(20, True), (25, False)])
def test_the_reach_of_a_lone_mark_is_short(start, there):
    text = "pain" + "." * 40
    assert found(text, [Mark("X", start, start + 4, "pain", "")]) == [(0, 4) if there else None]


def test_marks_inside_words_are_believed_only_where_their_offset_or_their_neighbours_say_so():
    text = "The mRNA of aspirin; no painless pain"
    assert found(text, [Mark("X", 5, 8, "RNA", "")]) == [(5, 8)]
    assert found(text, [Mark("X", 6, 9, "RNA", "")]) == [None]
    assert found(text, [Mark("X", 3, 6, "The", ""), Mark("X", 8, 11, "RNA", "")]) == [(0, 3), (5, 8)]
    assert found(text, [Mark("X", 25, 29, "pain", "")]) == [(33, 37)]


def test_a_far_drift_needs_many_marks_that_agree():
    text = "\n".join(f"{line} {'and so on ' * 9}" for line in LINES[:20])
    far = marks_in(text, "aspirin", count=lambda part: len(part) + 50)
    assert found(text, far) == places(text, "aspirin")
    assert found(text, far[:3]) == [None] * 3
    assert found(text, far[:3] + marks_in(text, "mg")) == [*[None] * 3, *places(text, "mg")]


def test_white_space_is_compared_as_blanks_and_not_part_of_a_mark():
    text = "left \n  and\u00a0right."
    assert found(text, [Mark("X", 0, 17, "left and right", "")]) == [(0, 17)]
    assert [tuple(span) for span in locate(text, [Mark("X", 0, 5, "left ", "")])] == [(0, 4, False)]
    assert [tuple(span) for span in locate(text, [Mark("X", 0, 4, "le", "")])] == [(0, 2, False)]


def test_of_a_surface_that_is_everywhere_the_places_near_the_mark_are_looked_at():
    text = "x a " * 20_000
    marks = [Mark("X", start + 1, start + 2, "a", "") for start in range(0, 40_000, 400)]
    assert len(_Sought(text, marks[50]).drifts) == 1000
    assert found(text, marks) == [(mark.start + 1, mark.start + 2) for mark in marks]
    assert found("a" * 20_000, [Mark("X", 5, 6, "b", "")] * 3) == [None] * 3


def test_marks_without_a_surface_go_with_those_that_have_one():
    text = "\r\n".join(LINES[:5])
    marks = marks_in(text, "mg", count=lambda part: len(part.replace("\r\n", "\n")))
    marks[2] = marks[2]._replace(surface=None)
    assert found(text, marks) == places(text, "mg")
    assert found(text, [Mark("X", 900, 905, None, ""), Mark("X", 5, 6, None, "")]) == [None, None]
