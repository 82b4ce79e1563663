"""Swap the exact attention into HF's Longformer and BigBird, and back.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.activations import NewGELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutput

from clinscale.errors import ConfigError
from clinscale.models.attention import tiles
from clinscale.models.attention.global_queries import (
    GlobalTokens,
    attend_whole,
    global_tokens_of,
    with_global_rows,
)
from clinscale.models.attention.patterns import (
    BigBirdPattern,
    Document,
    LongformerPattern,
    documents_of,
    documents_of_segments,
)
from clinscale.models.catalog import EvaluationPattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Shape letters: B rows of a batch, L tokens of a row, T tokens of all documents end to end, E hidden size, H heads,
# D head size

logger = logging.getLogger("clinscale.models")


@dataclass(frozen=True)
class ExactAttention:
    """How the encoder of one model attends; kept on the encoder."""

    unpad: bool
    """Leave padding out of the layers: hidden states of padding come back as zeros."""
    evaluation_pattern: EvaluationPattern
    sticky: bool
    """After one short batch BigBird stays at full attention for good, as HF's does."""
    first_token_only: bool
    """The head reads nothing else: without gradients the last layer is computed for no other token."""


Pattern = LongformerPattern | BigBirdPattern
Backend = Callable[..., torch.Tensor]
"""`attend(query_THD, key_THD, value_THD, pattern, dropout=...)`."""


