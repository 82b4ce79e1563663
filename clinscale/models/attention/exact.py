"""The exact attention of one batch: what the forward passes of the families share.

The models stay HF's: `forward` of the encoder, of each self-attention and of BigBird's activation is replaced on the
instance, while parameters, names, classes and everything else stay where they are. The encoder works out once per
batch who sees whom (`patterns`), so that no layer asks the device; each self-attention projects with its own layers
and hands queries, keys and values to the backend. Whatever a backend does not do is left to HF's own code.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.activations import NewGELUActivation

from clinscale.errors import ConfigError
from clinscale.models.attention import tiles
from clinscale.models.attention.global_queries import (
    GlobalTokens,
    attend_whole,
    global_tokens_of,
)
from clinscale.models.attention.patterns import (
    BigBirdPattern,
    Document,
    LongformerPattern,
    documents_of,
    documents_of_segments,
)
from clinscale.models.options import EvaluationPattern

# Shape letters: B rows of a batch, L tokens of a row, T tokens of all documents end to end, E hidden size, H heads,
# D head size

logger = logging.getLogger("clinscale.models")


@dataclass(frozen=True)
class ExactAttention:
    """Attention settings of one model's encoder; kept on the encoder."""

    unpad: bool
    """Leave padding out of the layers: hidden states of padding come back as zeros."""
    evaluation_pattern: EvaluationPattern
    sticky: bool
    """Whether BigBird keeps full attention for good after one short batch, as HF's does."""
    first_token_only: bool
    """The head reads nothing else: without gradients the last layer is computed for no other token."""


Pattern = LongformerPattern | BigBirdPattern
Backend = Callable[..., torch.Tensor]
"""`attend(query_THD, key_THD, value_THD, pattern, dropout=...)`."""


