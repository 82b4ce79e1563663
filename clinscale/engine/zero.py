"""What one key of ours means in DeepSpeed's configuration."""

import logging
import os
from types import ModuleType
from typing import Any, Literal

from clinscale.config import Config

Precision = Literal["fp32", "bf16"]
"""Arithmetic of the forward and backward pass; master weights are fp32 in both."""


class ZeroConfig(Config):
    """DeepSpeed ZeRO: what is sharded over the workers (Rajbhandari et al. 2020). Changes speed and memory only."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 nothing, 1 optimizer states, 2 also gradients, 3 also parameters."""


def deepspeed_config(
    zero: ZeroConfig,
    *,
    precision: Precision,
    micro_batch_per_gpu: int,
    gradient_accumulation_steps: int,
    max_grad_norm: float,
) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`; optimiser and schedule are passed as objects."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch_per_gpu,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": {"stage": zero.stage},
        "steps_per_print": 2**31,
    }


def import_deepspeed() -> ModuleType:
    """DeepSpeed without its news; on a machine without a GPU it is told so instead of guessing aloud."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its import sets the level, too
    if not torch.cuda.is_available():
        # else each first start compiles a C++ all-reduce that training never calls; it needs a compiler and minutes,
        # and one that is killed in between leaves a lock in the user's cache on which all later starts wait
        deepspeed.ops.__compatible_ops__ = {}
    module: ModuleType = deepspeed
    return module


def accelerator() -> str:
    """The device that DeepSpeed has chosen here: `cuda` or `cpu`."""
    return str(import_deepspeed().accelerator.get_accelerator().device_name())
