"""One training step, whatever the backend: optimiser, schedule, precision, ZeRO, checkpoint, throughput."""

from clinscale.engine.backend import (
    DeepSpeedEngine,
    Engine,
    TorchEngine,
    generator_states,
    seed_torch,
    set_generator_states,
)
from clinscale.engine.checkpoints import (
    CheckpointStore,
    RetentionConfig,
    fix_torn,
    newest_checkpoint,
    torn_checkpoints,
)
from clinscale.engine.hardware import Device, Hardware, Link, load_hardware
from clinscale.engine.manifest import read_manifest
from clinscale.engine.optim import SMALLEST_FP32, OptimizerConfig
from clinscale.engine.throughput import ThroughputMeter, datasheet_peak_flops, gemm_roof_flops, peak_flops
from clinscale.engine.weights import consolidated_state, load_weights
from clinscale.engine.zero import (
    REDUCE_BUCKET_ELEMENTS,
    SMALL_ELEMENTS,
    MemoryConfig,
    Precision,
    ZeroConfig,
    accelerator,
    describe_precision,
)

__all__ = [
    "REDUCE_BUCKET_ELEMENTS",
    "SMALLEST_FP32",
    "SMALL_ELEMENTS",
    "CheckpointStore",
    "DeepSpeedEngine",
    "Device",
    "Engine",
    "Hardware",
    "Link",
    "MemoryConfig",
    "OptimizerConfig",
    "Precision",
    "RetentionConfig",
    "ThroughputMeter",
    "TorchEngine",
    "ZeroConfig",
    "accelerator",
    "consolidated_state",
    "datasheet_peak_flops",
    "describe_precision",
    "fix_torn",
    "gemm_roof_flops",
    "generator_states",
    "load_hardware",
    "load_weights",
    "newest_checkpoint",
    "peak_flops",
    "read_manifest",
    "seed_torch",
    "set_generator_states",
    "torn_checkpoints",
]
