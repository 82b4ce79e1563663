import json
import os
import shutil

import pytest
from tokenizers import normalizers, processors

from clinscale.corpus import train_tokenizer
from clinscale.errors import DataError
from clinscale.tokenizers import SpecialIds, load_tokenizer, splits_alike, tokenizer_fingerprint

TEXTS = [f"The patient was given {n} mg of aspirin for chest pain. <mask> Größe {n * 7} cm." for n in range(300)]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, vocab_size=300)


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


@pytest.mark.parametrize("name", ["WordLevel", "WordPiece", "BPE"])
def test_a_tokenizer_that_loses_unknown_text_is_refused(tmp_path, name):
    """BPE leaves out what it does not know, without a word; the others break."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"a": 0, "b": 1, "[PAD]": 2}
    model = models.BPE(vocabulary, []) if name == "BPE" else getattr(models, name)(vocabulary, unk_token="[UNK]")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(DataError, match="must have a token for what its vocabulary lacks"):
        load_tokenizer(str(tmp_path))


def test_a_special_token_that_a_note_spells_is_text_unless_texts_are_marked_by_some(trained, tmp_path):
    text = "<pad> and <mask></s>"
    trained.save_pretrained(tmp_path / "plain")
    loaded = load_tokenizer(str(tmp_path / "plain"))
    inner = loaded(text)["input_ids"][1:-1]
    assert set(inner).isdisjoint(loaded.all_special_ids)
    assert loaded.decode(inner) == text
    loaded.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    loaded.save_pretrained(tmp_path / "marked")
    marked = load_tokenizer(str(tmp_path / "marked"))
    assert marked.convert_tokens_to_ids("[E1]") in marked("an [E1] aspirin")["input_ids"]


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


def test_a_pipe_among_a_tokenizers_files_is_refused_and_not_waited_for(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    os.mkfifo(tmp_path / "added_tokens.json")
    with pytest.raises(DataError, match=r"added_tokens\.json must be a regular file"):
        load_tokenizer(str(tmp_path))


CASED = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *(f"Ward{n}" for n in range(600)),
    *(f"mg{n}" for n in range(600)),
]


def bert_folder(folder, tokens=CASED, *, file=None, **settings):
    """A folder of BERT's tokenizer: `vocab.txt`, what its config says, and the `tokenizer.json` of a backend."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    if file is not None:
        file.save(str(folder / "tokenizer.json"))
    return str(folder)


def wordpiece(tokens=CASED, *, lowercase):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    backend = Tokenizer(models.WordPiece({token: at for at, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def test_a_tokenizer_that_takes_away_or_does_not_know_capitals_is_told(tmp_path, caplog):
    load_tokenizer(bert_folder(tmp_path / "cased", do_lower_case=False))
    small = [token if token.startswith("[") else token.lower() for token in CASED]
    load_tokenizer(bert_folder(tmp_path / "small", small))
    assert not caplog.messages
    load_tokenizer(bert_folder(tmp_path / "published without its config"))
    assert "makes all letters small, and 600 of the 1,200 words of its vocabulary have capitals" in caplog.text
    load_tokenizer(bert_folder(tmp_path / "of small letters", small, do_lower_case=False))
    assert "each word with a capital is unknown" in caplog.text


def test_a_file_that_transformers_does_not_follow_is_told(tmp_path, caplog):
    file = wordpiece([*CASED, "prn"], lowercase=False)
    load_tokenizer(bert_folder(tmp_path / "alike", [*CASED, "prn"], file=file, do_lower_case=False))
    assert not caplog.messages
    load_tokenizer(bert_folder(tmp_path / "other", [*CASED, "prn"], file=file))
    assert "splits texts otherwise than its tokenizer.json says, as BertTokenizer" in caplog.text


def test_files_that_name_other_tokens_around_a_text_are_told(tmp_path, caplog):
    file = wordpiece(lowercase=True)
    file.post_processor = processors.BertProcessing(
        *(("[SEP]", CASED.index("[SEP]")), ("[CLS]", CASED.index("[CLS]")))
    )
    load_tokenizer(bert_folder(tmp_path / "alike", file=file))
    assert "around a text" not in caplog.text
    load_tokenizer(bert_folder(tmp_path / "other", file=file, cls_token="[SEP]"))
    assert r"puts [SEP] and [SEP] around a text, and its tokenizer.json others" in caplog.text


def test_a_vocabulary_that_was_cut_off_is_told(trained, tmp_path, caplog):
    trained.save_pretrained(tmp_path)
    for vocab_size, is_told in ((int(len(trained) / 0.94), False), (2 * len(trained), True)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "longformer", "vocab_size": vocab_size}))
        load_tokenizer(str(tmp_path))
        assert (f"has {len(trained):,} tokens, and the model beside it knows" in caplog.text) == is_told


def test_texts_are_cut_on_the_right_whatever_the_last_user_cut(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": "left"}))
    assert load_tokenizer(str(tmp_path)).truncation_side == "right"


def test_what_was_left_on_from_training_is_off(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    backend = trained.backend_tokenizer
    backend.model.dropout = 0.5
    names = {name: str(getattr(trained, name)) for name in ("pad_token", "cls_token", "sep_token", "mask_token")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path)
    backend.model.dropout = None
    loaded = load_tokenizer(str(tmp_path))
    assert {tuple(loaded(TEXTS[0])["input_ids"]) for _ in range(20)} == {tuple(trained(TEXTS[0])["input_ids"])}


def test_a_tokenizer_that_puts_no_special_tokens_around_a_text_is_refused(tmp_path):
    from transformers import PreTrainedTokenizerFast

    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=wordpiece(lowercase=False), **named).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"must put \[CLS\] and \[SEP\] around a text"):
        load_tokenizer(str(tmp_path))


def test_ids_of_no_token_are_counted_and_never_drawn():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"a": 0, "b": 70_000, "<s>": 1, "</s>": 2, "<pad>": 3, "<mask>": 5}
    named = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    backend = Tokenizer(models.WordLevel(vocabulary, "a"))
    special = SpecialIds.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **named))
    assert special.vocab_size == 70_001
    assert set(range(special.vocab_size)) - set(special.all) == {0, 70_000}


def test_equal_vocabularies_may_split_texts_otherwise(trained):
    other = train_tokenizer(TEXTS, vocab_size=300)
    assert splits_alike(trained, other)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert not splits_alike(trained, other)
