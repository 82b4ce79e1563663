"""The models that are measured: base width, HF's defaults, from a fixed seed."""

import inspect
import textwrap
import types
from typing import TYPE_CHECKING, Any

import torch

from clinscale import models
from clinscale.errors import ClinscaleError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Shape letters: B rows of a batch, L tokens of a row

FAMILIES = models.EXACT_FAMILIES
"""Families whose attention is measured; the first one's measurements have names without a prefix."""

MASKED_SHARE = 0.15
"""Share of tokens that is masked, as BERT and the paper mask them."""


def prefix_of(family: str) -> str:
    """The beginning of the names of a family's measurements."""
    return "" if family == FAMILIES[0] else f"{family}_"


def check_shape(tokens: int, hidden_size: int) -> None:
    """All families must attend sparsely at the length measured; ConfigError otherwise."""
    if tokens < 1024 or tokens % 512:
        raise ConfigError(
            f"tokens must be a multiple of 512 from 1024 on, so that attention is sparse, got {tokens}; 4096 is usual"
        )
    if hidden_size % 64:
        raise ConfigError(
            f"hidden_size must be a multiple of the head size of 64, got {hidden_size}; 768 is usual"
        )


def pair(family: str, *, device: str, **shape: Any) -> tuple[Any, Any]:
    """The same masked language model twice: (A) as HF made it, (B) as clinscale trains it; `shape` of `model_of`."""
    return tuple(model_of(family, name, **shape).to(device) for name in ("hf", "exact"))  # type: ignore[return-value]


def model_of(
    family: str,
    attention: str,
    *,
    layers: int,
    tokens: int,
    dropout: float,
    hidden_size: int,
    vocab_size: int | None = None,
) -> "PreTrainedModel":
    """One of `pair`, on the CPU; without a `vocab_size` with that of the published model."""
    one = models.FAMILIES[family]
    shape: dict[str, Any] = {
        **one.sizes["base"],
        **one.published,
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
        **dict.fromkeys((name for names in one.dropout_fields for name in names), dropout),
    }
    del shape["max_tokens"]
    if vocab_size:
        shape["vocab_size"] = vocab_size
    torch.manual_seed(0)
    model = one.new_mlm(shape, max_tokens=tokens)
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


_SPARSE = "bigbird_block_sparse_attention"
"""HF's method that builds them; only BigBird's module has it."""


def builds_dense_probabilities(module: Any) -> bool:
    """Whether a self-attention of HF fills (B, H, L, L) probabilities that nobody asked for."""
    return hasattr(module, _SPARSE)


def without_dense_probabilities(module: Any) -> None:
    """HF's BigBird as it was before 5.0 came to build the (B, H, L, L) probabilities in every forward pass."""
    source = textwrap.dedent(inspect.getsource(getattr(type(module), _SPARSE)))
    start = source.find("attention_probs = torch.zeros(")
    end = source.find("return context_layer, attention_probs")
    if min(start, end) < 0:
        raise ClinscaleError("this version of transformers builds no dense BigBird probabilities; drop that bench")
    code = source[:start] + "return context_layer, None\n"
    namespace = dict(vars(inspect.getmodule(type(module))))
    exec(compile(code, "bigbird_without_dense", "exec"), namespace)
    setattr(module, _SPARSE, types.MethodType(namespace[_SPARSE], module))
