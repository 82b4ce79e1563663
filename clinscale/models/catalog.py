"""The encoder to pretrain; plain values, no torch."""

from pathlib import Path
from typing import Any

from pydantic import Field

from clinscale.config import Config, nearest
from clinscale.errors import ConfigError, DataError
from clinscale.models.checkpoint import read_config
from clinscale.models.families import FAMILIES, PretrainableFamily, family_named, pretrainable_family


class ModelConfig(Config):
    """The encoder to pretrain: published weights by HF name or folder, or a new one at a named size."""

    family: str = "longformer"
    """`longformer`, `bigbird` or `modernbert`; of a new model. Published weights bring their own."""

    size: str = "base"
    """A named size of a new model: `tiny` for CPU, `base` as published."""

    pretrained: str | None = None
    """HF name or folder to continue from; None starts from random weights at `size`."""

    convert_to: str | None = None
    """`longformer` or `bigbird`: published BERT- or RoBERTa-type weights of 512 tokens first become one of these."""

    max_tokens: int | None = Field(default=None, ge=8)
    """Positions of a new or a converted model; None is the size's own (4,096 for `base`) or 4,096."""

    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the HF config to set on a new or a converted model, e.g. `{attention_window: 256}`."""

    def check(self) -> None:
        """The family and the size are known, and weights that exist already are of one and are not resized."""
        others_become = [name for name, family in FAMILIES.items() if family.converted_fields]
        for key, able in (("family", list(FAMILIES)), ("convert_to", others_become)):
            if (value := getattr(self, key)) is not None and value not in able:
                raise ConfigError(
                    f"model.{key} must be one of {', '.join(able)}, got {value!r}; {nearest(value, able)}"
                )
        sizes = list(FAMILIES[self.family].sizes)
        if self.size not in sizes:
            raise ConfigError(f"model.size: {self.size!r} is not a named size; {nearest(self.size, sizes)}")
        if self.convert_to and not self.pretrained:
            raise ConfigError(
                f"model.convert_to={self.convert_to} needs the weights that it converts; name them by model.pretrained"
            )
        if self.pretrained and not self.convert_to and (self.hf_overrides or self.max_tokens):
            raise ConfigError(
                f"model.pretrained={self.pretrained!r} brings its own shape; drop max_tokens and hf_overrides, or let "
                "it become another by model.convert_to"
            )
        _ = self.family_to_train  # refuses what is not pretrained

    @property
    def family_to_train(self) -> PretrainableFamily:
        """`convert_to`, or that of the folder at `pretrained`; of a new model and of a hub's, not asked here, `family`.

        Raises:
            ConfigError: the folder's is not one that clinscale pretrains.
        """
        if self.convert_to:
            return FAMILIES[self.convert_to]
        stored = _model_type_in(self.pretrained) if self.pretrained else None
        if stored is None:
            return FAMILIES[self.family]
        return pretrainable_family(stored, source=f"model.pretrained={self.pretrained}")


def family_of(model_type: str) -> str:
    """The family's name of an HF `model_type`; unknown types are their own family."""
    return family_named(model_type).name


def _model_type_in(folder: str) -> str | None:
    """Model type in the `config.json` of a local folder.

    None where there is none, which loading will say more plainly.
    """
    try:
        return str(read_config(Path(folder, "config.json"))["model_type"])
    except DataError:
        return None
