"""An encoder of 512 tokens becomes a Longformer or a BigBird (Beltagy et al. 2020, section 5)."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

from clinscale import models
from clinscale.errors import ConfigError, DataError
from clinscale.models import ModelConfig

POSITIONS = 64
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def wordpiece():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "pain", "##s", "no", "fever", ",", "."]
    vocabulary = {word: number for number, word in enumerate(words + [f"w{n}" for n in range(80)])}
    return transformers.BertTokenizerFast(vocab=vocabulary)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tokenizer, wordpiece):
    """By `model_type` and head: a folder of a small encoder, and its tokenizer."""
    torch.manual_seed(0)
    roberta = {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}
    made = {}
    for kind, head, shape, spoken in (
        ("bert", True, {"max_position_embeddings": POSITIONS}, wordpiece),
        ("bert", False, {"max_position_embeddings": POSITIONS, "hidden_act": "relu"}, wordpiece),
        ("roberta", True, roberta, tokenizer),
        ("roberta", False, roberta, tokenizer),
        ("xlm-roberta", True, roberta, tokenizer),
        ("camembert", True, roberta, tokenizer),
    ):
        config = transformers.AutoConfig.for_model(kind, vocab_size=len(spoken), **SHAPE, **shape)
        auto = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
        model = auto.from_config(config)
        for parameter in model.parameters():  # biases and norms, too, must arrive
            torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp(f"{kind}-{head}")
        model.save_pretrained(folder)
        spoken.save_pretrained(folder)
        made[kind, head] = folder, spoken
    return made


def settings(folder, family, max_tokens=512, **overrides):
    own = {"attention_window": 128} if family == "longformer" else {"block_size": 16, "num_random_blocks": 2}
    return ModelConfig(
        pretrained=str(folder), convert_to=family, max_tokens=max_tokens, hf_overrides=own | overrides
    )


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize(
    "source",
    [
        ("bert", True),
        ("bert", False),
        ("roberta", True),
        ("roberta", False),
        ("xlm-roberta", True),
        ("camembert", True),
    ],
)
def test_a_short_text_has_the_sources_hidden_states_and_logits(sources, tmp_path, source, family):
    folder, spoken = sources[source]
    done = models.convert_to_folder(settings(folder, family), spoken, tmp_path / "out")
    has_head = source[1]
    assert done["has_mlm_head"] == has_head
    auto = transformers.AutoModelForMaskedLM if has_head else transformers.AutoModel
    ours, theirs = (auto.from_pretrained(place).eval() for place in (done["folder"], folder))
    known = {name for name, _ in safetensors.torch.load_file(tmp_path / "out" / "model.safetensors").items()}
    assert done["parameters"] == sum(one.numel() for name, one in ours.named_parameters() if name in known)
    ids = torch.randint(5, theirs.config.vocab_size, (2, POSITIONS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 40:], mask[1, 40:] = theirs.config.pad_token_id, 0
    with torch.no_grad():
        wanted, got = (
            model(input_ids=ids, attention_mask=mask)["logits" if has_head else "last_hidden_state"]
            for model in (theirs, ours)
        )
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
@pytest.mark.parametrize("source", [("bert", True), ("roberta", False)])
def test_a_long_text_trains_and_what_is_saved_loads_in_plain_transformers(sources, tmp_path, source, family):
    folder, spoken = sources[source]
    model = models.build(settings(folder, family), spoken, seed=0)
    ids = torch.randint(5, model.config.vocab_size, (1, 500), generator=torch.Generator().manual_seed(1))
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None
    )
    saved = models.save_hf(model, spoken, tmp_path / "hf")
    plain = transformers.AutoModelForMaskedLM.from_pretrained(saved)
    assert models.max_tokens_of(plain.config) == 512
    assert (
        transformers.AutoTokenizer.from_pretrained(saved)("chest pain")["input_ids"]
        == spoken("chest pain")["input_ids"]
    )


def test_positions_repeat_and_globals_start_from_locals(sources):
    folder, spoken = sources["roberta", True]
    source = load_file(folder / "model.safetensors")
    model = models.convert(settings(folder, "longformer", 256), spoken)
    table = model.longformer.embeddings.position_embeddings.weight
    learned = source["roberta.embeddings.position_embeddings.weight"][2:]
    assert torch.equal(table[2:], learned.repeat(4, 1))
    attention = model.longformer.encoder.layer[1].attention.self
    assert torch.equal(attention.query_global.weight, attention.query.weight)
    assert attention.query_global.weight.data_ptr() != attention.query.weight.data_ptr()
    of_bert, words = sources["bert", True]
    table = models.convert(
        settings(of_bert, "longformer", 256), words
    ).longformer.embeddings.position_embeddings.weight
    learned = load_file(of_bert / "model.safetensors")["bert.embeddings.position_embeddings.weight"]
    assert torch.equal(table[1 : 1 + POSITIONS], learned), "the row of the padding id comes first"


def test_the_same_source_converts_to_the_same_bytes_and_the_tokenizer_reads_the_new_length(sources, tmp_path):
    folder, spoken = sources["roberta", False]
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        models.convert_to_folder(settings(folder, "bigbird"), spoken, place)
    one, two = (place / "model.safetensors" for place in places)
    assert one.read_bytes() == two.read_bytes()
    assert json.loads((places[0] / "tokenizer_config.json").read_text())["model_max_length"] == 512
    config = json.loads((places[0] / "config.json").read_text())
    assert (config["sep_token_id"], config["bos_token_id"]) == (spoken.sep_token_id, spoken.cls_token_id)
    assert not any(name.startswith("cls.") for name in load_file(one)), "a head of random weights is not written"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_tokens": 200}, ConfigError, "multiple of attention_window=128, got 200"),
        ({"max_tokens": 32, "attention_window": 32}, ConfigError, "at least the source's 64, got 32"),
        ({"hidden_size": 64}, ConfigError, "may set attention_window, got hidden_size"),
        ({"attention_window": 0}, ConfigError, "whole numbers from 1 on, got attention_window=0"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(sources, changes, error, message):
    folder, spoken = sources["roberta", True]
    with pytest.raises(error, match=message):
        models.convert(settings(folder, "longformer", **changes), spoken)


def test_other_types_positions_and_vocabularies_are_refused(sources, tokenizer, tmp_path):
    big = models.build(ModelConfig(family="bigbird", size="tiny"), tokenizer, seed=0)
    models.save_hf(big, tokenizer, tmp_path / "big")
    with pytest.raises(DataError, match=r"of a type that converts, bert, roberta.*got 'big_bird'"):
        models.convert(settings(tmp_path / "big", "longformer"), tokenizer)
    folder, _ = sources["bert", True]
    with pytest.raises(DataError, match="at most the 92 tokens that the model knows, got"):
        models.convert(settings(folder, "longformer"), tokenizer)
    bare = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
    )
    with pytest.raises(DataError, match="no cls and no sep and no pad and no mask token"):
        models.convert(settings(folder, "longformer"), bare)


def test_what_is_there_is_not_written_over(sources, tmp_path):
    folder, spoken = sources["bert", True]
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ConfigError, match="new or an empty folder"):
        models.convert_to_folder(settings(folder, "longformer"), spoken, tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_link_to_an_empty_folder_stays_one(sources, tmp_path):
    folder, spoken = sources["bert", True]
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large")
    models.convert_to_folder(settings(folder, "longformer"), spoken, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "large" / "config.json").is_file()


@pytest.mark.skipif(
    not Path("../shared/models/all-minilm-l6-v2").is_dir(), reason="the published weights of MiniLM are not here"
)
@pytest.mark.parametrize(("family", "own"), [("longformer", {"attention_window": 1024}), ("bigbird", {})])
def test_a_published_encoder_keeps_its_hidden_states(family, own, tmp_path):
    place = "../shared/models/all-minilm-l6-v2"
    spoken = transformers.AutoTokenizer.from_pretrained(place)
    config = ModelConfig(pretrained=place, convert_to=family, hf_overrides=own)
    models.convert_to_folder(config, spoken, tmp_path / "out")
    text = spoken(
        "The patient was admitted with chest pain. " * 60, return_tensors="pt", truncation=True, max_length=500
    )
    with torch.no_grad():
        got, wanted = (
            transformers.AutoModel.from_pretrained(one).eval()(**text).last_hidden_state
            for one in (tmp_path / "out", place)
        )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
