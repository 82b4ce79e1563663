"""A 512-token RoBERTa-type checkpoint becomes a Longformer that reads 4,096 tokens.

The recipe of the Longformer paper (Beltagy et al. 2020, section 5) and allenai/longformer's conversion script:
the position table is the old one repeated, the local projections also start the global ones.
"""

from typing import TYPE_CHECKING

from clinscale.errors import ConfigError, DataError
from clinscale.models.hf_weights import load_hf, max_tokens_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Shape letters: P positions of a table, D hidden size


def convert_to_longformer(
    name_or_folder: str, *, max_tokens: int = 4096, attention_window: int = 512
) -> "PreTrainedModel":
    """A `LongformerForMaskedLM` with the weights of a RoBERTa-type masked language model.

    Args:
        name_or_folder: HF name or folder of a checkpoint of `model_type` roberta.
        max_tokens: positions of the new model; a multiple of `attention_window`.
        attention_window: tokens each token sees, half on either side.

    Raises:
        ConfigError: `max_tokens` is no multiple of `attention_window`, or not above the source's length.
        DataError: the source is not a RoBERTa-type model.
    """
    import transformers

    if max_tokens % attention_window:
        raise ConfigError(
            f"max_tokens must be a multiple of attention_window={attention_window}, got {max_tokens}"
        )
    source = load_hf(name_or_folder, head="mlm")
    if source.config.model_type != "roberta":
        raise DataError(
            f"model {name_or_folder} is of type {source.config.model_type!r}; only roberta checkpoints convert"
        )
    if max_tokens < max_tokens_of(source.config):
        raise ConfigError(f"max_tokens={max_tokens} is below the source's {max_tokens_of(source.config)}")
    offset = source.config.pad_token_id + 1
    shape = source.config.to_dict()
    for key in ("model_type", "architectures", "max_position_embeddings", "transformers_version"):
        shape.pop(key, None)
    config = transformers.LongformerConfig(
        **shape, attention_window=attention_window, max_position_embeddings=max_tokens + offset
    )
    model = transformers.LongformerForMaskedLM(config)
    model.load_state_dict(_longformer_weights(source.state_dict(), offset, max_tokens))
    model.tie_weights()
    return model


def _longformer_weights(
    roberta: "dict[str, torch.Tensor]", offset: int, max_tokens: int
) -> "dict[str, torch.Tensor]":
    weights = {}
    for name, value in roberta.items():
        name = name.replace("roberta.", "longformer.", 1)
        if name.endswith("embeddings.position_embeddings.weight"):
            value = _repeat_positions(value, offset, max_tokens)
        if name.endswith(("embeddings.position_ids", "embeddings.token_type_ids")):
            continue  # buffers that the new model makes for its own length
        weights[name] = value
        for projection in ("query", "key", "value"):
            local = f"attention.self.{projection}."
            if local in name:
                weights[name.replace(local, f"attention.self.{projection}_global.")] = value.clone()
    return weights


def _repeat_positions(table_PD: "torch.Tensor", offset: int, max_tokens: int) -> "torch.Tensor":
    """The reserved first `offset` rows once, then the learned rows over and over until `max_tokens`."""
    import torch

    reserved_PD, learned_PD = table_PD[:offset], table_PD[offset:]
    copies = -(-max_tokens // len(learned_PD))
    return torch.cat([reserved_PD, learned_PD.repeat(copies, 1)[:max_tokens]])
