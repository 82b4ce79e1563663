"""What a sweep is."""

from typing import Any

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError
from clinscale.models import Attention


class SweepRecipe(Config):
    """All that changes the numbers."""

    task: str
    """Name in `clinscale tasks`, or a YAML file of your own task."""

    data: str
    """Folder of the task's files; the sweep records the fingerprint of what it read, not the place."""

    task_changes: dict[str, Any] = Field(default_factory=dict)
    """Laid over the task: `recipe.task_changes.unit=line`."""

    max_tokens: int | None = None
    """Window of every trial; None is what the space says, else all that the model reads. 512: the short baseline."""

    models: tuple[str, ...]
    """Folders, registry names or hub names of base models; with more than one, the model is searched too."""

    space: str | None = None
    """YAML file of the search space; None takes `search_spaces/` by task, then by kind."""

    num_trials: int = 16
    """Hyperparameter settings tried in all."""

    grace_epochs: int = 2
    """ASHA stops no trial before this many epochs."""

    reduction_factor: int = 3
    """ASHA continues one trial in this many at each rung."""

    seed: int = 0
    """Of the sampler and of every trial."""

    def check(self) -> None:
        """There is something to try."""
        if self.max_tokens is not None and self.max_tokens < 8:
            raise ConfigError(f"recipe.max_tokens must be at least 8, got {self.max_tokens}")
        if self.num_trials < 1 or not self.models:
            raise ConfigError(
                f"a sweep needs num_trials >= 1 and at least one model, got {self.num_trials} and {len(self.models)}"
            )
        if self.grace_epochs < 1 or self.reduction_factor < 2:
            raise ConfigError(
                "a sweep needs grace_epochs >= 1 and reduction_factor >= 2, got "
                f"{self.grace_epochs} and {self.reduction_factor}"
            )


class SweepRuntime(Config):
    """All that changes only speed, place or cost."""

    cpus_per_trial: float = 1
    """CPUs that Ray sets aside for each trial, and threads that it computes with."""

    gpus_per_trial: float = 0
    """GPUs for each trial; a fraction shares one."""

    max_concurrent_trials: int | None = None
    """Trials at once at most; None is all that the cluster has room for."""

    attention: Attention = "exact"
    """`exact` gives HF's numbers several times faster, and computes no padding; `hf` runs HF's own code."""

    activation_checkpointing: bool = False
    """Keep one activation per layer and compute the rest again: far less memory for a third more time."""

    max_failures: int = 1
    """Restarts of one failing trial."""


class SweepConfig(Config):
    """One sweep under one name."""

    name: str
    """Sweep name; the same name resumes."""

    recipe: SweepRecipe
    """Changes the numbers."""

    register_as: str | None = None
    """Registered model that the winner becomes a version of; None is the task's name."""

    runtime: SweepRuntime = SweepRuntime()
    """Changes speed, place or cost."""
