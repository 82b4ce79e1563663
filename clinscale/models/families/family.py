"""The contract of a family: everything that clinscale must know about a type of encoder.

`Family` is what every encoder answers, `PretrainableFamily` what masked-language modelling asks besides, and
`ExactFamily` what clinscale's own attention asks. Modules of families import torch only where they compute.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from clinscale.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from clinscale.models.attention.exact import Batch

# Shape letters: B rows of a batch, L tokens of a row, E hidden size

Sizes = Mapping[str, Mapping[str, Any]]
"""Shapes by name."""

BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
BERT_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
"""A width that trains in a minute on one CPU core."""
BERT_DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
"""HF's defaults for BERT and its like."""


class Family:
    """A type of encoder that is fine-tuned and asked, by HF's own code; the answers hold for BERT and its like."""

    name: str
    """clinscale's name, in configs, tags and reports."""

    model_type: str
    """HF's name, in `config.json`."""

    counts_from_padding = False
    """Whether positions begin after the padding id, which is also the position of padding, as RoBERTa's do."""

    uses_global_mask = False
    """Whether `forward` takes a `global_attention_mask`, which marks tokens that see the whole document."""

    has_evaluation_patterns = False
    """Whether HF evaluates another attention pattern than it trains, so that `evaluation_pattern` has a choice."""

    dropout_fields: tuple[tuple[str, ...], tuple[str, ...]] = (
        ("hidden_dropout_prob",),
        ("attention_probs_dropout_prob",),
    )
    """Fields of the HF config that hold the dropout of hidden states, and that of attention probabilities."""

    def __init__(self, name: str = "", model_type: str = "", *, counts_from_padding: bool | None = None) -> None:
        """A family of its own class; the arguments are for types that have none."""
        self.name = name or self.name
        self.model_type = model_type or self.model_type
        if counts_from_padding is not None:
            self.counts_from_padding = counts_from_padding

    def position_before_first(self, config: "PretrainedConfig") -> int:
        """The position id before that of a row's first token."""
        return int(config.pad_token_id) if self.counts_from_padding else -1

    def max_tokens(self, config: "PretrainedConfig") -> int:
        """Tokens a model can read at once.

        Raises:
            DataError: its config does not say.
        """
        positions = getattr(config, "max_position_embeddings", None)
        if not isinstance(positions, int):
            raise DataError(
                f"the config.json of a {self.model_type} model must say max_position_embeddings, the tokens that it "
                f"reads at once, got {positions!r}; choose an encoder with a limit, such as BERT, Longformer or BigBird"
            )
        return positions - self.position_before_first(config) - 1

    def padding_block(self, config: "PretrainedConfig") -> int | None:
        """Size of the blocks in which HF reads a padded row where an answer depends on their number; None elsewhere."""
        return None

    def dropout_values(
        self, config: "PretrainedConfig", *, hidden: float | None, attention: float | None
    ) -> dict[str, float]:
        """Fields of `config` that set dropout of hidden states and of attention; None leaves the model's own.

        Raises:
            ConfigError: the model has no such dropout.
        """
        values: dict[str, float] = {}
        for fields, value in zip(self.dropout_fields, (hidden, attention), strict=True):
            if value is None:
                continue
            if missing := [field for field in fields if not hasattr(config, field)]:
                raise ConfigError(
                    f"dropout sets {' and '.join(missing)}, which a {self.model_type} model does not have, got "
                    f"{value:g}; leave dropout out to keep the model's own"
                )
            values |= dict.fromkeys(fields, value)
        return values


