import json

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clinscale.corpus import SpecialIds, load_tokenizer, tokenizer_fingerprint, train_tokenizer
from clinscale.corpus.tokenizing import SPECIAL_TOKENS, encode

TEXTS = [f"The patient was given {n} mg of aspirin for chest pain. <mask> Größe {n * 7} cm." for n in range(300)]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, vocab_size=300)


def test_special_tokens_are_robertas_in_our_order(trained):
    assert trained.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert SpecialIds.from_tokenizer(trained) == SpecialIds(
        cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=len(trained)
    )
    assert len(trained) == 300


def test_sequences_and_pairs_are_framed_like_robertas(trained):
    a, b = encode(trained, ["aspirin", "chest"])
    assert trained("aspirin", "chest")["input_ids"] == [0, *a, 2, 2, *b, 2]
    assert trained("aspirin")["input_ids"] == [0, *a, 2]


def whole(tokenizer, texts):
    """What the tokenizers library makes of whole texts."""
    backend = tokenizer.backend_tokenizer
    return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]


def test_every_character_is_encoded_word_by_word_as_in_whole_texts(trained):
    """Two libraries decide here what a letter is: at each character that is cut here, and some of the rest."""
    codes = [*range(0x3100), *range(0x3100, 0xD800, 37), *range(0xE000, 0x20000, 37)]
    characters = [chr(code) for code in codes]
    texts = [f"a{one}1{one} {one}!  {one}{one}'s a\n{one}\n" for one in characters]
    different = [
        hex(ord(one))
        for one, a, b in zip(characters, encode(trained, texts), whole(trained, texts), strict=True)
        if a != b
    ]
    assert not different


WORDS = st.sampled_from(
    ["don't", "'s", " ", "  ", "\n", "\t\r\n", "mg", "12", ".", "--", "µg", "½", "\u3042", "x\x1cy"]
)


@given(st.lists(WORDS | st.text(max_size=3), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_are_cut_where_the_tokenizer_cuts_them(trained, pieces):
    text = "".join(pieces)
    assume(not any(special in text for special in SPECIAL_TOKENS))
    assert encode(trained, [text, text + "あ"]) == whole(trained, [text, text + "あ"])


@pytest.mark.parametrize("change", ["normalizer", "prefix", "added", "wordpiece"])
def test_a_tokenizer_that_does_more_sees_whole_texts(trained, change):
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(trained.backend_tokenizer.to_str())
    if change == "normalizer":
        backend.normalizer = normalizers.Lowercase()
    elif change == "prefix":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "added":
        backend.add_tokens([AddedToken("given 7", normalized=False)])
    else:
        backend = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##rapy": 2, "7": 3}, unk_token="[UNK]"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    texts = ["The therapy 7 was given 7 times", "PATIENT  the\n"]
    assert encode(tokenizer, texts) == whole(tokenizer, texts)


@given(st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_comes_back_and_nothing_is_unknown(trained, text):
    ids = encode(trained, [text])[0]
    assert trained.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(trained.all_special_ids)


def test_a_note_cannot_smuggle_in_special_tokens(trained):
    assert trained.mask_token_id in trained("a <mask> b")["input_ids"]
    assert trained.mask_token_id not in encode(trained, ["a <mask> </s> b"])[0]
    assert trained.mask_token_id in trained("a <mask> b")["input_ids"], "encode leaves the tokenizer as it was"


def test_training_is_reproducible(trained):
    assert train_tokenizer(iter(TEXTS), 300).get_vocab() == trained.get_vocab()


@pytest.mark.parametrize("model_type", [None, "longformer", "big_bird"])
def test_plain_auto_tokenizer_loads_it_with_identical_output(trained, tmp_path, model_type):
    """Beside a BigBird config, a class chosen by model type would rebuild the BPE as Unigram."""
    from transformers import AutoTokenizer

    trained.save_pretrained(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    pairs = [(text, TEXTS[-1 - place]) for place, text in enumerate(TEXTS[:20])] + [
        (" lead", "<mask> ünïcode\n\n")
    ]
    for pair in pairs:
        options = {"return_offsets_mapping": True, "truncation": "only_second", "max_length": 60}
        assert dict(loaded(*pair, **options)) == dict(trained(*pair, **options))
    assert "token_type_ids" not in loaded("a", "b")
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(trained)
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path))) == tokenizer_fingerprint(trained)


@pytest.mark.parametrize("family", ["longformer", "big_bird"])
def test_both_families_of_models_read_it(trained, family):
    import torch
    import transformers

    shape = {
        "vocab_size": len(trained),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 130,
        "pad_token_id": trained.pad_token_id,
        "sep_token_id": trained.sep_token_id,
    }
    if family == "longformer":
        config = transformers.LongformerConfig(**shape, attention_window=[16], bos_token_id=0, eos_token_id=2)
        model = transformers.LongformerForMaskedLM(config)
    else:
        config = transformers.BigBirdConfig(
            **shape, attention_type="original_full", bos_token_id=0, eos_token_id=2
        )
        model = transformers.BigBirdForMaskedLM(config)
    batch = trained(["a <mask> b", ("question", "context")[1] * 3], padding=True, return_tensors="pt")
    logits = model(**batch).logits
    assert logits.shape == (*batch["input_ids"].shape, len(trained))
    assert torch.isfinite(logits).all()


def test_notes_are_whole_though_a_tokenizers_file_or_last_call_cuts_and_fills_up(trained, tmp_path):
    """The tokenizer.json of sentence-transformers' MiniLM cuts at 128 tokens and fills up to them."""
    expected = encode(trained, TEXTS[:3])
    trained.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    stored["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    stored["padding"] = {
        **{"strategy": {"Fixed": 60}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1},
        **{"pad_type_id": 0, "pad_token": "<pad>"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    loaded = load_tokenizer(str(tmp_path))
    assert encode(loaded, TEXTS[:3]) == expected
    loaded("a b c d e f", truncation=True, max_length=4, padding="max_length")
    assert encode(loaded, TEXTS[:3]) == expected
