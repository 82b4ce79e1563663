"""`clinscale bench attention`: self-attention modules and the MLM head against HF's."""

from collections.abc import Callable
from typing import Any

import torch

from clinscale import models
from clinscale.bench.encoders import (
    FAMILIES,
    batch_of,
    builds_dense_probabilities,
    check_shape,
    pair,
    prefix_of,
    without_dense_probabilities,
)
from clinscale.bench.measure import Times, ratio, saved_bytes, side_by_side, surroundings
from clinscale.bench.record import BenchRecord, OnRatio, Ratios, say_nothing
from clinscale.errors import ClinscaleError

# Shape letters: B rows of a batch, L tokens of a row, E hidden size

Work = Callable[[], torch.Tensor]
"""A forward pass whose output is summed against fixed weights and sent backward."""

_ASKED = {
    "longformer_module": 3.5,
    "bigbird_module": 2.5,
    "bigbird_module_vs_no_dense": 1.8,
    "mlm_head": 5.0,
    "classification_module": 3.5,
}
_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}


def bench_attention(
    *,
    tokens: int = 4096,
    rows: int = 1,
    repeats: int = 5,
    families: tuple[str, ...] = FAMILIES,
    precisions: tuple[str, ...] = ("fp32", "bf16"),
    hidden_size: int = 768,
    vocab_size: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[str], None] = lambda name: None,
    on_ratio: OnRatio = say_nothing,
) -> BenchRecord:
    """Forward and backward of one self-attention module with its projections, and of the MLM head with its loss.

    A is HF's eager code, B clinscale's; both get the same weights and inputs, and their outputs and gradients are
    compared before anything is timed. Attention dropout is 0. Without a `vocab_size` the head has that of the published
    model.

    Raises:
        ConfigError: a shape that cannot be measured.
        ClinscaleError: A and B do not agree.
    """
    check_shape(tokens, hidden_size)
    before = surroundings("attention", device)
    ratios = Ratios(on_ratio)
    details: dict[str, Any] = {}
    shape = {"layers": 1, "tokens": tokens, "dropout": 0.0, "hidden_size": hidden_size, "vocab_size": vocab_size}
    for precision in precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        for family in families:
            hf, ours = (model.to(dtype) for model in pair(family, **shape, device=device))
            ours.load_state_dict(hf.state_dict())
            for name, globals_in in _modules_of(family):
                on_progress(f"{name}_{precision}")
                works = [
                    _Module(model, rows=rows, tokens=tokens, device=device, has_global=globals_in)
                    for model in (hf, ours)
                ]
                times = _compare(name, works, dtype, repeats=repeats, device=device)
                ratios[f"{name}_{precision}"] = times.ratio(_ASKED[name] if precision == "fp32" else None)
                kept = [saved_bytes(work.forward) for work in works]
                details[f"{name}_{precision}"] = times.seconds() | {
                    "saved_bytes": dict(zip("ab", kept, strict=True))
                }
                ratios[f"{name}_{precision}_saved_bytes"] = ratio([kept[0] / kept[1]], None)
                if builds_dense_probabilities(works[0].module):
                    key = f"{name}_{precision}_vs_no_dense"
                    name = f"{name}_vs_no_dense"
                    without_dense_probabilities(works[0].module)
                    times = _compare(name, works, dtype, repeats=repeats, device=device)
                    ratios[key] = times.ratio(_ASKED[name] if precision == "fp32" else None)
                    details[key] = times.seconds()
            name = f"{prefix_of(family)}mlm_head"
            on_progress(f"{name}_{precision}")
            heads = [_Head(model, rows=rows, tokens=tokens, device=device) for model in (hf, ours)]
            times = _compare(name, heads, dtype, repeats=repeats, device=device)
            ratios[f"{name}_{precision}"] = times.ratio(_ASKED["mlm_head"] if precision == "fp32" else None)
            details[f"{name}_{precision}"] = times.seconds()
    return BenchRecord(surroundings=before, ratios=ratios, details=details)


