"""One training step, whatever the backend: optimiser, schedule, precision, ZeRO, checkpoint, throughput."""

from clinscale.engine.backend import DeepSpeedEngine, Engine, TorchEngine
from clinscale.engine.checkpoint import consolidated_state
from clinscale.engine.optim import OptimizerConfig
from clinscale.engine.throughput import ThroughputMeter
from clinscale.engine.zero import Precision, ZeroConfig, accelerator

__all__ = [
    "DeepSpeedEngine",
    "Engine",
    "OptimizerConfig",
    "Precision",
    "ThroughputMeter",
    "TorchEngine",
    "ZeroConfig",
    "accelerator",
    "consolidated_state",
]
