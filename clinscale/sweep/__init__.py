"""Many fine-tunings, one winner: search spaces, Ray Tune with Optuna, the choice, the registered version."""

from clinscale.sweep.config import SweepConfig, SweepRecipe, SweepRuntime
from clinscale.sweep.record import SweepProgress
from clinscale.sweep.run import SweepInputs, SweepResult, read_inputs, sweep
from clinscale.sweep.space import SearchSpace, load_space

__all__ = [
    "SearchSpace",
    "SweepConfig",
    "SweepInputs",
    "SweepProgress",
    "SweepRecipe",
    "SweepResult",
    "SweepRuntime",
    "load_space",
    "read_inputs",
    "sweep",
]
