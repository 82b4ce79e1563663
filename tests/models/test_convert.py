"""A RoBERTa-type checkpoint becomes a Longformer (Beltagy et al. 2020, section 5)."""

import pytest
import torch
import transformers

from clinscale import models
from clinscale.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def roberta(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("roberta")
    model = transformers.RobertaForMaskedLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


def test_converted_model_gives_the_sources_logits_on_short_text(roberta):
    """With a window as wide as the text, local attention is full attention."""
    folder, source = roberta
    model = models.convert_to_longformer(str(folder), max_tokens=512, attention_window=128).eval()
    assert models.max_tokens_of(model.config) == 512
    input_ids = torch.randint(5, source.config.vocab_size, (2, 60))
    with torch.no_grad():
        wanted, got = source(input_ids=input_ids).logits, model(input_ids=input_ids).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_positions_repeat_and_globals_start_from_locals(roberta, tmp_path, tokenizer):
    folder, source = roberta
    model = models.convert_to_longformer(str(folder), max_tokens=256, attention_window=64)
    table = model.longformer.embeddings.position_embeddings.weight
    learned = source.roberta.embeddings.position_embeddings.weight[2:]
    assert torch.equal(table[2:66], learned)
    assert torch.equal(table[66:130], learned)
    attention = model.longformer.encoder.layer[1].attention.self
    assert torch.equal(attention.query_global.weight, attention.query.weight)
    saved = models.save_hf(model, tokenizer, tmp_path / "hf")
    assert models.max_tokens_of(transformers.AutoModelForMaskedLM.from_pretrained(saved).config) == 256


def test_lengths_that_do_not_fit_are_refused(roberta):
    folder, _ = roberta
    with pytest.raises(ConfigError, match="multiple of attention_window=64"):
        models.convert_to_longformer(str(folder), max_tokens=100, attention_window=64)
    with pytest.raises(ConfigError, match="below the source's 64"):
        models.convert_to_longformer(str(folder), max_tokens=32, attention_window=32)


def test_other_model_types_are_refused(tokenizer, tmp_path):
    folder = models.save_hf(
        models.build(models.ModelConfig(family="bigbird", size="tiny"), tokenizer, seed=0),
        tokenizer,
        tmp_path / "hf",
    )
    with pytest.raises(DataError, match="big_bird"):
        models.convert_to_longformer(str(folder), max_tokens=512)
