"""Swap the exact attention into models of the families that have one, and out again."""

from typing import TYPE_CHECKING, Any

import torch

from clinscale.models.attention.exact import ExactAttention, unbind
from clinscale.models.attention.patterns import Document, LongformerPattern
from clinscale.models.families import ExactFamily, family_named
from clinscale.models.options import EvaluationPattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_exact_attention(
    model: "PreTrainedModel",
    *,
    unpad: bool = False,
    evaluation_pattern: EvaluationPattern = "hf",
    sticky: bool = False,
) -> "PreTrainedModel":
    """Give a model of an `ExactFamily`, with any head, the exact attention; other models are returned as they are.

    Args:
        model: of `transformers`; changed in place.
        unpad: do not compute what no head reads: padding, and where a document is classified the last layer of all
            tokens but the first. A document's answer then does not depend on the batch it is in; those hidden states
            are zeros instead of HF's.
        evaluation_pattern: what BigBird sees in evaluation; `hf` is what published checkpoints are used with.
        sticky: keep HF's switch to full attention after one short BigBird batch.
    """
    use_hf_attention(model, sticky=sticky)
    for family, encoder in _exact(model):
        first_token_only = unpad and type(model).__name__.endswith("ForSequenceClassification")
        encoder.exact = ExactAttention(unpad, evaluation_pattern, sticky, first_token_only)
        family.bind(encoder)
    return model


def use_hf_attention(model: "PreTrainedModel", *, sticky: bool = False) -> "PreTrainedModel":
    """Leave attention to HF's own code, but for BigBird's switch to full attention: each batch decides anew.

    HF switches for good after one short batch (transformers#20031); `sticky` keeps that.
    """
    for family, encoder in _exact(model):
        unbind(encoder)
        family.use_hf(model, sticky=sticky)
    return model


def leaves_padding_out(model: "PreTrainedModel") -> bool:
    """Whether `model`, where it is and as it is now, computes no padding: its answers then depend on no neighbour."""
    for family, encoder in _exact(model):
        if "forward" in vars(encoder) and encoder.exact.unpad:
            hidden_BLE = torch.zeros(1, 1, model.config.hidden_size, dtype=model.dtype, device=model.device)
            code_BL = torch.ones(1, 1, dtype=torch.int32, device=model.device)
            return family.batch_of(encoder, hidden_BLE, code_BL) is not None
    return False


def backend_here() -> str:
    """The attention backend of this machine, in a few words; a GPU is tested for it."""
    if not torch.cuda.is_available():
        return "exact, tile by tile on the CPU"
    from clinscale.models.attention import flex

    row = LongformerPattern((Document(start=0, rows=4096, length=4096),), tokens=4096, one_sided_window=256)
    device = torch.device("cuda", torch.cuda.current_device())
    reason = flex.why_not(device, torch.bfloat16, 64, row, dropout=0.0)
    return "exact, by FlexAttention on the GPU" if reason is None else f"Hugging Face's own: {reason}"


def _exact(model: "PreTrainedModel") -> list[tuple[ExactFamily, Any]]:
    """The model's family and the encoder to swap; empty where clinscale has no attention of its own."""
    family = family_named(model.config.model_type)
    if not isinstance(family, ExactFamily) or (encoder := family.exact_encoder(model)) is None:
        return []
    return [(family, encoder)]