class PretrainableFamily(Family, ABC):
    """A family that clinscale builds anew and pretrains."""

    sizes: ClassVar[Sizes]
    """Named shapes of new models: fields of the HF config, and `max_tokens`. `tiny` trains in a minute on one core."""

    published: ClassVar[Mapping[str, int]]
    """`vocab_size` and `pad_token_id` of the model that the family is known for."""

    published_names: ClassVar[tuple[str, ...]]
    """Hub names of models that have the shape `base` and the `published` vocabulary."""

    hf_defaults: ClassVar[Mapping[str, Any]] = {}
    """HF's own values of the config's fields that arithmetic reads and that a `config.json` may leave out."""

    converted_fields: ClassVar[Mapping[str, int]] = {}
    """Fields that a model converted from BERT or RoBERTa has besides its source's, with their published values; the
    first divides its `max_tokens`. Empty where nothing converts to the family."""

    drops_probabilities = False
    """Whether clinscale's own attention has to drop probabilities where the config says so; no GPU kernel does."""

    inner_products = 2
    """Matrices between hidden and inner size in each layer; 3 where the activation is gated."""

    hf_kept_scores: tuple[float, float] | None = None
    """Numbers that HF's own attention keeps for each pair that attends and each head, with dropout and without.

    Measured in fp32 on modules of base width and rows of 4,096 tokens (transformers 5.23); None where it keeps none.
    """

    @abstractmethod
    def new_mlm(self, shape: Mapping[str, Any], *, max_tokens: int) -> "PreTrainedModel":
        """A model with random weights and a head of masked-language modelling; `shape` are fields of its config."""

    @abstractmethod
    def own_fields(self, shape: Mapping[str, Any], *, max_tokens: int) -> dict[str, Any]:
        """Fields of a new model's config that follow from `shape` and from the tokens that it reads at once."""

    def described(self, values: Mapping[str, Any]) -> "PretrainedConfig":
        """The config that arithmetic reads, from fields alone: nothing of `transformers` is imported."""
        fields: Any = SimpleNamespace(**{**self.hf_defaults, **values, "model_type": self.model_type})
        return fields  # type: ignore[no-any-return]

    @abstractmethod
    def parameter_shapes(self, config: "PretrainedConfig") -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each parameter of the masked language model, tied ones once.

        Names are those within the encoder, as `is_reached` takes them; those of the head begin with `head.`.
        """

    @abstractmethod
    def mlm_head(self, model: "PreTrainedModel") -> "torch.nn.Module":
        """The module that makes logits out of hidden states."""

    @abstractmethod
    def attended_pairs(self, config: "PretrainedConfig", tokens: int) -> int:
        """Pairs of query and key in a row of `tokens`, summed over the layers."""

    def is_reached(self, name: str, *, has_global_tokens: bool) -> bool:
        """Whether masked-language modelling gives the encoder's parameter `name` a gradient."""
        return True

    def why_not_apart(self, attention: str, *, on_gpu: bool, attention_dropout: float | None) -> str | None:
        """The sentence that says why these settings cannot keep documents that share a row apart; None: they can."""
        return None

    def why_not_causal(self, attention: str, *, on_gpu: bool, attention_dropout: float | None) -> str | None:
        """The sentence that says why these settings cannot read rows under a causal mask; None: they can."""
        return (
            f"recipe.causal needs an attention of clinscale's own, which {self.name} does not have; choose a family of "
            "sparse attention or set recipe.causal=null"
        )

    def look_back(self, model: "PreTrainedModel") -> AbstractContextManager[None]:
        """Let no token that `model` reads see those after it, inside a `with` block.

        Raises:
            ConfigError: the model, as it is set up, cannot.
        """
        raise ConfigError(self.why_not_causal("exact", on_gpu=False, attention_dropout=None))

    @abstractmethod
    def documents_apart(
        self, model: "PreTrainedModel", segment_ids_BL: "torch.Tensor", inputs: Mapping[str, Any]
    ) -> AbstractContextManager[Mapping[str, Any]]:
        """The inputs with which `model` reads each document of a row as if it were alone, and while it does.

        Args:
            model: of this family.
            segment_ids_BL: the document of each token, 0 on padding.
            inputs: of the rows as they are.

        Raises:
            ConfigError: the model, as it is set up, cannot.
        """


