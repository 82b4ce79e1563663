"""BigBird (Zaheer et al. 2020): blocks that see their neighbours, the first and last block and a few random ones."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from clinscale.models.families.family import (
    BERT_BASE,
    BERT_DROPOUT,
    BERT_TINY,
    ExactFamily,
    Sizes,
    bert_shapes,
    linear,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from clinscale.models.attention.exact import Batch

# Shape letters: B rows of a batch, L tokens of a row, T tokens of all documents end to end, E hidden size


class BigBird(ExactFamily):
    """The encoder of Clinical-BigBird."""

    name = "bigbird"
    model_type = "big_bird"
    has_evaluation_patterns = True
    hf_kept_scores = (2.3, 2.3)
    sizes: ClassVar[Sizes] = {
        # as google/bigbird-roberta-base
        "base": {**BERT_BASE, "block_size": 64, "num_random_blocks": 3, "max_tokens": 4096},
        # still attends sparsely beyond a few hundred tokens
        "tiny": {**BERT_TINY, "block_size": 16, "num_random_blocks": 2, "max_tokens": 1024},
    }
    published: ClassVar[Mapping[str, int]] = {"vocab_size": 50358, "pad_token_id": 0}
    published_names = ("google/bigbird-roberta-base", "yikuan8/Clinical-BigBird")
    hf_defaults: ClassVar[Mapping[str, Any]] = {
        **BERT_DROPOUT,
        "block_size": 64,
        "num_random_blocks": 3,
        "type_vocab_size": 2,
    }
    converted_fields: ClassVar[Mapping[str, int]] = {"block_size": 64, "num_random_blocks": 3}

    def padding_block(self, config: "PretrainedConfig") -> int | None:
        """HF treats the last block of the padded row as global."""
        return int(config.block_size)

    def new_mlm(self, shape: Mapping[str, Any], *, max_tokens: int) -> "PreTrainedModel":
        """A new model like google/bigbird-roberta-base."""
        import transformers

        fields = self.own_fields(shape, max_tokens=max_tokens) | dict(shape)
        return transformers.BigBirdForMaskedLM(transformers.BigBirdConfig(**fields))

    def own_fields(self, shape: Mapping[str, Any], *, max_tokens: int) -> dict[str, Any]:
        """One position for each token."""
        return {"max_position_embeddings": max_tokens}

    def parameter_shapes(self, config: "PretrainedConfig") -> Iterator[tuple[str, tuple[int, ...]]]:
        """BERT's, with its pooler."""
        yield from bert_shapes(
            config, projections=("query", "key", "value"), projection_bias=getattr(config, "use_bias", True)
        )
        yield from linear("pooler", config.hidden_size, config.hidden_size)

    def mlm_head(self, model: "PreTrainedModel") -> "torch.nn.Module":
        """BERT's."""
        head: torch.nn.Module = model.cls
        return head

    def is_reached(self, name: str, *, has_global_tokens: bool) -> bool:
        """All but the pooler."""
        return not name.startswith("pooler.")

    def attended_pairs(self, config: "PretrainedConfig", tokens: int) -> int:
        """Whole blocks; rows too short for them see all."""
        size, random = config.block_size, config.num_random_blocks
        blocks = -(-tokens // size)
        seen = 2 * blocks + 2 * (4 + random) + (blocks - 4) * (5 + random)
        return int(config.num_hidden_layers * (tokens**2 if blocks <= 5 + 2 * random else seen * size**2))

    def exact_encoder(self, model: "PreTrainedModel") -> Any:
        """None in a decoder, whose attention is another."""
        return None if model.config.is_decoder else model.base_model.encoder

    def bind(self, encoder: Any) -> None:
        """Put clinscale's forward passes in place of HF's."""
        _bind(encoder)

    def batch_of(self, encoder: Any, hidden_BLE: "torch.Tensor", code_BL: "torch.Tensor") -> "Batch | None":
        """Blocks of each layer, random ones included."""
        return _batch(encoder, hidden_BLE, code_BL, encoder.exact.unpad)

    def use_hf(self, model: "PreTrainedModel", *, sticky: bool) -> None:
        """HF switches to full attention for good after one short batch; each batch decides anew unless `sticky`."""
        encoder = self.exact_encoder(model)
        if hook := encoder.__dict__.pop("decides_per_batch", None):
            hook.remove()
        if not sticky:
            encoder.decides_per_batch = model.base_model.register_forward_pre_hook(_reset_attention_type)


def _reset_attention_type(model: Any, _: Any) -> None:
    model.set_attention_type(model.config.attention_type)


def _bind(encoder: Any) -> None:
    from clinscale.models.attention.exact import bind

    bind(encoder, _encoder, _self_attention)
    # the layers stay as they are; each batch decides for itself
    encoder.set_attention_type = functools.partial(_remember_attention_type, encoder)


def _remember_attention_type(self: Any, value: str) -> None:
    """Replacement of `BigBirdEncoder.set_attention_type`, which makes new modules in the middle of a forward pass."""
    self.attention_type = value


def _encoder(
    self: Any,
    hidden_states: "torch.Tensor",
    attention_mask: "torch.Tensor | None" = None,
    to_mask: "torch.Tensor | None" = None,
    **kwargs: Any,
) -> Any:
    """Replacement of `BigBirdEncoder.forward`."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    from clinscale.models.attention.exact import check_hf_may_read, is_recorded, last_layer

    batch = None
    if not kwargs.get("output_attentions", self.config.output_attentions) and not is_recorded(hidden_states):
        code_BL = _codes(hidden_states, attention_mask, to_mask)
        # recorded hidden states are taken from the layers, so these must not leave padding out
        unpad = self.exact.unpad and not kwargs.get("output_hidden_states", self.config.output_hidden_states)
        batch = _batch(self, hidden_states, code_BL, unpad)
    if batch is None:
        check_hf_may_read(self)
        return _encoder_of_hf(self, hidden_states, attention_mask=attention_mask, to_mask=to_mask, **kwargs)
    hidden = batch.pack(hidden_states)
    firsts = () if kwargs.get("output_hidden_states", self.config.output_hidden_states) else batch.firsts
    for layer in self.layer[:-1] if firsts else self.layer:
        hidden = layer(hidden, batch=batch)
    if firsts:
        module = self.layer[-1].attention.self
        projections = (module.query, module.key, module.value)
        last = last_layer(
            self.layer[-1], hidden, firsts, projections, module.num_attention_heads, hidden_states.shape
        )
    else:
        last = batch.unpack(hidden, hidden_states.shape)
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=last)


def _encoder_of_hf(self: Any, *args: Any, **kwargs: Any) -> Any:
    """HF's own encoder, with the attention that this batch's length asks for."""
    from clinscale.models.attention.exact import unbind

    unbind(self)
    try:
        for index, layer in enumerate(self.layer):
            layer.set_attention_type(self.attention_type, layer_idx=index)
        return self.forward(*args, **kwargs)
    finally:
        for index, layer in enumerate(self.layer):
            layer.set_attention_type(self.config.attention_type, layer_idx=index)
        _bind(self)


def _batch(self: Any, hidden_BLE: "torch.Tensor", code_BL: "torch.Tensor", unpad: bool) -> "Batch | None":
    from clinscale.models.attention.exact import documents_in, is_causal, new_batch
    from clinscale.models.attention.patterns import BigBirdPattern

    config = self.config
    first = self.layer[0].attention.self
    is_random = self.training or self.exact.evaluation_pattern == "training"
    always_full = self.attention_type == "original_full" and (
        self.exact.sticky or config.attention_type == "original_full"
    )
    blocks = BigBirdPattern(
        documents=(),
        tokens=0,
        heads=first.num_attention_heads,
        block_size=config.block_size,
        num_random_blocks=config.num_random_blocks,
        max_tokens=config.max_position_embeddings,
        layer=0,
        random=is_random,
        always_full=always_full,
        causal=is_causal(self),
    )
    documents, packed_T = documents_in(
        self, code_BL, unpad=unpad, block_size=config.block_size, is_full=blocks.is_full
    )
    tokens = code_BL.numel() if packed_T is None else len(packed_T)

    def pattern_of(module: Any) -> BigBirdPattern:
        # without random blocks all layers see the same, and share what a backend works out of it
        layer = module.index if is_random else 0
        return replace(blocks, documents=documents, tokens=tokens, layer=layer)

    return new_batch(
        self,
        hidden_BLE,
        documents,
        packed_T,
        pattern_of,
        head_dim=first.attention_head_size,
        dropout=config.attention_probs_dropout_prob if self.training else 0.0,
        first_sees_all=config.use_bias,  # the projections of the first tokens alone are taken with their biases
    )


def _codes(
    hidden_BLE: "torch.Tensor", attention_mask: "torch.Tensor | None", to_mask: "torch.Tensor | None"
) -> "torch.Tensor":
    """(B, L): 1 for tokens, 0 for masked ones, from what `BigBirdModel` made of its mask."""
    import torch

    if to_mask is not None:  # (B, 1, 1, L) of 0 and 1
        return to_mask[:, 0, 0].int()
    if attention_mask is None:
        return torch.ones(hidden_BLE.shape[:2], dtype=torch.int32, device=hidden_BLE.device)
    rows_BL = attention_mask[:, 0, 0]  # (B, 1, 1 or L, L), boolean or added to the scores
    return (rows_BL if rows_BL.dtype == torch.bool else rows_BL >= 0).int()


def _self_attention(
    self: Any, hidden_states: "torch.Tensor", *args: Any, batch: "Batch | None" = None, **kwargs: Any
) -> Any:
    """Replacement of `forward` of both of HF's BigBird self-attentions; from HF's own encoder it is HF's."""
    if batch is None:
        return type(self).forward(self, hidden_states, *args, **kwargs)
    output_TE = batch.attend(self, hidden_states, self.num_attention_heads, self.attention_head_size)
    return output_TE.view_as(hidden_states), None
