"""ModernBERT (Warner et al. 2024): rotary positions, gated layers, a window in two layers of three; HF's own code."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from clinscale.errors import ConfigError
from clinscale.models.families.family import (
    PretrainableFamily,
    Sizes,
    banded_pairs,
    linear,
    norm,
    restarting_positions,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

# Shape letters: B rows of a batch, L tokens of a row


class ModernBert(PretrainableFamily):
    """The encoder of most clinical encoders published today; 8,192 tokens."""

    name = "modernbert"
    model_type = "modernbert"
    dropout_fields = (("embedding_dropout", "mlp_dropout", "classifier_dropout"), ("attention_dropout",))
    sizes: ClassVar[Sizes] = {
        "base": {  # as answerdotai/ModernBERT-base
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "intermediate_size": 1152,
            "local_attention": 128,
            "max_tokens": 8192,
        },
        "tiny": {  # the first layer sees all, the others a window
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "local_attention": 64,
            "max_tokens": 1024,
        },
    }
    published: ClassVar[Mapping[str, int]] = {"vocab_size": 50368, "pad_token_id": 50283}
    published_names = ("answerdotai/ModernBERT-base",)
    hf_defaults: ClassVar[Mapping[str, Any]] = {
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), False),
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "attention_dropout"), 0.0),
        "decoder_bias": True,
        "local_attention": 128,
    }
    inner_products = 3

    def new_mlm(self, shape: Mapping[str, Any], *, max_tokens: int) -> "PreTrainedModel":
        """A new model like answerdotai/ModernBERT-base."""
        import transformers

        fields = self.own_fields(shape, max_tokens=max_tokens) | dict(shape)
        return transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**fields))

    def own_fields(self, shape: Mapping[str, Any], *, max_tokens: int) -> dict[str, Any]:
        """One position for each token, and BERT's first token by its own name."""
        own = {"max_position_embeddings": max_tokens}
        return own | ({"cls_token_id": shape["bos_token_id"]} if "bos_token_id" in shape else {})

    def parameter_shapes(self, config: "PretrainedConfig") -> Iterator[tuple[str, tuple[int, ...]]]:
        """Gated inner layers, hardly any bias, no norm before the first attention."""
        size, inner = config.hidden_size, config.intermediate_size
        has_bias = {"bias": config.norm_bias}
        yield "embeddings.tok_embeddings.weight", (config.vocab_size, size)
        yield from norm("embeddings.norm", size, **has_bias)
        for number in range(config.num_hidden_layers):
            layer = f"layers.{number}"
            if number:
                yield from norm(f"{layer}.attn_norm", size, **has_bias)
            yield from linear(f"{layer}.attn.Wqkv", 3 * size, size, bias=config.attention_bias)
            yield from linear(f"{layer}.attn.Wo", size, size, bias=config.attention_bias)
            yield from norm(f"{layer}.mlp_norm", size, **has_bias)
            yield from linear(f"{layer}.mlp.Wi", 2 * inner, size, bias=config.mlp_bias)
            yield from linear(f"{layer}.mlp.Wo", size, inner, bias=config.mlp_bias)
        yield from norm("final_norm", size, **has_bias)
        yield from linear("head.dense", size, size, bias=config.classifier_bias)
        yield from norm("head.norm", size, **has_bias)
        if config.decoder_bias:
            yield "head.decoder.bias", (config.vocab_size,)

    def mlm_head(self, model: "PreTrainedModel") -> "torch.nn.Module":
        """A dense layer and the decoder, which HF keeps side by side."""
        import torch

        return torch.nn.Sequential(model.head, model.decoder)

    def attended_pairs(self, config: "PretrainedConfig", tokens: int) -> int:
        """All pairs in full layers, a band in the others."""
        band = banded_pairs(tokens, config.local_attention // 2)
        # a published config.json may say how many layers lie between full ones, which HF then writes out
        kinds = getattr(config, "layer_types", None) or [
            "sliding_attention" if number % getattr(config, "global_attn_every_n_layers", 3) else "full_attention"
            for number in range(config.num_hidden_layers)
        ]
        return sum(tokens**2 if kind == "full_attention" else band for kind in kinds)

    @contextlib.contextmanager
    def documents_apart(
        self, model: "PreTrainedModel", segment_ids_BL: "torch.Tensor", inputs: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        """Positions that restart, and HF's masks for both kinds of layers cut at the ends of documents."""
        import torch
        from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

        code = model.config._attn_implementation
        if code not in ("sdpa", "eager"):
            raise ConfigError(
                f"documents that share a row of a ModernBERT are kept apart by attn_implementation=sdpa, got {code}; "
                "set that or recipe.documents_apart=false"
            )
        if (mask_BL := inputs.get("attention_mask")) is not None:
            segment_ids_BL = torch.where(mask_BL != 0, segment_ids_BL, 0)
        # padding sees padding, so that no row of the softmax is empty; only shape, type and place of these are read
        placeholder = model.get_input_embeddings().weight.new_empty(*segment_ids_BL.shape, 1)
        made_of: dict[str, Any] = {
            "config": model.config,
            "inputs_embeds": placeholder,
            "attention_mask": None,
            "and_mask_function": lambda row, _, query, key: segment_ids_BL[row, query] == segment_ids_BL[row, key],
        }
        masks = {
            "full_attention": create_bidirectional_mask(**made_of),
            "sliding_attention": create_bidirectional_sliding_window_mask(**made_of),
        }
        positions_BL = restarting_positions(segment_ids_BL, self.position_before_first(model.config))
        yield {**inputs, "attention_mask": masks, "position_ids": positions_BL}
