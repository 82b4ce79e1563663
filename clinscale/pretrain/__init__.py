"""Masked-language pretraining: Ray Train runs DeepSpeed ZeRO over a ShardSet, the result is a base model version.

config ──run──▶ worker on each rank: masked rows ▶ DeepSpeed step ▶ guard ▶ CheckpointStore
          │            ▲ a group that was killed, preempted or resized starts again from the newest checkpoint
          └─ export ──▶ plain HF folder ──▶ exposure of planted canaries ──▶ registry
"""

from clinscale.pretrain.config import PretrainConfig, PretrainRecipe, PretrainRuntime, recipes
from clinscale.pretrain.guard import SpikeGuardConfig
from clinscale.pretrain.memorisation import FALSE_ALARMS, MEMORISATION_FILE, memorised, p_value
from clinscale.pretrain.run import (
    CHECKPOINTS,
    PretrainResult,
    has_trained,
    pretrain,
    run_config,
    train,
    worker_task,
)
from clinscale.pretrain.verify import Verification, verify_resume
from clinscale.pretrain.worker import WorkerTask, train_worker

__all__ = [
    "CHECKPOINTS",
    "FALSE_ALARMS",
    "MEMORISATION_FILE",
    "PretrainConfig",
    "PretrainRecipe",
    "PretrainResult",
    "PretrainRuntime",
    "SpikeGuardConfig",
    "Verification",
    "WorkerTask",
    "has_trained",
    "memorised",
    "p_value",
    "pretrain",
    "recipes",
    "run_config",
    "train",
    "train_worker",
    "verify_resume",
    "worker_task",
]
