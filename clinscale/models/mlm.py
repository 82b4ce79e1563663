"""Masked-language modelling without the waste: head and loss where a token was masked, frozen what cannot learn."""

import contextlib
import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from clinscale.models.families import pretrainable_family

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Shape letters: B rows of a batch, L tokens of a row, M masked tokens of the batch, E hidden size, V vocabulary


def prepare_for_mlm(model: "PreTrainedModel", *, has_global_tokens: bool = False) -> "PreTrainedModel":
    """Make the training step of HF's masked language model cheaper; the same loss and the same gradients.

    - Called with `labels`, the model answers with the loss alone (`logits` is None): the head, a third of HF's
      arithmetic, runs only where a label is. `num_items_in_batch` divides the summed loss in place of the number of
      labels, as in HF's Trainer; a batch without any label has loss 0. Without `labels` it answers as ever.
    - Called with `segment_ids` (B, L), the number of each token's document within its row and 0 on padding, the model
      answers as if each document were alone in a row: no attention across documents, positions that restart.
      ConfigError where the model cannot; Longformer and BigBird need the exact attention.
    - Parameters that masked-language modelling never reaches are frozen, so that no optimizer keeps state for them and
      no weight decay moves them: BigBird's pooler, and Longformer's global projections unless `has_global_tokens`.

    Changes `model` in place.

    Raises:
        ConfigError: its family is not one that clinscale pretrains.
    """
    family = pretrainable_family(model.config.model_type)
    model.forward = functools.partial(_forward, model)  # a bound method could not be pickled
    for name, parameter in model.base_model.named_parameters():
        if not family.is_reached(name, has_global_tokens=has_global_tokens):
            parameter.requires_grad_(False)
    return model


def looking_back(model: "PreTrainedModel") -> AbstractContextManager[None]:
    """Let no token that `model` reads attend to those after it, inside a `with` block: a causal phase of pretraining.

    Everything else stays as it is, global tokens included: they are seen by those behind them, and look back
    themselves.

    Raises:
        ConfigError: its family has no causal attention, or it attends with HF's own code.
    """
    return pretrainable_family(model.config.model_type).look_back(model)


def _forward(
    self: "PreTrainedModel",
    input_ids: "torch.Tensor | None" = None,
    labels: "torch.Tensor | None" = None,
    num_items_in_batch: float | None = None,
    segment_ids: "torch.Tensor | None" = None,
    **inputs: Any,
) -> Any:
    """Replacement of `forward` of HF's masked language model."""
    import torch
    from transformers.modeling_outputs import MaskedLMOutput

    family = pretrainable_family(self.config.model_type)
    apart: Any = contextlib.nullcontext(inputs)
    if segment_ids is not None:
        apart = family.documents_apart(self, segment_ids, inputs)
    with apart as seen:
        if labels is None:
            return type(self).forward(self, input_ids, **seen)
        hidden_BLE = self.base_model(input_ids, **seen).last_hidden_state
    masked_M = (labels.flatten() != -100).nonzero().flatten()
    logits_MV = family.mlm_head(self)(hidden_BLE.flatten(0, 1)[masked_M])
    loss = torch.nn.functional.cross_entropy(
        logits_MV.float() if logits_MV.dtype.itemsize < 4 else logits_MV,
        labels.flatten()[masked_M],
        reduction="sum",
    )
    return MaskedLMOutput(
        loss=loss / (max(len(masked_M), 1) if num_items_in_batch is None else num_items_in_batch)
    )
