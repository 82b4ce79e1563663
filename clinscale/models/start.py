"""The model that a pretraining starts from: published, converted or new."""

from typing import TYPE_CHECKING, Any

from clinscale.errors import DataError
from clinscale.hub import must_be_local
from clinscale.models.catalog import ModelConfig
from clinscale.models.convert import convert
from clinscale.models.families import FAMILIES, pretrainable_family
from clinscale.models.hf_weights import check_padding, load_hf, set_attention
from clinscale.models.options import Attention, EvaluationPattern
from clinscale.tokenizers import num_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def build(
    config: ModelConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int,
    attention: Attention = "exact",
    attention_dropout: float | None = None,
    evaluation_pattern: EvaluationPattern = "hf",
) -> "PreTrainedModel":
    """The MLM model that `config` describes: loaded, converted, or new from `seed` for `tokenizer`'s vocabulary.

    The other arguments as in `load_hf`.

    Raises:
        ConfigError: `config.pretrained` is of a family that is not pretrained, or the shape that it is to be converted
            to does not fit. DataError: it is no HF model, none that converts, or its vocabulary is smaller than the
            tokenizer's.
    """
    import torch

    if config.pretrained and config.convert_to:
        model = convert(config, tokenizer, seed=seed, attention_dropout=attention_dropout)
        return set_attention(model, attention, evaluation_pattern=evaluation_pattern)
    if config.pretrained:
        check_pretrains(config)
        model = load_hf(
            config.pretrained,
            head="mlm",
            attention=attention,
            attention_dropout=attention_dropout,
            evaluation_pattern=evaluation_pattern,
        )
        known = num_ids(tokenizer)
        if model.config.vocab_size < known:
            raise DataError(
                f"model {config.pretrained} knows {model.config.vocab_size} tokens, the tokenizer of the shards has "
                f"{known}; build the shards with the model's own tokenizer"
            )
        check_padding(model.config, tokenizer)
        return model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new_mlm(config, tokenizer, attention_dropout)
    return set_attention(model, attention, unpad=False, evaluation_pattern=evaluation_pattern)


def check_pretrains(config: ModelConfig) -> None:
    """Raise ConfigError where `config.pretrained` is of a family that clinscale does not pretrain; loads no weights."""
    import transformers

    if config.pretrained and not config.convert_to:
        try:
            stored = transformers.AutoConfig.from_pretrained(
                config.pretrained, trust_remote_code=False, local_files_only=must_be_local(config.pretrained)
            )
        except (OSError, ValueError, KeyError):  # what is wrong with it, loading says
            return
        pretrainable_family(stored.model_type, source=f"model.pretrained={config.pretrained}")


def _new_mlm(
    config: ModelConfig, tokenizer: "PreTrainedTokenizerBase", attention_dropout: float | None
) -> "PreTrainedModel":
    family = FAMILIES[config.family]
    shape: dict[str, Any] = dict(family.sizes[config.size])
    max_tokens = config.max_tokens or shape["max_tokens"]
    del shape["max_tokens"]
    shape |= {
        "vocab_size": num_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    dropout = {} if attention_dropout is None else dict.fromkeys(family.dropout_fields[1], attention_dropout)
    return family.new_mlm(shape | config.hf_overrides | dropout, max_tokens=max_tokens)
