"""Many fine-tunings, one winner: search spaces, Ray Tune with Optuna, the choice, the registered version."""

from clinscale.sweep.config import SweepConfig, SweepRecipe, SweepRuntime
from clinscale.sweep.run import SweepResult, sweep
from clinscale.sweep.space import SearchSpace, load_space

__all__ = ["SearchSpace", "SweepConfig", "SweepRecipe", "SweepResult", "SweepRuntime", "load_space", "sweep"]
