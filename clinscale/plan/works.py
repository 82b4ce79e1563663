"""Parts of a training step as a probe does them: products, the passes between them, attention's pairs, the update."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clinscale import models
from clinscale.engine import Precision
from clinscale.plan.facts import ModelFacts
from clinscale.plan.step import StepSetup, head_traffic_bytes, layer_traffic_bytes, update_bytes

if TYPE_CHECKING:
    import torch

# Shape letters: T tokens, M of them that are masked, E hidden size, I inner size, V vocabulary

MOST_TOKENS = 4096
"""Longer rows, or more of them, are probed by so many tokens."""

_MOST_UPDATED = 2**24
_LAYER_S = 3.0
"""A layer's products that take longer are done for fewer tokens, as on a processor that has no bf16."""
_FIRST_TOKENS = 64


@dataclass(frozen=True)
class Work:
    """One part, which can be done again and again."""

    run: Callable[[], Any]
    amount: float
    """Operations of products or of pairs, or bytes that passes read and write."""
    times: int = 1
    """Number of times that a step does it for each time that it does the head."""
    product_flops: float = 0.0
    """Operations of products that are done beside what is counted in `amount`."""


Works = Mapping[str, Work]
"""Works by name: `layer_products`, `head_products`, `layer_passes`, `head_passes`, `update` and, if the model has the
exact one, `attention`."""


