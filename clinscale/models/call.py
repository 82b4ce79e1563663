"""One self-attention module by itself, called as the model's own encoder calls it."""

from collections.abc import Mapping
from typing import Any


def attention_call(model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    """The self-attention of the first layer, and what the encoder hands it for `batch`.

    Args:
        model: of a family with BERT's layers.
        batch: tensors that the base model takes.

    Returns:
        the module, its hidden states (B, L, E), and its other arguments by position and by name.
    """
    import torch

    module = model.base_model.encoder.layer[0].attention.self
    caught: list[Any] = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model.base_model(**batch)
    hook.remove()
    [((hidden_BLE, *others), named)] = caught
    return module, hidden_BLE, tuple(others), named