class ExactFamily(PretrainableFamily):
    """A family with sparse attention that clinscale computes itself, to HF's numbers."""

    def why_not_apart(self, attention: str, *, on_gpu: bool, attention_dropout: float | None) -> str | None:
        """HF's own sparse attention knows one document for each row."""
        if attention != "exact":
            return (
                f"recipe.documents_apart needs runtime.attention=exact, got {attention}; Hugging Face's own attention "
                "cannot keep notes apart"
            )
        if on_gpu and attention_dropout != 0:
            return (
                f"recipe.documents_apart on GPUs needs recipe.attention_dropout=0, got {attention_dropout}: "
                "FlexAttention, which keeps notes apart there, has no dropout"
            )
        return None

    def why_not_causal(self, attention: str, *, on_gpu: bool, attention_dropout: float | None) -> str | None:
        """HF's own sparse attention sees ahead."""
        if attention != "exact":
            return (
                f"recipe.causal needs runtime.attention=exact, got {attention}; Hugging Face's own attention sees "
                "ahead; set it or recipe.causal=null"
            )
        if on_gpu and attention_dropout != 0:
            return (
                f"recipe.causal on GPUs needs recipe.attention_dropout=0, got {attention_dropout}: FlexAttention, "
                "which computes it there, has no dropout"
            )
        return None

    def look_back(self, model: "PreTrainedModel") -> AbstractContextManager[None]:
        """The exact attention under a causal mask."""
        from clinscale.models.attention.exact import look_back

        return look_back(self.exact_encoder(model))

    @contextlib.contextmanager
    def documents_apart(
        self, model: "PreTrainedModel", segment_ids_BL: "torch.Tensor", inputs: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        """Positions that restart with each document, and no attention across."""
        from clinscale.models.attention.exact import keep_apart

        before_first = self.position_before_first(model.config)
        with keep_apart(self.exact_encoder(model), segment_ids_BL):
            yield {**inputs, "position_ids": restarting_positions(segment_ids_BL, before_first)}

    @abstractmethod
    def exact_encoder(self, model: "PreTrainedModel") -> Any:
        """The module of `model` whose forward pass clinscale replaces; None leaves this model to HF."""

    @abstractmethod
    def bind(self, encoder: Any) -> None:
        """Put clinscale's forward passes in place of HF's."""

    @abstractmethod
    def batch_of(self, encoder: Any, hidden_BLE: "torch.Tensor", code_BL: "torch.Tensor") -> "Batch | None":
        """Attention pattern of a batch, from 0 (masked), 1 (local) and 2 (global) for each token.

        None leaves it to HF.
        """

    def use_hf(self, model: "PreTrainedModel", *, sticky: bool) -> None:
        """Set up HF's own code on a model from which clinscale's forward passes have been taken."""


def linear(name: str, outer: int, inner: int, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameters of a linear layer."""
    yield f"{name}.weight", (outer, inner)
    if bias:
        yield f"{name}.bias", (outer,)


def norm(name: str, size: int, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameters of a layer norm."""
    yield f"{name}.weight", (size,)
    if bias:
        yield f"{name}.bias", (size,)


def bert_shapes(
    config: "PretrainedConfig", *, projections: tuple[str, ...], projection_bias: bool = True
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameters of embeddings, layers and head as BERT has them, whose self-attention has those `projections`."""
    size, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    yield "embeddings.word_embeddings.weight", (vocabulary, size)
    yield "embeddings.position_embeddings.weight", (config.max_position_embeddings, size)
    yield "embeddings.token_type_embeddings.weight", (config.type_vocab_size, size)
    yield from norm("embeddings.LayerNorm", size)
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layer.{number}"
        for part in projections:
            yield from linear(f"{layer}.attention.self.{part}", size, size, bias=projection_bias)
        yield from linear(f"{layer}.attention.output.dense", size, size)
        yield from norm(f"{layer}.attention.output.LayerNorm", size)
        yield from linear(f"{layer}.intermediate.dense", inner, size)
        yield from linear(f"{layer}.output.dense", size, inner)
        yield from norm(f"{layer}.output.LayerNorm", size)
    yield from linear("head.dense", size, size)
    yield from norm("head.norm", size)
    yield "head.decoder.bias", (vocabulary,)


def restarting_positions(segment_ids_BL: "torch.Tensor", before_first: int) -> "torch.Tensor":
    """Position ids (B, L) that restart with each document, as HF numbers a row that holds one document alone."""
    import torch

    at_L = torch.arange(segment_ids_BL.shape[1], device=segment_ids_BL.device)
    is_first_BL = segment_ids_BL.diff(dim=1, prepend=segment_ids_BL[:, :1] - 1) != 0
    positions_BL = at_L - torch.where(is_first_BL, at_L, 0).cummax(dim=1).values
    return torch.where(segment_ids_BL != 0, positions_BL + before_first + 1, max(before_first, 0))


def banded_pairs(tokens: int, one_sided_window: int) -> int:
    """Pairs of a row in which each token sees itself and up to `one_sided_window` tokens on either side."""
    side = min(one_sided_window, tokens)
    return tokens * (2 * side + 1) - side * (side + 1)
