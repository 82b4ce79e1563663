"""The shape that arithmetic reads is that of the model that would be built, to the last parameter."""

import json

import pytest
import torch

from clinscale import models
from clinscale.errors import ConfigError


def built(config, vocab_size=300):
    """The model of a config, without memory for its weights."""
    family = config.family_to_train
    shape = {**family.published, **family.sizes[config.size], "vocab_size": vocab_size, **config.hf_overrides}
    max_tokens = config.max_tokens or shape.pop("max_tokens")
    shape.pop("max_tokens", None)
    shape["pad_token_id"] = min(shape["pad_token_id"], vocab_size - 1)
    with torch.device("meta"):
        return family.new_mlm(shape, max_tokens=max_tokens)


@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_parameters_are_counted_as_they_are_built(name, size):
    config = models.ModelConfig(family=name, size=size)
    model = models.prepare_for_mlm(built(config))
    counts = models.parameter_counts(models.shape_of(config, vocab_size=300)).values()
    parameters = list(model.parameters())
    assert sorted(count for count, _ in counts) == sorted(p.numel() for p in parameters)
    assert sum(count for count, trained in counts if trained) == sum(
        p.numel() for p in parameters if p.requires_grad
    )


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_folder_s_shape_is_read_from_its_config(name, tmp_path):
    config = models.ModelConfig(family=name, size="tiny")
    model = built(config)
    model.config.save_pretrained(tmp_path)
    folder = models.shape_of(models.ModelConfig(pretrained=str(tmp_path)))
    assert models.parameter_counts(folder) == models.parameter_counts(models.shape_of(config, vocab_size=300))
    assert models.train_flops(folder, 256, head_share=0.15) == models.train_flops(
        model.config, 256, head_share=0.15
    )
    assert models.pretrainable_family(folder.model_type).max_tokens(folder) == 1024


def test_a_modernbert_that_says_only_how_many_layers_lie_between_full_ones():
    """As the published config.json does."""
    shape = models.shape_of(models.ModelConfig(family="modernbert"))
    whole = models.FAMILIES["modernbert"].attended_pairs(
        built(models.ModelConfig(family="modernbert")).config, 1024
    )
    assert models.FAMILIES["modernbert"].attended_pairs(shape, 1024) == whole


def test_a_converted_model_keeps_its_source_s_width(tmp_path):
    source = {"model_type": "bert", "vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 3}
    source |= {"num_attention_heads": 2, "intermediate_size": 512, "type_vocab_size": 2, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(source))
    shape = models.shape_of(models.ModelConfig(pretrained=str(tmp_path), convert_to="longformer"))
    assert (shape.hidden_size, shape.num_hidden_layers, shape.vocab_size) == (128, 3, 500)
    assert shape.attention_window == 512
    assert models.FAMILIES["longformer"].max_tokens(shape) == 4096


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "config.json") for text in ("{", "[]", "{}", '{"model_type": ""}', "[" * 5000)),
        ('{"model_type": "gpt2"}', "gpt2"),
    ],
)
def test_what_is_no_encoder_of_ours_is_refused(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        models.shape_of(models.ModelConfig(pretrained=str(tmp_path)))


@pytest.mark.parametrize("name", ["nobody/unknown", "no such folder", "/no/such/folder"])
def test_weights_that_are_not_here_are_not_guessed(name):
    with pytest.raises(ConfigError, match=r"shape of model\.pretrained"):
        models.shape_of(models.ModelConfig(pretrained=name))
