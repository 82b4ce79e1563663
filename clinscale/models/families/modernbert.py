"""ModernBERT (Warner et al. 2024): rotary positions, gated layers, a window in two layers of three; HF's own code."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from clinscale.errors import ConfigError
from clinscale.models.families.family import PretrainableFamily, Sizes, banded_pairs, restarting_positions

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
    inner_products = 3

    def new_mlm(self, shape: Mapping[str, Any], *, max_tokens: int) -> "PreTrainedModel":
        """A new model like answerdotai/ModernBERT-base."""
        import transformers

        own = {"max_position_embeddings": max_tokens}
        if "bos_token_id" in shape:
            own["cls_token_id"] = shape["bos_token_id"]
        return transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**(own | dict(shape))))

    def mlm_head(self, model: "PreTrainedModel") -> "torch.nn.Module":
        """A dense layer and the decoder, which HF keeps side by side."""
        import torch

        return torch.nn.Sequential(model.head, model.decoder)

    def attended_pairs(self, config: "PretrainedConfig", tokens: int) -> int:
        """All pairs in full layers, a band in the others."""
        band = banded_pairs(tokens, config.local_attention // 2)
        return sum(tokens**2 if kind == "full_attention" else band for kind in config.layer_types)

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