@dataclass(frozen=True)
class Batch:
    """One batch on its way through the layers."""

    pattern_of: Callable[[Any], Pattern]
    """Pattern of the layer of a self-attention module."""
    backend: Backend
    dropout: float
    """Dropout of attention probabilities; 0 outside training."""
    packed_T: torch.Tensor | None
    """Index of each token of the packed axis in the padded batch, B * L for those that fill up blocks; None when
    the axes are the same."""
    globals: Sequence[GlobalTokens] = ()
    """Longformer's documents with global tokens."""
    firsts: Sequence[GlobalTokens] = ()
    """The documents by their first tokens, where the last layer is wanted for these alone."""

    def attend(self, module: Any, hidden: torch.Tensor, heads: int, head_dim: int) -> torch.Tensor:
        """Project with the module's layers and attend; (T, E) of all documents end to end."""
        if torch.is_autocast_enabled(hidden.device.type):  # once, and not once for each projection
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        query_THD, key_THD, value_THD = (
            project(hidden).view(-1, heads, head_dim) for project in (module.query, module.key, module.value)
        )
        pattern = self.pattern_of(module)
        return self.backend(query_THD, key_THD, value_THD, pattern, dropout=self.dropout).flatten(1)

    def pack(self, hidden_BLE: torch.Tensor) -> torch.Tensor:
        """The documents' tokens as one row (1, T, E), or the batch as it is."""
        if self.packed_T is None:
            return hidden_BLE
        with_filler_TE = torch.nn.functional.pad(hidden_BLE.flatten(0, 1), (0, 0, 0, 1))
        return with_filler_TE[self.packed_T][None]

    def unpack(self, hidden: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Back to (B, L, E); zeros where the padding was."""
        if self.packed_T is None:
            return hidden
        with_filler_TE = hidden.new_zeros(shape[0] * shape[1] + 1, shape[2])
        return with_filler_TE.index_copy(0, self.packed_T, hidden[0])[:-1].view(shape)


@contextlib.contextmanager
def keep_apart(encoder: Any, segment_ids_BL: torch.Tensor) -> Iterator[None]:
    """Keep each token that `encoder` reads from attending to another document of its row, inside a `with` block.

    Args:
        encoder: that clinscale's forward passes are bound to; None is one that they cannot be.
        segment_ids_BL: the document of each token, 0 on padding.

    Raises:
        ConfigError: the model attends with HF's own code, which cannot keep documents apart.
    """
    if encoder is None or "forward" not in vars(encoder):
        raise ConfigError(
            "documents that share a row are kept apart by the exact attention only, and this model attends with "
            "Hugging Face's own code; set runtime.attention=exact or recipe.documents_apart=false"
        )
    encoder.segment_ids_BL = segment_ids_BL
    try:
        yield
    finally:
        del encoder.segment_ids_BL


@contextlib.contextmanager
def look_back(encoder: Any) -> Iterator[None]:
    """Keep each token that `encoder` reads from attending to those after it, inside a `with` block.

    `encoder` is as for `keep_apart`; the order of the two does not matter.

    Raises:
        ConfigError: the model attends with HF's own code, which sees ahead.
    """
    if encoder is None or "forward" not in vars(encoder):
        raise ConfigError(
            "a causal mask is of the exact attention only, and this model attends with Hugging Face's own code; set "
            "runtime.attention=exact or recipe.causal=null"
        )
    encoder.looks_back = True
    try:
        yield
    finally:
        del encoder.looks_back


def is_causal(encoder: Any) -> bool:
    """Whether the batch that `encoder` reads now is read under a causal mask."""
    return hasattr(encoder, "looks_back")


def is_recorded(hidden: torch.Tensor) -> bool:
    """Whether a graph is being made of the forward pass, by `torch.export` or `torch.jit.trace`.

    Who sees whom is worked out from the values of the mask, which such a graph would keep as constants.
    """
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_traced or torch.compiler.is_exporting() or isinstance(hidden, torch._subclasses.FakeTensor)


def check_hf_may_read(encoder: Any) -> None:
    """Raise ConfigError where HF's code would let the documents of a row see each other, or tokens see ahead."""
    if is_causal(encoder):
        raise ConfigError(
            "a causal mask is of the exact attention only, and it cannot run this batch for the reason that the log "
            "gives (a GPU needs attention_probs_dropout_prob=0) or because attentions are asked for; remove that or "
            "set recipe.causal=null"
        )
    if hasattr(encoder, "segment_ids_BL"):
        raise ConfigError(
            "documents that share a row are kept apart by the exact attention only, and it cannot run this batch for "
            "the reason that the log gives (a GPU needs attention_probs_dropout_prob=0) or because attentions are "
            "asked for; remove that or set recipe.documents_apart=false"
        )


def bind(encoder: Any, of_encoder: Callable[..., Any], of_layer: Callable[..., Any]) -> None:
    """Put `of_encoder` and `of_layer` in place of `forward` of an encoder and of its self-attentions."""
    encoder.forward = functools.partial(of_encoder, encoder)  # a bound method could not be pickled
    for index, layer in enumerate(encoder.layer):
        attention = layer.attention.self
        attention.forward = functools.partial(of_layer, attention)
        attention.index = index  # BigBird draws its random blocks for each layer
        if isinstance(activation := layer.intermediate.intermediate_act_fn, NewGELUActivation):
            # the same function in one pass over memory: HF's keeps six tensors of the inner size
            activation.forward = functools.partial(torch.nn.functional.gelu, approximate="tanh")


def unbind(encoder: Any) -> None:
    """Leave the forward passes to HF again."""
    swapped = [encoder]
    for layer in encoder.layer:
        swapped += [layer.attention.self, layer.intermediate.intermediate_act_fn]
    for module in swapped:
        for name in ("forward", "set_attention_type"):
            vars(module).pop(name, None)


def documents_in(
    encoder: Any,
    code_BL: torch.Tensor,
    *,
    unpad: bool,
    block_size: int = 1,
    is_full: Callable[[Document], bool] = lambda document: True,
) -> tuple[tuple[Document, ...], torch.Tensor | None]:
    """The batch's documents on the axis that the layers work on, and where its tokens are in the padded batch."""
    codes_BL, device = code_BL.cpu().numpy(), code_BL.device
    segments_BL = getattr(encoder, "segment_ids_BL", None)
    if segments_BL is not None:
        # HF may have padded the row to whole blocks
        padded_BL = torch.nn.functional.pad(segments_BL, (0, codes_BL.shape[1] - segments_BL.shape[1]))
        documents = documents_of_segments(codes_BL, padded_BL.cpu().numpy())
    else:
        documents = documents_of(codes_BL)
        if not unpad:
            return documents, None
    documents, packed_T = _unpadded(documents, codes_BL.size, block_size, is_full)
    return documents, None if packed_T is None else packed_T.to(device)


def _unpadded(
    documents: tuple[Document, ...], tokens: int, block_size: int, is_full: Callable[[Document], bool]
) -> tuple[tuple[Document, ...], torch.Tensor | None]:
    """The documents without their padding, end to end, and where their tokens are among the `tokens` of the batch.

    Documents that are read in blocks are filled up to whole blocks, and then all begin at a multiple of one.
    """
    shorter = [replace(document, rows=document.length) for document in documents]
    if not all(map(is_full, shorter)):
        shorter = [
            document if is_full(document) else replace(document, rows=-(-document.rows // block_size) * block_size)
            for document in shorter
        ]
    else:
        block_size = 1
    slots = [-(-document.rows // block_size) * block_size for document in shorter]
    if sum(slots) == sum(document.rows for document in documents) == tokens:
        return documents, None
    starts = np.cumsum([0, *slots])
    packed = np.full(starts[-1], tokens)
    for document, start in zip(documents, starts[:-1], strict=True):
        packed[start : start + document.length] = document.start + np.arange(document.length)
    moved = (replace(document, start=int(start)) for document, start in zip(shorter, starts[:-1], strict=True))
    return tuple(moved), torch.from_numpy(packed)


def _backend(pattern: Pattern, hidden_BLE: torch.Tensor, head_dim: int, dropout: float) -> Backend | None:
    """The fastest backend that can run this batch; None, with one log line for each reason, leaves it to HF."""
    device = hidden_BLE.device
    if device.type == "cpu":
        return tiles.attend
    is_autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_autocast else hidden_BLE.dtype
    from clinscale.models.attention import flex  # compiles for GPUs

    reason = flex.why_not(device, dtype, head_dim, pattern, dropout)
    if reason is None:
        return flex.attend
    _say_once(reason)
    return None


def new_batch(
    encoder: Any,
    hidden_BLE: torch.Tensor,
    documents: Sequence[Document],
    packed_T: torch.Tensor | None,
    pattern_of: Callable[[Any], Pattern],
    *,
    head_dim: int,
    dropout: float,
    first_sees_all: bool,
) -> Batch | None:
    """The batch with the fastest backend that can run it; None leaves it to HF.

    `documents` and `packed_T` are those of `documents_in`; `first_sees_all` says whether the first token of each
    document sees all of it, so that the last layer can be computed for that token alone.
    """
    backend = _backend(pattern_of(encoder.layer[0].attention.self), hidden_BLE, head_dim, dropout)
    if backend is None:
        return None
    return Batch(
        pattern_of,
        backend,
        dropout,
        packed_T,
        globals=global_tokens_of(documents, hidden_BLE.device, causal=is_causal(encoder)),
        firsts=_firsts(encoder, documents, hidden_BLE) if first_sees_all and not is_causal(encoder) else (),
    )


def _firsts(encoder: Any, documents: Sequence[Document], hidden_BLE: torch.Tensor) -> Sequence[GlobalTokens]:
    """Each document by its first token, where the last layer may be computed for that alone; else none."""
    if torch.is_grad_enabled() or not encoder.exact.first_token_only or len(documents) != len(hidden_BLE):
        return ()
    if any(not document.length or 0 in document.holes for document in documents):
        return ()
    return global_tokens_of([replace(document, global_tokens=(0,)) for document in documents], hidden_BLE.device)


def last_layer(
    layer: Any,
    hidden: torch.Tensor,
    firsts: Sequence[GlobalTokens],
    projections: Any,
    heads: int,
    shape: torch.Size,
) -> torch.Tensor:
    """The last layer's output (B, L, E) for first tokens, which see the whole document in both families; else zeros."""
    hidden_TE = hidden.flatten(0, 1)
    attended_BE = torch.cat(
        [attend_whole(hidden_TE[document.tokens], document, projections, heads) for document in firsts]
    )
    first_BE = hidden_TE[[document.tokens.start for document in firsts]]
    attended_BE = layer.attention.output(attended_BE.to(first_BE.dtype), first_BE)
    last_BLE = hidden.new_zeros(shape)
    last_BLE[:, 0] = layer.output(layer.intermediate(attended_BE), attended_BE)
    return last_BLE


@functools.cache
def _say_once(reason: str) -> None:
    logger.warning("exact attention leaves a batch to Hugging Face's code: %s", reason)