def _modules_of(family: str) -> list[tuple[str, bool]]:
    """Names of a family's module benches, and whether the first token has global attention."""
    modules = [(f"{family}_module", False)]
    return [*modules, ("classification_module", True)] if models.FAMILIES[family].uses_global_mask else modules


class _Module:
    """The self-attention of the first layer, called as the model's own encoder calls it."""

    def __init__(self, model: Any, *, rows: int, tokens: int, device: str, has_global: bool) -> None:
        batch = batch_of(model, rows=rows, tokens=tokens, device=device)
        batch.pop("labels")
        if has_global:
            batch["global_attention_mask"] = torch.zeros_like(batch["input_ids"])
            batch["global_attention_mask"][:, 0] = 1
        self.module, hidden_BLE, self._args, self._kwargs = models.attention_call(model, batch)
        torch.manual_seed(2)
        self._hidden_BLE = torch.randn_like(hidden_BLE).requires_grad_()
        self._weights_BLE = torch.randn_like(hidden_BLE)
        self._parameters = list(self.module.requires_grad_().parameters())  # MLM freezes the global projections

    def forward(self) -> torch.Tensor:
        output: torch.Tensor = self.module(self._hidden_BLE, *self._args, **self._kwargs)[0]
        return output

    def run(self) -> list[torch.Tensor]:
        """Output, gradient of the input, gradients of the parameters."""
        output_BLE = self.forward()
        grads = torch.autograd.grad(
            output_BLE, [self._hidden_BLE, *self._parameters], self._weights_BLE, allow_unused=True
        )
        return [output_BLE, *(grad for grad in grads if grad is not None)]


class _Head:
    """The MLM head and its loss on given hidden states."""

    def __init__(self, model: Any, *, rows: int, tokens: int, device: str) -> None:
        self._model = model
        self._batch = batch_of(model, rows=rows, tokens=tokens, device=device)
        torch.manual_seed(3)
        shape = (rows, tokens, model.config.hidden_size)
        self._hidden_BLE = torch.randn(shape, device=device).to(model.dtype).requires_grad_()
        head = models.pretrainable_family(model.config.model_type).mlm_head(model)
        self._parameters = list(head.parameters())

    def run(self) -> list[torch.Tensor]:
        """Loss, gradient of the hidden states, gradients of the head."""
        encoder = self._model.base_model
        encoder.forward = lambda *args, **kwargs: _Hidden(self._hidden_BLE)
        try:
            loss = self._model(**self._batch).loss
        finally:
            del encoder.forward
        return [loss, *torch.autograd.grad(loss, [self._hidden_BLE, *self._parameters])]


class _Hidden(tuple):  # type: ignore[type-arg]
    """The part of their encoder's output that all families' MLM models read."""

    hidden_states = attentions = global_attentions = None

    def __new__(cls, hidden_BLE: torch.Tensor) -> "_Hidden":
        return super().__new__(cls, (hidden_BLE,))

    @property
    def last_hidden_state(self) -> torch.Tensor:
        hidden_BLE: torch.Tensor = self[0]
        return hidden_BLE


def _compare(name: str, works: list[Any], dtype: torch.dtype, *, repeats: int, device: str) -> Times:
    """Equality first, then the clock."""
    for theirs, mine in zip(*(work.run() for work in works), strict=True):
        theirs, mine = theirs.detach(), mine.detach()
        scale = max(1.0, float(theirs.abs().max()))
        difference = float((theirs.float() - mine.float()).abs().max()) / scale
        if not difference <= 10 * _TOLERANCE[dtype]:
            raise ClinscaleError(
                f"bench {name}: clinscale and Hugging Face differ by {difference:g} in {dtype}; report this machine"
            )
    return side_by_side(works[0].run, works[1].run, repeats=repeats, device=device)
