"""Tokens cut at the ends of words: what lies within words stays as the tokenizer made it."""

import copy

import pytest

from clinscale.tasks.kinds.cutting import cut_at_words
from clinscale.tasks.kinds.words import words_of


def cut(tokenizer, text, cuts=()):
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = []
    for start, end in encoding["offset_mapping"]:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        offsets.append((start, end))
    ids, found = cut_at_words(tokenizer, text, encoding["input_ids"], offsets, words_of(text, cuts), cuts)
    return tokenizer.convert_ids_to_tokens(ids), [text[start:end] for start, end in found]


@pytest.fixture
def joined(tokenizer_for):
    return tokenizer_for(["Rose by (50%). of --- 25"] * 9)


def test_marks_are_parted_and_the_blank_stays_with_the_first(joined):
    assert cut(joined, "by (50%). of")[0] == ["by", "Ġ(", "50", "%", ")", ".", "Ġof"]
    assert "%)." in joined.get_vocab()


def test_runs_of_one_mark_and_clitics_stay_whole(tokenizer_for):
    tokenizer = tokenizer_for(["Pt's --- ok"] * 9)
    assert cut(tokenizer, "Pt's --- ok")[0] == ["Pt", "'s", "Ġ---", "Ġok"]


@pytest.mark.parametrize("text", ["Gave", "déjà", "aspirin", "患者给予"])
def test_tokens_within_words_and_in_scripts_without_blanks_stay_as_they_are(family, text):
    assert cut(family, text)[0] == family.tokenize(text)


def test_an_added_token_is_cut_by_gold_alone(joined):
    tokenizer = copy.deepcopy(joined)
    tokenizer.add_tokens(["[DATE]"])
    assert "[DATE]" in cut(tokenizer, "by [DATE] of")[0]
    pieces = dict.fromkeys(cut(tokenizer, "by [DATE] of", cuts=(4, 6))[1])
    assert [piece for piece in pieces if piece] == ["by", "[", "DA", "TE]", "of"]


def test_a_piece_that_the_vocabulary_cannot_spell_is_unknown(family):
    tokens, found = cut(family, "Gave 25ж(50%")
    assert {"(", "%"} <= set(found)
    assert not any("(" in piece and len(piece) > 1 for piece in found)
    assert len(tokens) == len(found)


def test_each_word_has_a_token_and_the_last_one_reaches_its_end(family):
    """BERT drops zero bytes, half-read characters and, uncased, accents; gold may begin or end there."""
    text = "\ufeff25 de\u0301ja\u0300 mg\ufffd \x00 pain\u200b, the\xad"
    _, found = cut(family, text)
    pieces = {text[start:end] for start, end in words_of(text)}
    assert {"\ufeff", "\ufffd", "\x00", "\u200b", ","} <= set(found)
    assert {piece[-1] for piece in pieces} <= {piece[-1] for piece in found if piece}
