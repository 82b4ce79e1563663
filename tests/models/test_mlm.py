"""The cheaper training step must be the same step."""

import copy

import pytest
import torch
import transformers

from clinscale import models


@pytest.fixture(params=["longformer", "bigbird"])
def hf(request, tokenizer):
    overrides = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = models.ModelConfig(family=request.param, size="tiny", hf_overrides=overrides)
    return models.build(config, tokenizer, seed=0, attention="hf").train()


def batch_of(model):
    torch.manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (2, 200))
    labels = torch.where(torch.rand(2, 200) < 0.15, ids, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model, **inputs):
    model.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_hfs(hf):
    ours, batch = models.prepare_for_mlm(copy.deepcopy(hf)), batch_of(hf)
    their_loss, theirs = gradients(hf, **batch)
    my_loss, mine = gradients(ours, **batch)
    torch.testing.assert_close(my_loss, their_loss, rtol=0, atol=1e-6)
    assert theirs.keys() == mine.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(mine[name], grad, rtol=0, atol=1e-6)


def test_what_is_frozen_is_what_hf_gives_no_gradient_to(hf):
    frozen = {n for n, p in models.prepare_for_mlm(copy.deepcopy(hf)).named_parameters() if not p.requires_grad}
    _, reached = gradients(hf, **batch_of(hf))
    assert frozen == {name for name, _ in hf.named_parameters()} - reached.keys()
    assert frozen
    if hf.config.model_type == "longformer":
        kept = models.prepare_for_mlm(copy.deepcopy(hf), has_global_tokens=True)
        assert all(p.requires_grad for p in kept.parameters())


def test_without_labels_it_answers_as_ever(hf):
    ours, batch = models.prepare_for_mlm(copy.deepcopy(hf)), batch_of(hf)
    del batch["labels"]
    assert torch.equal(ours(**batch).logits, hf(**batch).logits)


def test_the_summed_loss_divides_by_what_it_is_told(hf):
    ours, batch = models.prepare_for_mlm(hf), batch_of(hf)
    masked = int((batch["labels"] != -100).sum())
    summed = ours(**batch, num_items_in_batch=torch.tensor(1)).loss
    torch.testing.assert_close(summed / masked, ours(**batch).loss)


def test_a_batch_without_a_masked_token_adds_nothing(hf):
    ours, batch = models.prepare_for_mlm(hf), batch_of(hf)
    batch["labels"].fill_(-100)
    loss, grads = gradients(ours, **batch, num_items_in_batch=torch.tensor(1))
    assert loss == 0
    assert all((grad == 0).all() for grad in grads.values())


def test_the_saved_folder_is_a_plain_one(hf, tokenizer, tmp_path):
    folder = models.save_hf(models.prepare_for_mlm(hf), tokenizer, tmp_path / "hf")
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    assert plain.config.architectures == [type(plain).__name__]
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, hf.state_dict()[name]), name