def works_of(
    model: ModelFacts,
    *,
    row_tokens: int,
    rows: int = 1,
    precision: Precision,
    mask_share: float,
    device: str,
) -> Works:
    """The parts of a step on some rows, attention on one of them; weights and inputs are made up.

    Args:
        model: whose width, inner size, vocabulary and attention the parts have.
        row_tokens: length of a row.
        rows: number that a forward pass reads.
        precision: of products and passes.
        mask_share: share of the tokens that the head computes.
        device: `cpu` or `cuda`.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    config, place = model.config, {"device": device, "dtype": dtype}
    tokens = min(rows * row_tokens, MOST_TOKENS)
    first = _layer_products(model, _FIRST_TOKENS, place)
    first.run()
    if (seconds := timed_s(first, device) * tokens / _FIRST_TOKENS) > _LAYER_S:
        tokens = max(_FIRST_TOKENS, int(tokens * _LAYER_S / seconds))
    masked, layers = max(1, round(mask_share * tokens)), config.num_hidden_layers
    without_dropout = replace(model, dropout=0.0, is_exact=True)
    setup = StepSetup(
        row_tokens=tokens, rows=1, micro_rows=1, workers=1, precision=precision, mask_share=masked / tokens
    )
    works = {
        "layer_products": replace(_layer_products(model, tokens, place), times=layers),
        "head_products": _products([(config.hidden_size, config.vocab_size)], masked, place),
        "layer_passes": Work(
            _layer_passes(model, tokens, place),
            tokens * layer_traffic_bytes(without_dropout, setup) / layers,
            times=layers,
        ),
        "head_passes": Work(
            _head_passes(config.vocab_size, masked, place), tokens * head_traffic_bytes(model, setup)
        ),
        "update": _update(min(model.trained, _MOST_UPDATED), device),
    }
    if model.is_exact:
        works["attention"] = _attention(model, min(row_tokens, MOST_TOKENS), place)
    return works


def timed_s(work: Work, device: str) -> float:
    """Seconds that it takes once."""
    start_s = time.perf_counter()
    work.run()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - start_s


def _layer_products(model: ModelFacts, tokens: int, place: dict[str, Any]) -> Work:
    config = model.config
    hidden, inner = config.hidden_size, config.intermediate_size
    gated = models.pretrainable_family(config.model_type).inner_products == 3
    return _products(
        [*[(hidden, hidden)] * 4, *[(hidden, inner)] * (2 if gated else 1), (inner, hidden)], tokens, place
    )


def _products(shapes: list[tuple[int, int]], tokens: int, place: dict[str, Any]) -> Work:
    """Linear layers from and to so many features: output, gradients of input and weight."""
    import torch

    made = {
        shape: (
            torch.randn(tokens, shape[0], **place),
            torch.randn(shape[1], shape[0], **place),
            torch.randn(tokens, shape[1], **place),
            torch.randn(shape[1], **place),
        )
        for shape in shapes
    }

    def run() -> None:
        for shape in shapes:
            inputs, weight, gradient, bias = made[shape]
            torch.addmm(bias, inputs, weight.t())
            gradient @ weight
            gradient.t() @ inputs

    return Work(run, 3 * 2 * tokens * sum(inner * outer for inner, outer in shapes))


def _layer_passes(model: ModelFacts, tokens: int, place: dict[str, Any]) -> Callable[[], None]:
    """Residual sums and norms, the activation, and sums of gradients, as `layer_traffic_bytes` counts them."""
    import torch

    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    gated = models.pretrainable_family(model.config.model_type).inner_products == 3

    def leaf(*shape: int) -> "torch.Tensor":
        return torch.randn(*shape, **place).requires_grad_()

    residual_TE, attended_TE, out_TE = (leaf(tokens, hidden) for _ in range(3))
    inner_TI, gate_TI = leaf(tokens, inner), leaf(tokens, inner) if gated else None
    scale_E, shift_E = leaf(hidden), leaf(hidden)
    grad_TE, grad_TI = torch.randn(tokens, hidden, **place), torch.randn(tokens, inner, **place)

    def norm(sum_TE: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.layer_norm(sum_TE, (hidden,), scale_E, shift_E)

    def run() -> None:
        active_TI = torch.nn.functional.gelu(inner_TI)
        if gate_TI is not None:
            active_TI = active_TI * gate_TI
        normed_TE = norm(norm(residual_TE + attended_TE) + out_TE)
        leaves = [residual_TE, attended_TE, out_TE, inner_TI, scale_E, shift_E, *([gate_TI] if gated else [])]
        torch.autograd.grad([active_TI, normed_TE], leaves, [grad_TI, grad_TE])  # type: ignore[arg-type]
        _ = grad_TE + grad_TE + grad_TE  # of queries, keys and values, to their input
        for _ in range(5):
            grad_TE.sum(0)
        grad_TI.sum(0)

    return run


def _head_passes(vocab_size: int, masked: int, place: dict[str, Any]) -> Callable[[], None]:
    """The loss of so many tokens, its gradient, and that of the bias."""
    import torch

    logits_MV = torch.randn(masked, vocab_size, **place).requires_grad_()
    labels_M = torch.zeros(masked, dtype=torch.long, device=place["device"])

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(logits_MV.float(), labels_M, reduction="sum")
        torch.autograd.grad(loss, logits_MV)[0].sum(0)

    return run


def _update(elements: int, device: str) -> Work:
    """Clipping and AdamW on fp32 weights."""
    import torch

    weight = torch.nn.Parameter(torch.randn(elements, device=device))
    weight.grad = torch.randn(elements, device=device)
    optimizer = torch.optim.AdamW([weight], fused=True)

    def run() -> None:
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()

    return Work(run, elements * update_bytes("fp32"))


def _attention(model: ModelFacts, tokens: int, place: dict[str, Any]) -> Work:
    """The exact attention's module, forward and backward, with the projections that it cannot be had without."""
    import torch

    family = models.pretrainable_family(model.config.model_type)
    layer = _one_layer(model.config, family, tokens).to(**place).train()
    batch = {"input_ids": torch.full((1, tokens), 5, device=place["device"])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    module, hidden_BLE, others, named = models.attention_call(layer, batch)
    hidden_BLE = torch.randn_like(hidden_BLE).requires_grad_()

    def run() -> None:
        module(hidden_BLE, *others, **named)[0].sum().backward()

    hidden = model.config.hidden_size
    pairs = family.attended_pairs(layer.config, tokens)
    # queries, keys and values, three products each
    return Work(run, 3 * 4 * hidden * pairs, product_flops=3 * 3 * 2 * hidden**2 * tokens)


def _one_layer(config: Any, family: Any, tokens: int) -> Any:
    """The run's model with one layer, a small vocabulary and no dropout, in clinscale's attention."""
    shape = {name: getattr(config, name, known) for name, known in family.sizes["base"].items()}
    # a list has a value for each layer
    fields = {name: value[0] if isinstance(value, list | tuple) else value for name, value in shape.items()}
    fields |= {**family.published, "vocab_size": 512, "num_hidden_layers": 1}
    fields |= dict.fromkeys((name for names in family.dropout_fields for name in names), 0.0)
    del fields["max_tokens"]
    model = family.new_mlm(fields, max_tokens=tokens)
    models.set_attention(model)
    return model
