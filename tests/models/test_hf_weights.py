"""Build, load and save: what plain `transformers` sees must be what clinscale made."""

import json
import logging

import huggingface_hub
import pytest
import torch
import transformers

from clinscale import models
from clinscale.errors import ConfigError, DataError


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_built_model_is_a_function_of_the_seed_and_leaves_the_global_generator_alone(family, tokenizer):
    config = models.ModelConfig(family=family, size="tiny")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.build(config, tokenizer, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again = models.build(config, tokenizer, seed=1).state_dict()
    other = models.build(config, tokenizer, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_saved_folder_loads_in_plain_transformers_with_the_same_logits(family, tokenizer, tmp_path):
    model = models.build(models.ModelConfig(family=family, size="tiny"), tokenizer, seed=0).eval()
    folder = models.save_hf(model, tokenizer, tmp_path / "hf")
    assert not list(tmp_path.glob(".hf*")), "temporary folders stay behind"
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.bin"))
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)("chest pain " * 60, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=0, atol=1e-5)
        assert torch.equal(models.set_attention(model, "hf")(**batch).logits, plain(**batch).logits)
        back = models.load_hf(str(folder), head="mlm").eval()
        torch.testing.assert_close(back(**batch).logits, plain(**batch).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_a_size_reads_as_many_tokens_as_it_says(family, tokenizer):
    model = models.build(models.ModelConfig(family=family, size="tiny", max_tokens=192), tokenizer, seed=0).eval()
    limit = models.max_tokens_of(model.config)
    assert limit == 192
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 7))


@pytest.mark.parametrize(
    ("family", "parameters_millions"),
    [("longformer", 148.7), ("bigbird", 127.5)],
)
def test_base_sizes_are_the_published_ones(family, parameters_millions):
    """Parameters with the tied MLM head and no pooler at the published vocabularies, from the public configs."""

    class Vocabulary:
        pad_token_id, cls_token_id, sep_token_id = (1, 0, 2) if family == "longformer" else (0, 1, 66)

        def get_vocab(self):
            return {"last": (50265 if family == "longformer" else 50358) - 1}

    with torch.device("meta"):
        model = models.build(models.ModelConfig(family=family, size="base"), Vocabulary(), seed=0)
    assert models.max_tokens_of(model.config) == 4096
    counted = {name: weight.numel() for name, weight in model.named_parameters() if "pooler" not in name}
    assert round(sum(counted.values()) / 1e6, 1) == parameters_millions


def test_bigbird_chooses_its_attention_for_every_batch_anew(tokenizer):
    """Plain HF switches to full attention for good after one short batch (transformers#20031)."""
    model = models.build(models.ModelConfig(family="bigbird", size="tiny"), tokenizer, seed=0).eval()
    long_ids = torch.randint(5, len(tokenizer), (1, 512))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with torch.no_grad():
        before = model(input_ids=long_ids).logits
        model(input_ids=long_ids[:, :40])
        after = model(input_ids=long_ids).logits
    assert torch.equal(before, after)


def test_new_heads_are_reproducible_and_named(tokenizer, tmp_path):
    folder = models.save_hf(
        models.build(models.ModelConfig(size="tiny"), tokenizer, seed=0), tokenizer, tmp_path / "hf"
    )
    first = models.load_hf(str(folder), head="sequence", labels=("no", "yes"), seed=3)
    again = models.load_hf(str(folder), head="sequence", labels=("no", "yes"), seed=3)
    assert torch.equal(first.classifier.out_proj.weight, again.classifier.out_proj.weight)
    assert first.config.id2label == {0: "no", 1: "yes"}


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json"):
        models.load_hf(str(tmp_path), head="mlm")


def test_a_folder_that_asks_for_remote_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(DataError, match="auto_map"):
        models.load_hf(str(tmp_path), head="mlm")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "./no/such/folder", "/no/such"])
def test_a_name_that_is_nowhere_is_refused_without_a_traceback(name, monkeypatch):
    # the environment variable is read at import, and without it this test asks the network for half a minute
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"'{name}' is neither a folder"):
        models.load_hf(name, head="mlm")


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean tiny"):
        models.ModelConfig(size="tinny")


def test_a_vocabulary_larger_than_the_models_is_refused(tokenizer, tmp_path):
    small = models.build(models.ModelConfig(size="tiny", hf_overrides={"vocab_size": 50}), tokenizer, seed=0)
    folder = models.save_hf(small, tokenizer, tmp_path / "hf")
    with pytest.raises(DataError, match="knows 50 tokens"):
        models.build(models.ModelConfig(pretrained=str(folder)), tokenizer, seed=0)


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_attention_dropout_is_set_apart_from_the_rest(family, tokenizer, tmp_path):
    """Rows are too short for BigBird's blocks, so that nothing else is drawn."""
    shape = {"family": family, "size": "tiny", "hf_overrides": {"hidden_dropout_prob": 0.0}}
    published = models.build(models.ModelConfig(**shape), tokenizer, seed=0)
    folder = models.save_hf(published, tokenizer, tmp_path / "hf")
    ids = torch.randint(5, 250, (1, 128))
    for chosen in (shape, {"pretrained": str(folder)}):
        config = models.ModelConfig(**chosen)
        kept = models.build(config, tokenizer, seed=0).train()
        without = models.build(config, tokenizer, seed=0, attention_dropout=0.0).train()
        assert not torch.equal(kept(ids).logits, kept(ids).logits)
        assert torch.equal(without(ids).logits, without(ids).logits)


def test_what_somebody_put_beside_a_model_is_not_lost_with_it(tokenizer, tmp_path, caplog):
    model = models.build(models.ModelConfig(family="longformer", size="tiny"), tokenizer, seed=0)
    folder = models.save_hf(model, tokenizer, tmp_path / "hf")
    models.save_hf(model, tokenizer, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    (folder / "mine.txt").write_text("mine")
    models.save_hf(model, tokenizer, folder)
    [kept] = tmp_path.glob("hf-before-*")
    assert (kept / "mine.txt").read_text() == "mine"
    assert not (folder / "mine.txt").exists()
    assert "held 'mine.txt', which is of no model: what was there is in " in caplog.text
