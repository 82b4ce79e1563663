import json
import shutil

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clinscale.corpus import SpecialIds, load_tokenizer, tokenizer_fingerprint, train_tokenizer
from clinscale.corpus.tokenizing import SPECIAL_TOKENS, encode
from clinscale.errors import DataError

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


def test_fingerprint_ignores_the_last_calls_state_and_follows_the_vocabulary(trained):
    before = tokenizer_fingerprint(trained)
    trained("a b c", truncation=True, max_length=3, padding="max_length")
    assert tokenizer_fingerprint(trained) == before
    assert tokenizer_fingerprint(train_tokenizer(TEXTS, 299)) != before


def test_a_tokenizer_without_mask_token_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")), cls_token="a")
    with pytest.raises(DataError, match="no sep and no pad and no mask token"):
        SpecialIds.from_tokenizer(bare)


def test_a_slow_or_foreign_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a folder with an HF tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match="none does not exist"):
        load_tokenizer(str(tmp_path / "none"))


@pytest.mark.parametrize("model_type", ["longformer", "big_bird"])
def test_a_model_folder_without_tokenizer_is_refused(tmp_path, model_type):
    """transformers 5 returns a tokenizer of special tokens only, under which every text is `<unk>`."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(DataError, match="holds no tokenizer vocabulary"):
        load_tokenizer(str(tmp_path))


def test_a_truncated_tokenizer_is_named(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"tokenizer\.json is not valid JSON"):
        load_tokenizer(str(tmp_path))


def test_remote_code_is_not_run(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A BigBird folder as published: `spiece.model` and no tokenizer.json."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("bigbird")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 10),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        control_symbols=["[SEP]", "[MASK]", "[CLS]"],
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "big_bird"}))
    return folder


def test_a_published_bigbird_tokenizer_reads_as_sentencepiece_does(spiece):
    import sentencepiece

    loaded = load_tokenizer(str(spiece))
    theirs = sentencepiece.SentencePieceProcessor(str(spiece / "spiece.model"))
    for text in TEXTS:
        assert loaded(text, add_special_tokens=False)["input_ids"] == theirs.encode(" ".join(text.split()))


@pytest.mark.parametrize("size", [0, 300, 301])
def test_a_cut_sentencepiece_file_is_told_as_such(spiece, tmp_path, size):
    """At 300 bytes it ends between two pieces, and `transformers` reads it without a word."""
    shutil.copytree(spiece, tmp_path / "cut")
    (tmp_path / "cut" / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes()[:size])
    with pytest.raises(DataError, match=r"spiece\.model is cut off"):
        load_tokenizer(str(tmp_path / "cut"))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_that_git_lfs_has_not_fetched_is_refused(trained, tmp_path, file):
    """As a vocabulary, the three lines of a pointer are three words."""
    trained.save_pretrained(tmp_path)
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5948\n")
    with pytest.raises(DataError, match=rf"{file} is a Git LFS pointer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("fewer", [0, 1])
def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(trained, tmp_path, fewer):
    trained.save_pretrained(tmp_path)
    config = {"model_type": "longformer", "vocab_size": len(trained) - fewer}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not fewer:
        assert len(load_tokenizer(str(tmp_path))) == len(trained)
        return
    with pytest.raises(DataError, match=rf"has {len(trained)} tokens, and the model beside it knows"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "chest": 1, "pain": 2}
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")))
    bare.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no pad token"):
        load_tokenizer(str(tmp_path))
