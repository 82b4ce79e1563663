"""Longformer (Beltagy et al. 2020): a window of neighbours for each token, the whole document for global ones."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from clinscale.models.families.family import (
    BERT_BASE,
    BERT_DROPOUT,
    BERT_TINY,
    ExactFamily,
    Sizes,
    banded_pairs,
    bert_shapes,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from clinscale.models.attention.exact import Batch

# Shape letters: B rows of a batch, L tokens of a row, T tokens of all documents end to end, E hidden size


class Longformer(ExactFamily):
    """The encoder of Clinical-Longformer."""

    name = "longformer"
    model_type = "longformer"
    counts_from_padding = True
    uses_global_mask = True
    drops_probabilities = True
    hf_kept_scores = (3.9, 2.9)
    sizes: ClassVar[Sizes] = {
        "base": {**BERT_BASE, "attention_window": 512, "max_tokens": 4096},  # as Clinical-Longformer
        # still attends sparsely beyond a few hundred tokens
        "tiny": {**BERT_TINY, "attention_window": 64, "max_tokens": 1024},
    }
    published: ClassVar[Mapping[str, int]] = {"vocab_size": 50265, "pad_token_id": 1}
    published_names = ("allenai/longformer-base-4096", "yikuan8/Clinical-Longformer")
    hf_defaults: ClassVar[Mapping[str, Any]] = {**BERT_DROPOUT, "attention_window": 512, "type_vocab_size": 2}
    converted_fields: ClassVar[Mapping[str, int]] = {"attention_window": 512}

    def new_mlm(self, shape: Mapping[str, Any], *, max_tokens: int) -> "PreTrainedModel":
        """A new model like allenai/longformer-base-4096: RoBERTa's position offset, one token type, RoBERTa's norm."""
        import transformers

        fields = self.own_fields(shape, max_tokens=max_tokens) | dict(shape)
        return transformers.LongformerForMaskedLM(transformers.LongformerConfig(**fields))

    def own_fields(self, shape: Mapping[str, Any], *, max_tokens: int) -> dict[str, Any]:
        """RoBERTa's."""
        return {
            "max_position_embeddings": max_tokens + shape["pad_token_id"] + 1,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        }

    def parameter_shapes(self, config: "PretrainedConfig") -> Iterator[tuple[str, tuple[int, ...]]]:
        """RoBERTa's, and projections of its own for global tokens."""
        own = ("query", "key", "value")
        return bert_shapes(config, projections=(*own, *(f"{part}_global" for part in own)))

    def mlm_head(self, model: "PreTrainedModel") -> "torch.nn.Module":
        """RoBERTa's."""
        head: torch.nn.Module = model.lm_head
        return head

    def is_reached(self, name: str, *, has_global_tokens: bool) -> bool:
        """Neither the pooler nor, without global tokens, their projections."""
        is_global = any(f".{part}_global." in name for part in ("query", "key", "value"))
        return not name.startswith("pooler.") and (has_global_tokens or not is_global)

    def attended_pairs(self, config: "PretrainedConfig", tokens: int) -> int:
        """The windows' own, without global tokens."""
        windows = config.attention_window
        windows = [windows] * config.num_hidden_layers if isinstance(windows, int) else windows
        return sum(banded_pairs(tokens, window // 2) for window in windows)

    def exact_encoder(self, model: "PreTrainedModel") -> Any:
        """Every Longformer has one."""
        return model.base_model.encoder

    def bind(self, encoder: Any) -> None:
        """Put clinscale's forward passes in place of HF's."""
        from clinscale.models.attention.exact import bind

        bind(encoder, _encoder, _self_attention)

    def batch_of(self, encoder: Any, hidden_BLE: "torch.Tensor", code_BL: "torch.Tensor") -> "Batch | None":
        """Global tokens and windows of each layer."""
        return _batch(encoder, hidden_BLE, code_BL)


def _encoder(
    self: Any,
    hidden_states: "torch.Tensor",
    attention_mask: "torch.Tensor",
    padding_len: int = 0,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    return_dict: bool = True,
) -> Any:
    """Replacement of `LongformerEncoder.forward`."""
    from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutput

    from clinscale.models.attention.exact import check_hf_may_read, is_recorded, last_layer

    # HF pads to a multiple of its window; nothing here needs that
    length = hidden_states.shape[1] - padding_len
    batch = None
    if not output_attentions and not is_recorded(hidden_states):
        code_BL = (attention_mask[:, :length] >= 0).int() + (attention_mask[:, :length] > 0).int()
        batch = _batch(self, hidden_states, code_BL)
    if batch is None:
        check_hf_may_read(self)
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
        last = last_layer(self.layer[-1], hidden, firsts, projections, module.num_heads, padded.shape)
    else:
        last = batch.unpack(hidden, padded.shape)
    all_states = tuple(states) if output_hidden_states else None
    if not return_dict:
        return tuple(value for value in (last, all_states) if value is not None)
    return LongformerBaseModelOutput(last_hidden_state=last, hidden_states=all_states)


def _batch(self: Any, hidden_BLE: "torch.Tensor", code_BL: "torch.Tensor") -> "Batch | None":
    from clinscale.models.attention.exact import documents_in, is_causal, new_batch
    from clinscale.models.attention.patterns import LongformerPattern

    documents, packed_T = documents_in(self, code_BL, unpad=self.exact.unpad)
    tokens, causal = code_BL.numel() if packed_T is None else len(packed_T), is_causal(self)

    def pattern_of(module: Any) -> LongformerPattern:
        return LongformerPattern(documents, tokens, module.one_sided_attn_window_size, causal)

    first = self.layer[0].attention.self
    return new_batch(
        self,
        hidden_BLE,
        documents,
        packed_T,
        pattern_of,
        head_dim=first.head_dim,
        dropout=first.dropout if self.training else 0.0,
        first_sees_all=all(0 in document.global_tokens for document in documents),
    )


def _self_attention(
    self: Any, hidden_states: "torch.Tensor", attention_mask: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Replacement of `LongformerSelfAttention.forward`; from HF's own encoder it is HF's."""
    from clinscale.models.attention.exact import Batch
    from clinscale.models.attention.global_queries import with_global_rows

    if not isinstance(attention_mask, Batch):
        return type(self).forward(self, hidden_states, attention_mask, *args, **kwargs)
    batch = attention_mask
    output_TE = batch.attend(self, hidden_states, self.num_heads, self.head_dim)
    if batch.globals:
        hidden_TE = hidden_states.flatten(0, 1)
        output_TE = with_global_rows(self, hidden_TE, output_TE, batch.globals, batch.dropout)
    return (output_TE.view_as(hidden_states),)
