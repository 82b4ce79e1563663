"""An encoder of 512 tokens becomes a Longformer or a BigBird that reads 4,096.

Any BERT- or RoBERTa-type encoder converts. Longformer: Beltagy et al. 2020, section 5, and allenai/longformer's
conversion script: the position table is the old one repeated, and the local projections also start the global ones.
BigBird: Zaheer et al. 2020, section 4, whose models are warm-started from RoBERTa in the same way.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.errors import ConfigError, DataError
from clinscale.models.catalog import ModelConfig
from clinscale.models.checkpoint import new_weights
from clinscale.models.families import FAMILIES, WITH_BERTS_LAYERS
from clinscale.models.hf_weights import check_padding, load_with_fit, max_tokens_of, save_hf
from clinscale.tokenizers import num_ids

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("clinscale.models")

# Shape letters: P positions of a table, D hidden size

_SHAPE = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "type_vocab_size", "initializer_range"),
    *("layer_norm_eps", "tie_word_embeddings"),
)
"""Fields of the HF config that stay the source's."""

_HEAD_PARTS = (
    ("cls.predictions.transform.dense.", "lm_head.dense."),
    ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
    ("cls.predictions.decoder.", "lm_head.decoder."),
    ("cls.predictions.", "lm_head."),
)
"""The parts of a head of masked-language modelling as BERT and BigBird, and as RoBERTa and Longformer name them."""


def convert(
    config: ModelConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int = 0,
    attention_dropout: float | None = None,
) -> "PreTrainedModel":
    """A `LongformerForMaskedLM` or `BigBirdForMaskedLM` with the weights of a BERT- or RoBERTa-type encoder.

    A text that the source can read, and of which every token sees every other, has the source's hidden states. Where
    the source has no head of masked-language modelling, the new model has one drawn from `seed`, and a line in the log
    says so. The new model shares the source's memory: the peak stays below twice the source.

    Args:
        config: with `pretrained`, of one of `WITH_BERTS_LAYERS`, and `convert_to`; may set `max_tokens` and the
            family's `converted_fields`.
        tokenizer: the source's; its special tokens go to the new config.
        seed: for what the source does not have.
        attention_dropout: sets that of attention alone; None keeps the source's.

    Raises:
        ConfigError: `max_tokens` is below the source's length or no multiple of the attention window or block, or a
            field is overridden that is the source's.
        DataError: the source is damaged or of another type.
    """
    model, _ = _converted(config, tokenizer, seed, attention_dropout)
    return model


def convert_to_folder(
    config: ModelConfig, tokenizer: "PreTrainedTokenizerBase", folder: str | Path
) -> dict[str, Any]:
    """Write a converted model and its tokenizer as a new HF folder: what was done, as plain values.

    Without a head of its own the source becomes an encoder alone, so that no later reader takes a random head for a
    trained one.

    Raises:
        ConfigError: `folder` exists and is not empty, and what `convert` raises.
    """
    folder = Path(folder)
    if folder.is_symlink():  # it stays one
        folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out must be a new or an empty folder, got {folder}; name another, or remove it")
    model, has_head = _converted(config, tokenizer)
    max_tokens = tokenizer.model_max_length = max_tokens_of(model.config)
    saved: PreTrainedModel = model if has_head else model.base_model
    save_hf(saved, tokenizer, folder)
    return {
        "folder": str(folder),
        "source": config.pretrained,
        "family": config.convert_to,
        "max_tokens": max_tokens,
        "parameters": saved.num_parameters(),
        "has_mlm_head": has_head,
    }


def check_conversion(config: ModelConfig) -> tuple[dict[str, Any], int]:
    """The HF fields of the new model that are not the source's, and the tokens that it reads, from `config` alone.

    Raises:
        ConfigError: as `convert`, of what can be known without the source.
    """
    if config.pretrained is None or config.convert_to is None:
        raise ConfigError(
            "model.pretrained and model.convert_to must both be given, got "
            f"{config.pretrained!r} and {config.convert_to!r}; name the encoder and the family it becomes"
        )
    config.check()
    family = FAMILIES[config.convert_to]
    if foreign := sorted(config.hf_overrides.keys() - family.converted_fields.keys()):
        raise ConfigError(
            f"hf_overrides of a converted {family.name} may set {', '.join(family.converted_fields)}, got "
            f"{', '.join(foreign)}; all else is the source's"
        )
    own, max_tokens = {**family.converted_fields, **config.hf_overrides}, config.max_tokens or 4096
    if odd := [f"{field}={value!r}" for field, value in own.items() if type(value) is not int or value < 1]:
        raise ConfigError(f"hf_overrides must be whole numbers from 1 on, got {', '.join(odd)}; correct them")
    step = next(iter(own))
    if max_tokens % own[step]:
        raise ConfigError(
            f"max_tokens must be a multiple of {step}={own[step]}, got {max_tokens}; "
            f"{-(-max_tokens // own[step]) * own[step]} is the next"
        )
    return own, max_tokens


