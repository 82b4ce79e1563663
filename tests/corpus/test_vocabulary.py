import logging

import pytest

from clinscale.corpus import CorpusConfig, SourceConfig, build_shards, load_tokenizer, train_tokenizer
from clinscale.corpus.tokenizing import SPECIAL_TOKENS
from clinscale.corpus.words import words_of

COMMON = [f"The patient was given {n} mg of aspirin for chest pain, MRN 00{n}4417." for n in range(40)]


def pieces_of(tokenizer):
    """The learned pieces as text."""
    learned = [token for token in tokenizer.get_vocab() if len(token) > 1 and token not in SPECIAL_TOKENS]
    return {tokenizer.convert_tokens_to_string([token]) for token in learned}


def with_name(holders, name="Zebulonsky"):
    """Notes of which the first `holders` name somebody, many times each."""
    return [f"{text} {f'{name}, ' * 20}" if n < holders else text for n, text in enumerate(COMMON)]


@pytest.mark.parametrize("name", ["Zebulonsky", "0071-44 Zqx/9", "山田太郎様", "É\u0301ѫж"])
@pytest.mark.parametrize("holders", [4, 5])
def test_a_piece_is_learned_only_from_as_many_documents_as_asked(name, holders):
    texts = with_name(holders, name)
    tokenizer = train_tokenizer(texts, 2000)
    learned = [piece for piece in pieces_of(tokenizer) if "\ufffd" not in piece]
    assert min(sum(piece in text for text in texts) for piece in learned) >= 5
    assert (len(tokenizer(name)["input_ids"]) < len(name.encode()) + 2) == (holders == 5)


def test_many_notes_of_one_patient_are_one():
    texts = with_name(12)
    assert " Zebulonsky" in pieces_of(train_tokenizer(texts, 2000))
    of_patients = [(n // 3, text) for n, text in enumerate(texts)]
    assert not any("Zeb" in piece for piece in pieces_of(train_tokenizer(of_patients, 2000)))


def test_pieces_of_words_that_few_share_count_together():
    """Each word is of one document, and what they have in common is of all: as in texts without blanks."""
    texts = [f"x{'pneumo' * 3}{chr(97 + n) * 3}" for n in range(9)]
    assert any("pneumo" in piece for piece in pieces_of(train_tokenizer(texts, 2000)))


def test_digits_stay_apart():
    tokenizer = train_tokenizer(["Seen on 2024-11-28 in room 101, see A1 ½ and ١٢."] * 9 + COMMON, 2000)
    assert not any(letter.isnumeric() for piece in pieces_of(tokenizer) for letter in piece)
    assert tokenizer.tokenize(" 101") == ["Ġ", "1", "0", "1"]


def test_fewer_documents_than_asked_give_bytes_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert len(train_tokenizer(COMMON[:4], 2000)) == 261
    assert "held by 5 of the 4" in caplog.text
    assert len(train_tokenizer(COMMON[:4], 2000, min_documents=1)) > 261


def test_it_loads_as_it_was_trained(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(COMMON, 400)
    tokenizer.save_pretrained(tmp_path)
    text = "The patient's MRN is 004417; 12 mg.\n\nÉtat: stable あ"
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["a 山田 12あ'll\n\n x", "\U0010ffff½ aé ١٢", ""])
def test_words_put_together_are_the_text(text):
    assert "".join(words_of(text)) == text


@pytest.mark.parametrize(("changes", "is_learned"), [({}, False), ({"min_documents": 2}, True)])
def test_a_build_counts_patients_where_the_source_names_them(tmp_path, changes, is_learned):
    rows = [f'{n // 4},"{text}"' for n, text in enumerate(with_name(12))]
    (tmp_path / "notes.csv").write_text("\n".join(["patient,text", *rows]))
    source = SourceConfig(uri=str(tmp_path / "notes.csv"), group_column="patient")
    config = CorpusConfig(
        sources=(source,), vocab_size=2000, validation_fraction=0, near_duplicates={"enabled": False}, **changes
    )
    tokenizer = load_tokenizer(str(build_shards(config, str(tmp_path / "set")).tokenizer_dir))
    assert any("Zeb" in piece for piece in pieces_of(tokenizer)) == is_learned
