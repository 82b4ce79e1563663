"""DeepSpeed's configuration for one key of ours."""

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

from clinscale.config import Config
from clinscale.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of the forward and backward pass; master weights are fp32 in all. `fp16` scales the loss, on GPUs only."""


def describe_precision(precision: Precision, stored: str = "") -> str:
    """The precision of a run, for people: `fp32 weights, bf16 arithmetic`; `stored` is its checkpoint's format."""
    return f"fp32 weights, {precision} arithmetic" + (f", from a checkpoint in {stored}" if stored else "")


Place = Literal["none", "cpu", "nvme"]
"""The place of a part of a rank's state: on its device, in the host's memory, or on a disk of the host."""


class ZeroConfig(Config):
    """DeepSpeed ZeRO: what is sharded over the workers (Rajbhandari et al. 2020). Changes speed and memory only."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 nothing, 1 optimizer states, 2 also gradients, 3 also parameters."""

    offload_optimizer: Place = "none"
    """Master weights, moments and the update itself; `cpu` from stage 1, `nvme` at stage 3."""

    offload_param: Place = "none"
    """Weights that are not being computed with; at stage 3 only."""

    nvme_path: str | None = None
    """Folder on a fast local disk of each node, for `nvme`."""

    def check(self) -> None:
        """Offload needs its stage and its place."""
        if self.offload_optimizer != "none" and self.stage == 0:
            raise ConfigError("zero.offload_optimizer needs zero.stage 1, 2 or 3, got 0; 2 is usual")
        if self.stage < 3 and (self.offload_param != "none" or self.offload_optimizer == "nvme"):
            raise ConfigError(
                f"zero.offload_param and offload to nvme need zero.stage 3, got {self.stage}; set zero.stage=3, or "
                "offload_optimizer=cpu alone"
            )
        if "nvme" in (self.offload_optimizer, self.offload_param) and not self.nvme_path:
            raise ConfigError(
                "zero.nvme_path is not set, and offload to nvme needs it: name a folder on a local disk of each node"
            )


class MemoryConfig(Config):
    """A model's memory on each worker: what is shared out, and what is computed again. Changes no number."""

    zero: ZeroConfig = ZeroConfig()
    """The parts that DeepSpeed shards over several workers. At stage 3 no worker holds the whole model, and in
    fine-tuning all of them evaluate every example; below it each evaluates its share."""

    activation_checkpointing: bool = False
    """Keep one activation per layer and compute the rest again: far less memory for a third more time."""


REDUCE_BUCKET_ELEMENTS = 2**24
"""Gradients that are reduced at once; ZeRO-3 keeps a buffer of this size, and DeepSpeed's default would be 2 GB."""

SMALL_ELEMENTS = 100_000
"""Size up to which gathering a parameter in each step is not worth it.

DeepSpeed's `stage3_param_persistence_threshold`.
"""


def deepspeed_config(
    zero: ZeroConfig,
    *,
    precision: Precision,
    micro_batch_per_gpu: int,
    gradient_accumulation_steps: int,
    max_grad_norm: float,
) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`; optimiser and schedule are passed as objects."""
    sharding: dict[str, Any] = {"stage": zero.stage, "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS}
    for key in ("offload_optimizer", "offload_param"):
        if (place := getattr(zero, key)) != "none":
            sharding[key] = {"device": place, "nvme_path": zero.nvme_path, "pin_memory": accelerator() != "cpu"}
    return {
        "train_micro_batch_size_per_gpu": micro_batch_per_gpu,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": sharding,
        "zero_force_ds_cpu_optimizer": False,  # its C++ optimizer needs a compiler on every node; torch's is fused, too
        "steps_per_print": 2**31,
    }


def check_offload(zero: ZeroConfig) -> None:
    """ConfigError where `zero` wants disks that DeepSpeed cannot use here: it compiles its I/O at the first use."""
    if "nvme" not in (zero.offload_optimizer, zero.offload_param):
        return
    import_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    builder = AsyncIOBuilder()
    try:
        # `load` asks this, too, but for minutes compiles something else before
        if not builder.is_compatible(verbose=False):
            raise RuntimeError("libaio is not installed")
        builder.load(verbose=False)
    except Exception as error:  # compilers fail in many ways
        raise ConfigError(
            f"zero.offload_* to nvme does not work on {platform.node()}: DeepSpeed cannot build its disk access "
            f"({type(error).__name__}); install libaio-dev, g++ and ninja on each node, or offload to cpu"
        ) from error


def import_deepspeed() -> ModuleType:
    """DeepSpeed without its news; on a machine without a GPU it gets that setting instead of logging its guess."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # its autotuner, unused here, would load all of MLflow: seconds of each worker's start
    with _not_installed("mlflow"):
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its import sets the level, too
    if not torch.cuda.is_available():
        # else each first start compiles a C++ all-reduce that training never calls; it needs a compiler and minutes,
        # and one that is killed in between leaves a lock in the user's cache on which all later starts wait
        deepspeed.ops.__compatible_ops__ = {}
    if "deepspeed.runtime.zero.muon.original_muon" not in sys.modules:
        _import_muon_uncompiled()
    module: ModuleType = deepspeed
    return module


def _import_muon_uncompiled() -> None:
    """DeepSpeed's Muon, which every ZeRO imports and nobody here uses: compiled, it loads torch's compiler: 2.5 s."""
    from deepspeed.runtime import compiler

    compile_, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile_


@contextlib.contextmanager
def _not_installed(name: str) -> Iterator[None]:
    """Inside, a package that nobody has imported yet cannot be imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def accelerator() -> str:
    """The device that DeepSpeed has chosen here: `cuda` or `cpu`."""
    return str(import_deepspeed().accelerator.get_accelerator().device_name())