def _converted(
    config: ModelConfig,
    tokenizer: "PreTrainedTokenizerBase",
    seed: int = 0,
    attention_dropout: float | None = None,
) -> "tuple[PreTrainedModel, bool]":
    """The new model, and whether its head is the source's."""
    import torch

    own, max_tokens = check_conversion(config)
    name, family = str(config.pretrained), FAMILIES[str(config.convert_to)]
    source, fit = load_with_fit(name, head="mlm", attention_dropout=attention_dropout)
    _check_source(source.config, name, max_tokens)
    _check_tokens(source.config, tokenizer, name)
    check_padding(source.config, tokenizer)
    shape = {field: getattr(source.config, field) for field in _SHAPE} | own
    shape |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
    shape |= {"eos_token_id": tokenizer.sep_token_id, "sep_token_id": tokenizer.sep_token_id}
    with torch.device("meta"):  # without memory of its own
        model = family.new_mlm(shape, max_tokens=max_tokens)
    # BERT's head has the activation of its layers, RoBERTa's and Longformer's always GELU
    same_head = source.config.hidden_act == "gelu" or hasattr(source, "cls") == hasattr(model, "cls")
    keeps_head = same_head and not new_weights(source, fit)
    weights = _weights(source, model, keeps_head=keeps_head)
    model.load_state_dict(weights | _draw(model, weights.keys(), seed), strict=False, assign=True)
    model.tie_weights()
    _make_buffers(model)
    if not keeps_head:
        logger.warning("model %s has no head of masked-language modelling that %s can use", name, family.name)
    return model.eval(), keeps_head


def _check_source(config: "PretrainedConfig", name: str, max_tokens: int) -> None:
    if config.model_type not in WITH_BERTS_LAYERS:
        raise DataError(
            f"model {name} must be of a type that converts, {', '.join(WITH_BERTS_LAYERS)}, got "
            f"{config.model_type!r}; name a BERT- or RoBERTa-type encoder"
        )
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute" or getattr(config, "is_decoder", False):
        raise DataError(
            f"model {name} must be an encoder with absolute positions, got position_embedding_type={positions!r} and "
            f"is_decoder={getattr(config, 'is_decoder', False)}; such a model does not convert, name another"
        )
    if max_tokens < max_tokens_of(config):
        raise ConfigError(
            f"max_tokens must be at least the source's {max_tokens_of(config)}, got {max_tokens}; raise it"
        )


def _check_tokens(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    known, tokens = config.vocab_size, num_ids(tokenizer)
    missing = [one for one in ("cls", "sep", "pad", "mask") if getattr(tokenizer, f"{one}_token_id") is None]
    if missing:
        raise DataError(f"the tokenizer of model {name} has no {' and no '.join(missing)} token; save one with it")
    if tokens > known:
        raise DataError(
            f"the tokenizer of model {name} must have at most the {known} tokens that the model knows, got {tokens}; "
            "take the one the model was trained with"
        )


def _weights(
    source: "PreTrainedModel", model: "PreTrainedModel", *, keeps_head: bool
) -> "dict[str, torch.Tensor]":
    """The source's weights under the names of `model`; a copy only where one weight becomes two."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    names_as_roberta = int(not hasattr(model, "cls"))
    weights = {}
    for name, value in source.named_parameters(remove_duplicate=False):
        inner = name.removeprefix(f"{source.base_model_prefix}.")
        if inner == name:  # of the head
            if keeps_head:
                parts = next(parts for parts in _HEAD_PARTS if name.startswith(parts))
                place = next(part for part in parts if name.startswith(part))
                weights[parts[names_as_roberta] + name.removeprefix(place)] = value.detach()
            continue
        ours = f"{model.base_model_prefix}.{inner}"
        weights[ours] = value.detach()
        if inner == "embeddings.position_embeddings.weight":
            weights[ours] = _repeat_positions(value.detach(), source.config, model.config)
        for projection in ("query", "key", "value"):  # Longformer's global ones begin as the local ones
            also = ours.replace(f".self.{projection}.", f".self.{projection}_global.")
            if also != ours and also in wanted:
                weights[also] = value.detach().clone()
    return weights


def _repeat_positions(
    table_PD: "torch.Tensor", source: "PretrainedConfig", config: "PretrainedConfig"
) -> "torch.Tensor":
    """The reserved first rows once, then the learned rows over and over until the last position."""
    import torch

    max_tokens = max_tokens_of(config)
    learned_PD = table_PD[source.max_position_embeddings - max_tokens_of(source) :]
    repeated_PD = learned_PD.repeat(-(-max_tokens // len(learned_PD)), 1)[:max_tokens]
    reserved_PD = table_PD.new_zeros(config.max_position_embeddings - max_tokens, table_PD.shape[1])
    return torch.cat([reserved_PD, repeated_PD])


def _draw(model: "PreTrainedModel", known: Collection[str], seed: int) -> "dict[str, torch.Tensor]":
    """Weights that the source lacks, drawn as HF initialises them: a head, BigBird's pooler."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, parameter in model.named_parameters():
        if name in known:
            continue
        value = torch.zeros(parameter.shape)
        if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
            value += 1
        elif name.endswith(".weight"):
            value.normal_(0.0, model.config.initializer_range, generator=generator)
        drawn[name] = value
    return drawn


def _make_buffers(model: "PreTrainedModel") -> None:
    """BigBird's numbers of positions and types of tokens, which no checkpoint holds."""
    import torch

    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            row = (
                torch.arange(buffer.shape[1])
                if name == "position_ids"
                else torch.zeros_like(buffer[0], device="cpu")
            )
            module.register_buffer(name, row.expand(buffer.shape), persistent=False)
