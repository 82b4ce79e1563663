"""What is ModernBERT's alone; what it shares with every family is in `tests/contracts/test_families.py`."""

import pytest
import torch
import transformers

from clinscale import models
from clinscale.errors import ConfigError
from clinscale.pretrain import PretrainConfig

APART = {"shards": "s", "documents_apart": True, "model": {"family": "modernbert", "size": "tiny"}}


def small(**changes):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    config = transformers.ModernBertConfig(vocab_size=99, local_attention=8, **shape, **special, **changes)
    return models.prepare_for_mlm(transformers.ModernBertForMaskedLM(config).eval())


@torch.no_grad()
def test_a_note_knows_nothing_of_its_neighbours_in_either_kind_of_layer():
    model, ids = small(), torch.randint(5, 99, (1, 60), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[1] * 20 + [2] * 30 + [0] * 10])
    mask, other = (segments != 0).long(), ids.clone()
    other[0, 20:] = 7
    before, after = (model(x, attention_mask=mask, segment_ids=segments).logits for x in (ids, other))
    assert torch.equal(before[0, :20], after[0, :20])
    assert not torch.equal(before[0, 20:50], after[0, 20:50])
    mixed = [model(x, attention_mask=mask).logits for x in (ids, other)]
    assert not torch.equal(mixed[0][0, :20], mixed[1][0, :20])
    assert before.isfinite().all()


def test_an_attention_whose_masks_cannot_part_documents_is_refused():
    model, ids = small(), torch.full((1, 8), 7)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"attn_implementation=sdpa, got flash_attention_2; set that or"):
        model(ids, segment_ids=torch.ones_like(ids))


@pytest.mark.parametrize("runtime", [{"attention": "hf"}, {"gpus_per_worker": 1}])
def test_documents_are_kept_apart_without_an_attention_of_clinscales_own(runtime):
    PretrainConfig.parse({"name": "x", "recipe": APART, "runtime": runtime}, source="test")
    exact = APART | {"model": {"family": "longformer"}}
    with pytest.raises(ConfigError, match=r"recipe\.documents_apart"):
        PretrainConfig.parse({"name": "x", "recipe": exact, "runtime": runtime}, source="test")


def test_nothing_converts_to_it(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model.convert_to must be one of longformer, bigbird, got 'modernbert'"
    ):
        models.convert(models.ModelConfig(pretrained=str(tmp_path), convert_to="modernbert"), None)
