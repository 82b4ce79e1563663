"""HF encoders for long notes: build, load, convert and save them.

Models stay the classes of `transformers`, so that every checkpoint written here loads in plain `transformers`
and every public checkpoint loads here.
"""

from clinscale.models.call import attention_call
from clinscale.models.catalog import ModelConfig, family_of
from clinscale.models.checkpoint import model_fingerprint, stored_precision
from clinscale.models.convert import check_conversion, convert, convert_to_folder
from clinscale.models.families import (
    EXACT_FAMILIES,
    FAMILIES,
    Family,
    PretrainableFamily,
    family_named,
    pretrainable_family,
)
from clinscale.models.flops import Flops, train_flops, train_flops_per_token
from clinscale.models.hf_weights import (
    attention_backend,
    check_hf_folder,
    check_padding,
    has_token_types,
    leaves_padding_out,
    load_hf,
    max_tokens_of,
    save_hf,
    set_attention,
)
from clinscale.models.mlm import looking_back, prepare_for_mlm
from clinscale.models.options import Attention, AttentionConfig, EvaluationPattern, InferencePrecision
from clinscale.models.shape import encoder_shape, parameter_counts, shape_of
from clinscale.models.start import build, check_pretrains

__all__ = [
    "EXACT_FAMILIES",
    "FAMILIES",
    "Attention",
    "AttentionConfig",
    "EvaluationPattern",
    "Family",
    "Flops",
    "InferencePrecision",
    "ModelConfig",
    "PretrainableFamily",
    "attention_backend",
    "attention_call",
    "build",
    "check_conversion",
    "check_hf_folder",
    "check_padding",
    "check_pretrains",
    "convert",
    "convert_to_folder",
    "encoder_shape",
    "family_named",
    "family_of",
    "has_token_types",
    "leaves_padding_out",
    "load_hf",
    "looking_back",
    "max_tokens_of",
    "model_fingerprint",
    "parameter_counts",
    "prepare_for_mlm",
    "pretrainable_family",
    "save_hf",
    "set_attention",
    "shape_of",
    "stored_precision",
    "train_flops",
    "train_flops_per_token",
]
