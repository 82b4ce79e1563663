"""The families of encoders, one file each; what differs between them is asked of them and of nobody else.

A new family is a file here with a subclass of `PretrainableFamily` or `ExactFamily`, its line in `_KNOWN`, and a
fixture in `tests/contracts/test_families.py`.
"""

from clinscale.errors import ConfigError
from clinscale.models.families.bigbird import BigBird
from clinscale.models.families.family import ExactFamily, Family, PretrainableFamily
from clinscale.models.families.longformer import Longformer
from clinscale.models.families.modernbert import ModernBert

__all__ = [
    "EXACT_FAMILIES",
    "FAMILIES",
    "WITH_BERTS_LAYERS",
    "ExactFamily",
    "Family",
    "PretrainableFamily",
    "family_named",
    "is_causal_type",
    "pretrainable_family",
]

_KNOWN: tuple[PretrainableFamily, ...] = (Longformer(), BigBird(), ModernBert())

FAMILIES = {family.name: family for family in _KNOWN}
"""Families by name, those that clinscale builds anew and pretrains."""

EXACT_FAMILIES = tuple(family.name for family in _KNOWN if isinstance(family, ExactFamily))
"""Names of those with sparse attention of clinscale's own."""

_BY_MODEL_TYPE = {family.model_type: family for family in _KNOWN}

WITH_BERTS_LAYERS = ("bert", "roberta", "camembert", "xlm-roberta")
"""HF's `model_type` of the encoders whose layers are BERT's, from which others can be converted."""

_COUNT_FROM_PADDING = (
    *("roberta", "roberta-prelayernorm", "camembert", "xlm-roberta", "xlm-roberta-xl"),
    *("data2vec-text", "ibert", "luke", "mpnet", "xmod"),
)
"""Types without a class of their own whose positions begin after the padding id."""


def family_named(name: str) -> Family:
    """The family of clinscale's name or HF's `model_type`; an unknown type is a family of its own."""
    known = FAMILIES.get(name) or _BY_MODEL_TYPE.get(name)
    return known or Family(name, name, counts_from_padding=name in _COUNT_FROM_PADDING)


def is_causal_type(model_type: str) -> bool:
    """Whether models of that type are decoders alone, in which each token sees those before it, as HF lists them."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    return model_type in causal - {"xlnet"}  # which reads both ways, in an order of its own


def pretrainable_family(name: str, *, source: str = "") -> PretrainableFamily:
    """The family of that name, if clinscale pretrains it; `source` is the model in the message.

    Raises:
        ConfigError: it is not one of them.
    """
    family = family_named(name)
    if not isinstance(family, PretrainableFamily):
        of_source = f" for {source}" if source else ""
        becomes = "convert it with model.convert_to, " if name in WITH_BERTS_LAYERS else ""
        raise ConfigError(
            f"the model to pretrain must be of a family that clinscale pretrains ({', '.join(FAMILIES)}), got "
            f"{name}{of_source}; choose such a model, {becomes}or fine-tune this one as it is with `clinscale finetune`"
        )
    return family
