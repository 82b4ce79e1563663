"""The models that are measured: base width, HF's defaults, from a fixed seed."""

from typing import Any

import torch
import transformers

from clinscale import models

# Shape letters: B rows of a batch, L tokens of a row

FAMILIES = ("longformer", "bigbird")
_VOCABULARY = {"longformer": 50265, "bigbird": 50358}
MASKED_SHARE = 0.15


def pair(
    family: str, *, layers: int, tokens: int, dropout: float, device: str, hidden_size: int
) -> tuple[Any, Any]:
    """The same masked language model twice: (A) as HF made it, (B) as clinscale trains it."""
    return tuple(
        model_of(family, name, layers=layers, tokens=tokens, dropout=dropout, hidden_size=hidden_size).to(device)
        for name in ("hf", "exact")
    )  # type: ignore[return-value]


def model_of(
    family: str, attention: str, *, layers: int, tokens: int, dropout: float, hidden_size: int
) -> "transformers.PreTrainedModel":
    """One of `pair`, on the CPU."""
    shape: dict[str, Any] = {
        "vocab_size": _VOCABULARY[family],
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    torch.manual_seed(0)
    if family == "longformer":
        config = transformers.LongformerConfig(
            **shape,
            attention_window=512,
            max_position_embeddings=tokens + 2,
            pad_token_id=1,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        model = transformers.LongformerForMaskedLM(config)
    else:
        model = transformers.BigBirdForMaskedLM(
            transformers.BigBirdConfig(**shape, max_position_embeddings=tokens)
        )
    if attention == "exact":
        models.set_attention(model)
        models.prepare_for_mlm(model)
    return model.train()


def batch_of(model: Any, *, rows: int, tokens: int, device: str) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, `labels` (B, L) without padding."""
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(5, model.config.vocab_size, (rows, tokens), generator=generator)
    masked_BL = torch.rand(rows, tokens, generator=generator) < MASKED_SHARE
    batch = {
        "input_ids": ids_BL,
        "attention_mask": torch.ones_like(ids_BL),
        "labels": torch.where(masked_BL, ids_BL, -100),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}
