"""Which backend runs a batch, and that one which cannot says why, once."""

import logging
from types import SimpleNamespace

import pytest
import torch
import transformers

from clinscale import models
from clinscale.models.attention import exact, tiles
from clinscale.models.attention.patterns import Document, LongformerPattern

ROW = LongformerPattern((Document(start=0, rows=64, length=64),), tokens=64, one_sided_window=8)
HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def test_a_cpu_runs_tiles():
    assert exact._backend(ROW, torch.empty(1, 64, 32), head_dim=16, dropout=0.1) is tiles.attend
    assert "CPU" in models.attention_backend() or torch.cuda.is_available()


def test_a_batch_that_no_backend_runs_is_left_to_hf_with_one_line(caplog):
    exact._say_once.cache_clear()
    elsewhere = SimpleNamespace(device=torch.device("mps"), dtype=torch.float32)  # an Apple GPU, not here
    with caplog.at_level(logging.WARNING, logger="clinscale.models"):
        for _ in range(3):
            assert exact._backend(ROW, elsewhere, head_dim=16, dropout=0.0) is None
    assert [record.getMessage() for record in caplog.records] == [
        "exact attention leaves a batch to Hugging Face's code: device mps is not CUDA"
    ]


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_without_a_backend_the_model_answers_as_hf_does(family, monkeypatch):
    model = small(family)
    ids = torch.randint(5, 99, (2, 150))
    before = models.set_attention(model, "hf")(input_ids=ids).logits
    models.set_attention(model, "exact")
    monkeypatch.setattr(exact, "_backend", lambda *arguments: None)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert torch.equal(
        model(input_ids=ids[:, :40]).logits, models.set_attention(model, "hf")(input_ids=ids[:, :40]).logits
    )


@pytest.mark.parametrize("family", ["longformer", "bigbird"])
def test_what_an_evaluation_left_in_the_cache_serves_training(family):
    model = models.set_attention(small(family), unpad=True)
    ids, mask = torch.randint(5, 99, (2, 150)), torch.ones(2, 150, dtype=torch.long)
    mask[0, 3:5] = 0
    mask[1, 120:] = 0
    tiles.tiles_of.cache_clear()
    model.train()
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask)
    model(input_ids=ids, attention_mask=mask).logits.sum().backward()


def small(family):
    torch.manual_seed(0)
    if family == "longformer":
        shape = HIDDEN | {"attention_window": 16, "max_position_embeddings": 258, "pad_token_id": 1}
        return transformers.LongformerForMaskedLM(transformers.LongformerConfig(vocab_size=99, **shape)).eval()
    shape = HIDDEN | {"block_size": 8, "num_random_blocks": 1, "max_position_embeddings": 256}
    return transformers.BigBirdForMaskedLM(transformers.BigBirdConfig(vocab_size=99, **shape)).eval()
