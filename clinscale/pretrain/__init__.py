"""Masked-language pretraining: Ray Train runs DeepSpeed ZeRO over a ShardSet, the result is a base model version."""

from clinscale.pretrain.config import PretrainConfig, PretrainRecipe, PretrainRuntime
from clinscale.pretrain.run import PretrainResult, pretrain, run_config

__all__ = ["PretrainConfig", "PretrainRecipe", "PretrainResult", "PretrainRuntime", "pretrain", "run_config"]