@dataclass(frozen=True)
class Batch:
    """One batch on its way through the layers."""

    pattern_of: Callable[[Any], Pattern]
    """Who sees whom in the layer of a self-attention module."""
    backend: Backend
    dropout: float
    """Of attention probabilities; 0 outside training."""
    packed_T: torch.Tensor | None
    """Where each token of the packed axis lies in the padded batch, B * L for those that fill up blocks; None when
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


def use_exact_attention(
    model: "PreTrainedModel",
    *,
    unpad: bool = False,
    evaluation_pattern: EvaluationPattern = "hf",
    sticky: bool = False,
) -> "PreTrainedModel":
    """Give an HF Longformer or BigBird, with any head, the exact attention; other models are returned as they are.

    Args:
        model: of `transformers`; changed in place.
        unpad: do not compute what no head reads: padding, and where a document is classified the last layer of all
            tokens but the first. A document's answer then does not depend on the batch it is in; those hidden states
            are zeros instead of HF's.
        evaluation_pattern: what BigBird sees in evaluation; `hf` is what published checkpoints are used with.
        sticky: keep HF's switch to full attention after one short BigBird batch.
    """
    encoder = _encoder_of(model)
    if encoder is not None:
        use_hf_attention(model, sticky=sticky)
        first_token_only = unpad and type(model).__name__.endswith("ForSequenceClassification")
        encoder.exact = ExactAttention(unpad, evaluation_pattern, sticky, first_token_only)
        _bind(encoder, model.config.model_type)
    return model


def use_hf_attention(model: "PreTrainedModel", *, sticky: bool = False) -> "PreTrainedModel":
    """Leave attention to HF's own code, but for BigBird's switch to full attention: each batch decides anew.

    HF switches for good after one short batch (transformers#20031); `sticky` keeps that.
    """
    encoder = _encoder_of(model)
    if encoder is not None:
        _unbind(encoder)
        if hook := encoder.__dict__.pop("decides_per_batch", None):
            hook.remove()
        if model.config.model_type == "big_bird" and not sticky:
            encoder.decides_per_batch = model.base_model.register_forward_pre_hook(_reset_attention_type)
    return model


@contextlib.contextmanager
def documents_apart(model: "PreTrainedModel", segment_ids_BL: torch.Tensor | None) -> Iterator[None]:
    """While this lasts, no token of `model` attends to another document of its row.

    Args:
        model: with exact attention.
        segment_ids_BL: the document of each token, 0 on padding; None leaves rows whole.

    Raises:
        ConfigError: the model attends with HF's own code, which cannot keep documents apart.
    """
    if segment_ids_BL is None:
        yield
        return
    encoder = _encoder_of(model)
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


def _is_recorded(hidden: torch.Tensor) -> bool:
    """Whether a graph is being made of the forward pass, by `torch.export` or `torch.jit.trace`.

    Who sees whom is worked out from the values of the mask, which such a graph would keep as constants.
    """
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_traced or torch.compiler.is_exporting() or isinstance(hidden, torch._subclasses.FakeTensor)


def _check_rows_are_whole(encoder: Any) -> None:
    """Raise ConfigError where HF's code would let the documents of a row see each other."""
    if hasattr(encoder, "segment_ids_BL"):
        raise ConfigError(
            "documents that share a row are kept apart by the exact attention only, and it cannot run this batch for "
            "the reason that the log gives (a GPU needs attention_probs_dropout_prob=0) or because attentions are "
            "asked for; remove that or set recipe.documents_apart=false"
        )


def _reset_attention_type(model: Any, _: Any) -> None:
    model.set_attention_type(model.config.attention_type)


def leaves_padding_out(model: "PreTrainedModel") -> bool:
    """Whether `model`, where it is and as it is now, computes no padding: its answers then depend on no neighbour."""
    encoder = _encoder_of(model)
    if encoder is None or "forward" not in vars(encoder) or not encoder.exact.unpad:
        return False
    hidden_BLE = torch.zeros(1, 1, model.config.hidden_size, dtype=model.dtype, device=model.device)
    code_BL = torch.ones(1, 1, dtype=torch.int32, device=model.device)
    if model.config.model_type == "longformer":
        return _longformer_batch(encoder, hidden_BLE, code_BL) is not None
    return _bigbird_batch(encoder, hidden_BLE, code_BL, unpad=True) is not None


def backend_here() -> str:
    """What attention runs with on this machine, in a few words; a GPU is tested for it."""
    if not torch.cuda.is_available():
        return "exact, tile by tile on the CPU"
    from clinscale.models.attention import flex

    row = LongformerPattern((Document(start=0, rows=4096, length=4096),), tokens=4096, one_sided_window=256)
    device = torch.device("cuda", torch.cuda.current_device())
    reason = flex.why_not(device, torch.bfloat16, 64, row, dropout=0.0)
    return "exact, by FlexAttention on the GPU" if reason is None else f"Hugging Face's own: {reason}"


def _encoder_of(model: "PreTrainedModel") -> Any:
    is_ours = model.config.model_type == "longformer" or (
        model.config.model_type == "big_bird" and not model.config.is_decoder
    )
    return model.base_model.encoder if is_ours else None


def _bind(encoder: Any, model_type: str) -> None:
    of_encoder: Callable[..., Any]
    of_layer: Callable[..., Any]
    if model_type == "longformer":
        of_encoder, of_layer = _longformer_encoder, _longformer_self
    else:
        of_encoder, of_layer = _bigbird_encoder, _bigbird_self
    encoder.forward = functools.partial(of_encoder, encoder)  # a bound method could not be pickled
    for index, layer in enumerate(encoder.layer):
        attention = layer.attention.self
        attention.forward = functools.partial(of_layer, attention)
        attention.index = index  # BigBird draws its random blocks for each layer
        if isinstance(activation := layer.intermediate.intermediate_act_fn, NewGELUActivation):
            # the same function in one pass over memory: HF's keeps six tensors of the inner size
            activation.forward = functools.partial(torch.nn.functional.gelu, approximate="tanh")
    if model_type == "big_bird":  # the layers stay as they are; each batch decides for itself
        encoder.set_attention_type = functools.partial(_remember_attention_type, encoder)


def _unbind(encoder: Any) -> None:
    swapped = [encoder]
    for layer in encoder.layer:
        swapped += [layer.attention.self, layer.intermediate.intermediate_act_fn]
    for module in swapped:
        for name in ("forward", "set_attention_type"):
            vars(module).pop(name, None)


def _documents(
    encoder: Any,
    code_BL: torch.Tensor,
    *,
    unpad: bool,
    block_size: int = 1,
    is_full: Callable[[Document], bool] = lambda document: True,
) -> tuple[tuple[Document, ...], torch.Tensor | None]:
    """The batch's documents on the axis that the layers work on, and where its tokens lie in the padded batch."""
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
    """The documents without their padding, end to end, and where their tokens lie among the `tokens` of the batch.

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


def _firsts(encoder: Any, documents: Sequence[Document], hidden_BLE: torch.Tensor) -> Sequence[GlobalTokens]:
    """Each document by its first token, where the last layer may be computed for that alone; else none."""
    if torch.is_grad_enabled() or not encoder.exact.first_token_only or len(documents) != len(hidden_BLE):
        return ()
    if any(not document.length or 0 in document.holes for document in documents):
        return ()
    return global_tokens_of([replace(document, global_tokens=(0,)) for document in documents], hidden_BLE.device)


def _last_layer(
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


# Longformer


def _longformer_encoder(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    padding_len: int = 0,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    return_dict: bool = True,
) -> Any:
    """In place of `LongformerEncoder.forward`."""
    # HF pads to a multiple of its window; nothing here needs that
    length = hidden_states.shape[1] - padding_len
    batch = None
    if not output_attentions and not _is_recorded(hidden_states):
        code_BL = (attention_mask[:, :length] >= 0).int() + (attention_mask[:, :length] > 0).int()
        batch = _longformer_batch(self, hidden_states, code_BL)
    if batch is None:
        _check_rows_are_whole(self)
        return type(self).forward(
            self,
            hidden_states,
            attention_mask,
            padding_len,
            output_attentions,
            output_hidden_states,
            return_dict,
        )
    padded = hidden_states[:, :length]
    hidden = batch.pack(padded)
    states = [padded]
    firsts = () if output_hidden_states else batch.firsts
    for layer in self.layer[:-1] if firsts else self.layer:
        hidden = layer(hidden, attention_mask=batch)[0]
        if output_hidden_states:
            states.append(batch.unpack(hidden, padded.shape))
    if firsts:
        module = self.layer[-1].attention.self
        projections = (module.query_global, module.key_global, module.value_global)
        last = _last_layer(self.layer[-1], hidden, firsts, projections, module.num_heads, padded.shape)
    else:
        last = batch.unpack(hidden, padded.shape)
    all_states = tuple(states) if output_hidden_states else None
    if not return_dict:
        return tuple(value for value in (last, all_states) if value is not None)
    return LongformerBaseModelOutput(last_hidden_state=last, hidden_states=all_states)


def _longformer_batch(self: Any, hidden_BLE: torch.Tensor, code_BL: torch.Tensor) -> Batch | None:
    documents, packed_T = _documents(self, code_BL, unpad=self.exact.unpad)
    tokens = code_BL.numel() if packed_T is None else len(packed_T)

    def pattern_of(module: Any) -> Pattern:
        return LongformerPattern(documents, tokens, module.one_sided_attn_window_size)

    first = self.layer[0].attention.self
    dropout = first.dropout if self.training else 0.0
    backend = _backend(pattern_of(first), hidden_BLE, first.head_dim, dropout)
    if backend is None:
        return None
    are_global = all(0 in document.global_tokens for document in documents)
    return Batch(
        pattern_of,
        backend,
        dropout,
        packed_T,
        globals=global_tokens_of(documents, hidden_BLE.device),
        firsts=_firsts(self, documents, hidden_BLE) if are_global else (),
    )


def _longformer_self(
    self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """In place of `LongformerSelfAttention.forward`; from HF's own encoder it is HF's."""
    if not isinstance(attention_mask, Batch):
        return type(self).forward(self, hidden_states, attention_mask, *args, **kwargs)
    batch = attention_mask
    output_TE = batch.attend(self, hidden_states, self.num_heads, self.head_dim)
    if batch.globals:
        hidden_TE = hidden_states.flatten(0, 1)
        output_TE = with_global_rows(self, hidden_TE, output_TE, batch.globals, batch.dropout)
    return (output_TE.view_as(hidden_states),)


# BigBird


def _bigbird_encoder(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    to_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """In place of `BigBirdEncoder.forward`."""
    batch = None
    if not kwargs.get("output_attentions", self.config.output_attentions) and not _is_recorded(hidden_states):
        code_BL = _bigbird_codes(hidden_states, attention_mask, to_mask)
        # recorded hidden states are taken from the layers, so these must not leave padding out
        unpad = self.exact.unpad and not kwargs.get("output_hidden_states", self.config.output_hidden_states)
        batch = _bigbird_batch(self, hidden_states, code_BL, unpad)
    if batch is None:
        _check_rows_are_whole(self)
        return _bigbird_encoder_of_hf(
            self, hidden_states, attention_mask=attention_mask, to_mask=to_mask, **kwargs
        )
    hidden = batch.pack(hidden_states)
    firsts = () if kwargs.get("output_hidden_states", self.config.output_hidden_states) else batch.firsts
    for layer in self.layer[:-1] if firsts else self.layer:
        hidden = layer(hidden, batch=batch)
    if firsts:
        module = self.layer[-1].attention.self
        projections = (module.query, module.key, module.value)
        last = _last_layer(
            self.layer[-1], hidden, firsts, projections, module.num_attention_heads, hidden_states.shape
        )
    else:
        last = batch.unpack(hidden, hidden_states.shape)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=last)


def _bigbird_encoder_of_hf(self: Any, *args: Any, **kwargs: Any) -> Any:
    """HF's own encoder, with the attention that this batch's length asks for."""
    _unbind(self)
    try:
        for index, layer in enumerate(self.layer):
            layer.set_attention_type(self.attention_type, layer_idx=index)
        return self.forward(*args, **kwargs)
    finally:
        for index, layer in enumerate(self.layer):
            layer.set_attention_type(self.config.attention_type, layer_idx=index)
        _bind(self, "big_bird")


def _remember_attention_type(self: Any, value: str) -> None:
    """In place of `BigBirdEncoder.set_attention_type`, which makes new modules in the middle of a forward pass."""
    self.attention_type = value


def _bigbird_batch(self: Any, hidden_BLE: torch.Tensor, code_BL: torch.Tensor, unpad: bool) -> Batch | None:
    config = self.config
    first = self.layer[0].attention.self
    is_random = self.training or self.exact.evaluation_pattern == "training"
    always_full = self.attention_type == "original_full" and (
        self.exact.sticky or config.attention_type == "original_full"
    )
    family = BigBirdPattern(
        documents=(),
        tokens=0,
        heads=first.num_attention_heads,
        block_size=config.block_size,
        num_random_blocks=config.num_random_blocks,
        max_tokens=config.max_position_embeddings,
        layer=0,
        random=is_random,
        always_full=always_full,
    )
    documents, packed_T = _documents(
        self, code_BL, unpad=unpad, block_size=config.block_size, is_full=family.is_full
    )
    tokens = code_BL.numel() if packed_T is None else len(packed_T)

    def pattern_of(module: Any) -> Pattern:
        # without random blocks all layers see the same, and share what a backend works out of it
        layer = module.index if is_random else 0
        return replace(family, documents=documents, tokens=tokens, layer=layer)

    dropout = config.attention_probs_dropout_prob if self.training else 0.0
    backend = _backend(pattern_of(first), hidden_BLE, first.attention_head_size, dropout)
    if backend is None:
        return None
    firsts = _firsts(self, documents, hidden_BLE) if config.use_bias else ()
    return Batch(pattern_of, backend, dropout, packed_T, firsts=firsts)


def _bigbird_codes(
    hidden_BLE: torch.Tensor, attention_mask: torch.Tensor | None, to_mask: torch.Tensor | None
) -> torch.Tensor:
    """(B, L): 1 for tokens, 0 for masked ones, from what `BigBirdModel` made of its mask."""
    if to_mask is not None:  # (B, 1, 1, L) of 0 and 1
        return to_mask[:, 0, 0].int()
    if attention_mask is None:
        return torch.ones(hidden_BLE.shape[:2], dtype=torch.int32, device=hidden_BLE.device)
    rows_BL = attention_mask[:, 0, 0]  # (B, 1, 1 or L, L), boolean or added to the scores
    return (rows_BL if rows_BL.dtype == torch.bool else rows_BL >= 0).int()


def _bigbird_self(self: Any, hidden_states: torch.Tensor, *args: Any, batch: Any = None, **kwargs: Any) -> Any:
    """In place of `forward` of both of HF's BigBird self-attentions; from HF's own encoder it is HF's."""
    if batch is None:
        return type(self).forward(self, hidden_states, *args, **kwargs)
    output_TE = batch.attend(self, hidden_states, self.num_attention_heads, self.attention_head_size)
    return output_TE.view_as(hidden_states), None
