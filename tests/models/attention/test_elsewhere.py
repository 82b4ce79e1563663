"""A model with the exact attention in others' hands: stored whole, copied, exported, traced."""

import copy
import io
import pickle

import pytest
import torch
import transformers

from clinscale import models

IDS = torch.randint(5, 90, (1, 208), generator=torch.Generator().manual_seed(0))


def stored(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.fixture(params=["longformer", "bigbird"])
def model(request):
    """With a head, and long enough rows for BigBird's blocks."""
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 99,
        "max_position_embeddings": 258,
    }
    torch.manual_seed(0)
    if request.param == "longformer":
        made = transformers.LongformerForMaskedLM(transformers.LongformerConfig(**shape, attention_window=16))
    else:
        config = transformers.BigBirdConfig(**shape, block_size=16, num_random_blocks=2)
        made = transformers.BigBirdForMaskedLM(config)
    return models.set_attention(made.eval())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), stored])
@pytest.mark.parametrize("prepare", [lambda one: one, models.prepare_for_mlm])
@torch.no_grad()
def test_a_model_that_is_stored_whole_comes_back_as_it_was_and_stands_alone(again, prepare, model):
    model = prepare(model)
    before = model(IDS).logits
    other = again(model)
    assert torch.equal(other(IDS).logits, before)
    for module in ("base_model.encoder", "base_model.encoder.layer.1.attention.self"):
        assert other.get_submodule(
            module.replace("base_model", other.base_model_prefix)
        ).forward.func.__module__.startswith("clinscale.models.families.")
    other.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(other(IDS).logits, before)
    assert torch.equal(model(IDS).logits, before)


@pytest.mark.filterwarnings("ignore")  # tracing warns of every branch that Hugging Face takes
@torch.no_grad()
def test_a_traced_model_answers_as_hf_and_the_model_stays_exact(model):
    before = model(IDS).logits
    traced = torch.jit.trace(model, (IDS, torch.ones_like(IDS)), strict=False, check_trace=False)
    answered = traced(IDS, torch.ones_like(IDS))["logits"]
    assert torch.equal(model(IDS).logits, before)
    torch.testing.assert_close(answered, models.set_attention(model, "hf")(IDS).logits, rtol=0, atol=1e-5)


def test_a_bigbird_is_exported(model):
    if model.config.model_type == "longformer":
        pytest.skip("torch.export refuses Hugging Face's Longformer, too: it asks for the values of the mask")
    program = torch.export.export(model, (IDS, torch.ones_like(IDS)))
    with torch.no_grad():
        answered = program.module()(IDS, torch.ones_like(IDS))["logits"]
        torch.testing.assert_close(answered, models.set_attention(model, "hf")(IDS).logits, rtol=0, atol=1e-5)
