"""Shape of the encoder that a config describes, from files alone: nothing is loaded, and neither torch is imported."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clinscale.errors import ConfigError, DataError
from clinscale.models.catalog import ModelConfig
from clinscale.models.checkpoint import read_config
from clinscale.models.families import FAMILIES, WITH_BERTS_LAYERS, family_named, pretrainable_family

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OF_SOURCE = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "type_vocab_size", "pad_token_id"),
)
"""Fields that a converted model has from its source."""


def shape_of(config: ModelConfig, *, vocab_size: int | None = None) -> "PretrainedConfig":
    """The HF config of the model that `build` would make of `config`, as far as arithmetic reads it.

    Args:
        config: a new model, or published weights in a folder, in the hub's cache or of a well-known name.
        vocab_size: of the tokenizer that a new model is built for; None is the family's published one.

    Raises:
        ConfigError: nothing here says which shape the weights have, or their family is not one that is pretrained.
    """
    if config.pretrained is None:
        family = FAMILIES[config.family]
        shape: dict[str, Any] = {**family.published, **family.sizes[config.size]}
        max_tokens = config.max_tokens or shape.pop("max_tokens")
        shape |= {"vocab_size": vocab_size} if vocab_size else {}
        return family.described(
            {**family.own_fields(shape, max_tokens=max_tokens), **shape, **config.hf_overrides}
        )
    source = _published(config.pretrained)
    if config.convert_to is None:
        return pretrainable_family(source["model_type"], source=config.pretrained).described(source)
    family = FAMILIES[config.convert_to]
    kept = {name: source[name] for name in _OF_SOURCE if name in source}
    kept.setdefault("pad_token_id", family.published["pad_token_id"])
    max_tokens = config.max_tokens or 4096
    own = family.own_fields(kept, max_tokens=max_tokens)
    return family.described({**own, **family.converted_fields, **kept, **config.hf_overrides})


def encoder_shape(name: str) -> "PretrainedConfig":
    """The HF config of weights that are fine-tuned, as far as arithmetic reads it.

    An encoder with BERT's layers is described as a Longformer whose window holds all that it reads, which does the same
    arithmetic; its untrained global projections count as weights.

    Raises:
        ConfigError: nothing here says which shape the weights have, or it is neither of a family that is pretrained nor
            one with BERT's layers.
    """
    source = _published(name)
    if source["model_type"] not in WITH_BERTS_LAYERS:
        return pretrainable_family(source["model_type"], source=name).described(source)
    own = family_named(source["model_type"])
    described: Any = SimpleNamespace(**{"pad_token_id": 1 if own.counts_from_padding else 0, **source})
    limit = own.max_tokens(described)
    all_of_it = {"attention_window": 2 * limit}
    return shape_of(
        ModelConfig(pretrained=name, convert_to="longformer", max_tokens=limit, hf_overrides=all_of_it)
    )


def parameter_counts(
    config: "PretrainedConfig", *, has_global_tokens: bool = False
) -> "dict[str, tuple[int, bool]]":
    """Number of elements of each parameter of a masked language model, and whether training reaches it."""
    family = pretrainable_family(config.model_type)
    counts = {}
    for name, shape in family.parameter_shapes(config):
        elements = 1
        for side in shape:
            elements *= side
        trained = name.startswith("head.") or family.is_reached(name, has_global_tokens=has_global_tokens)
        counts[name] = (elements, trained)
    return counts


def _published(name: str) -> dict[str, Any]:
    """Fields of the `config.json` of published weights."""
    for family in FAMILIES.values():
        if name in family.published_names:
            shape = {**family.published, **family.sizes["base"], "model_type": family.model_type}
            return {**family.own_fields(shape, max_tokens=shape.pop("max_tokens")), **shape}
    path = Path(name, "config.json")
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(name, "config.json")
        except ValueError:  # not even a name that the hub could have
            cached = None
        if not isinstance(cached, str):
            raise ConfigError(
                f"the shape of model.pretrained={name} must be readable here, got neither a folder with a config.json "
                "nor a copy in the hub's cache; fetch it with `hf download`, or plan with model.family and "
                "model.size"
            )
        path = Path(cached)
    try:
        return read_config(path)
    except DataError:
        raise ConfigError(
            f"{path} must be the config.json of an HF model; pull or export the model again"
        ) from None
