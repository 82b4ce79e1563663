"""Masked-language modelling without the waste: head and loss where a token was masked, frozen what cannot learn."""

import functools
from typing import TYPE_CHECKING, Any

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
      answers as if each document were alone in a row: no attention across documents, positions that restart. That
      needs the exact attention; ConfigError otherwise.
    - Parameters that masked-language modelling never reaches are frozen, so that no optimizer keeps state for them and
      no weight decay moves them: BigBird's pooler, and Longformer's global projections unless `has_global_tokens`.

    Changes `model` in place.
    """
    model.forward = functools.partial(_forward, model)  # a bound method could not be pickled
    unreached = [] if has_global_tokens else ["query_global", "key_global", "value_global"]
    for name, parameter in model.base_model.named_parameters():
        if name.startswith("pooler.") or any(f".{part}." in name for part in unreached):
            parameter.requires_grad_(False)
    return model


def _forward(
    self: "PreTrainedModel",
    input_ids: "torch.Tensor | None" = None,
    labels: "torch.Tensor | None" = None,
    num_items_in_batch: float | None = None,
    segment_ids: "torch.Tensor | None" = None,
    **inputs: Any,
) -> Any:
    """In place of `LongformerForMaskedLM.forward` and `BigBirdForMaskedLM.forward`."""
    import torch
    from transformers.modeling_outputs import MaskedLMOutput

    from clinscale.models.attention import documents_apart

    if segment_ids is not None:
        inputs["position_ids"] = _positions(self.config, segment_ids)
    with documents_apart(self, segment_ids):
        if labels is None:
            return type(self).forward(self, input_ids, **inputs)
        hidden_BLE = self.base_model(input_ids, **inputs).last_hidden_state
    masked_M = (labels.flatten() != -100).nonzero().flatten()
    head = self.lm_head if self.config.model_type == "longformer" else self.cls
    logits_MV = head(hidden_BLE.flatten(0, 1)[masked_M])
    loss = torch.nn.functional.cross_entropy(
        logits_MV.float() if logits_MV.dtype.itemsize < 4 else logits_MV,
        labels.flatten()[masked_M],
        reduction="sum",
    )
    return MaskedLMOutput(
        loss=loss / (max(len(masked_M), 1) if num_items_in_batch is None else num_items_in_batch)
    )


def _positions(config: Any, segment_ids_BL: "torch.Tensor") -> "torch.Tensor":
    """Position ids (B, L) that restart with each document, as HF numbers a row that holds one document alone."""
    import torch

    at_L = torch.arange(segment_ids_BL.shape[1], device=segment_ids_BL.device)
    is_first_BL = segment_ids_BL.diff(dim=1, prepend=segment_ids_BL[:, :1] - 1) != 0
    positions_BL = at_L - torch.where(is_first_BL, at_L, 0).cummax(dim=1).values
    # RoBERTa's table, and so Longformer's, begins after the padding id, which is also the position of padding
    before_first = config.pad_token_id if config.model_type == "longformer" else -1
    return torch.where(segment_ids_BL != 0, positions_BL + before_first + 1, max(before_first, 0))
