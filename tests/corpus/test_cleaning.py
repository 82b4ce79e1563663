import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinscale.corpus import CleaningConfig
from clinscale.corpus.cleaning import clean

NOTE = "Seen at [**Hospital1 18**] by Dr. [**First Name (Titles) **]\n[**Last\nName**].\tBP 120/80  "


@given(st.text())
def test_by_default_a_note_is_left_as_it_is(text):
    """Tasks and predict do not clean, so pretraining must not either unless it is told to."""
    assert clean(text, CleaningConfig()) == text


@pytest.mark.parametrize(
    ("switches", "text", "cleaned"),
    [
        ({"placeholders": "keep"}, NOTE, NOTE),
        ({"placeholders": "remove"}, NOTE, "Seen at  by Dr. \n.\tBP 120/80  "),
        ({"placeholders": "replace"}, NOTE, "Seen at ___ by Dr. ___\n___.\tBP 120/80  "),
        ({"placeholders": "remove"}, "open [** bracket, no end", "open [** bracket, no end"),
        ({"placeholders": "remove"}, "[**a** [**b**] c", "[**a**  c"),
        ({"characters": "printable"}, "a\x00b\x0cc\td\r\ne\rf\x85é", "abc\td\ne\nfé"),
        ({"characters": "ascii"}, "Größe 5µg é ½ – ok\n", "Groe 5g e 12  ok\n"),
        ({"lower_case": True}, "BP ÄB", "bp äb"),
        ({"collapse_whitespace": True}, "\n a \t\u00a0b\r\n\r\nc ", "a b c"),
        ({"collapse_whitespace": True, "placeholders": "remove"}, NOTE, "Seen at by Dr. . BP 120/80"),
        ({}, "half a pair \ud83d here", "half a pair \ufffd here"),
    ],
)
def test_switches(switches, text, cleaned):
    assert clean(text, CleaningConfig(**switches)) == cleaned


@given(st.text(alphabet=st.characters(exclude_categories=())), st.sampled_from(["all", "printable", "ascii"]))
def test_the_result_can_always_be_written_as_utf8(text, characters):
    clean(text, CleaningConfig(characters=characters)).encode()
