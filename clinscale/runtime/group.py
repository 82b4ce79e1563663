"""The settings of a group of workers, declared once for whatever trains on one."""

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError


def check_gpus(setting: str, gpus: float) -> None:
    """ConfigError for a number of GPUs that Ray gives no process: a part of one is shared, more than one are whole."""
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"{setting} must be a share of one GPU or a whole number of them, got {gpus:g}; write {int(gpus)} or "
            f"{int(gpus) + 1}"
        )


class GroupConfig(Config):
    """A group of workers: how many, what each is given, and how long and how often it is waited for."""

    num_workers: int | tuple[int, int] = 2
    """Ray Train workers, one process each. `[1, 4]` is elastic: what the cluster has, growing and shrinking with it."""

    cpus_per_worker: float = 1
    """CPUs that Ray sets aside for each worker."""

    gpus_per_worker: float = 0
    """1 on a GPU cluster; 0 trains on CPU through gloo."""

    max_failures: int = Field(default=3, ge=0)
    """Restarts of the worker group, each from the last checkpoint, before the run is given up. A memory that is too
    small or another error of ours is an answer, and no restart is spent on it."""

    max_preemption_failures: int = Field(default=100, ge=0)
    """Restarts because a node was taken away, counted apart: they are no fault of the run."""

    start_timeout_s: float = Field(default=600, gt=0)
    """Seconds to wait for workers that the cluster does not have free, e.g. while it scales up; at first and after a
    loss."""

    collective_timeout_s: float = Field(default=1800, gt=0)
    """A worker that does not answer the others for so long counts as failed."""

    @property
    def least_workers(self) -> int:
        """Workers without which nothing starts."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Workers of the group where the cluster has room for all."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    def check(self) -> None:
        """There is a worker, and each is given something to compute with."""
        if not 1 <= self.least_workers <= self.most_workers:
            or_both = "" if isinstance(self.num_workers, int) else ", or [least, most]"
            usual = type(self).model_fields["num_workers"].default
            raise ConfigError(
                f"runtime.num_workers must be at least 1{or_both}, got {self.num_workers}; {usual} is usual"
            )
        if self.cpus_per_worker <= 0:
            raise ConfigError(f"runtime.cpus_per_worker must be above 0, got {self.cpus_per_worker:g}; 1 is usual")
        if self.gpus_per_worker < 0:
            raise ConfigError(
                f"runtime.gpus_per_worker must not be negative, got {self.gpus_per_worker:g}; 0 trains on CPUs"
            )
        check_gpus("runtime.gpus_per_worker", self.gpus_per_worker)

    def check_precision(self, precision: str) -> None:
        """ConfigError for fp16 on workers without a GPU."""
        if precision == "fp16" and not self.gpus_per_worker:
            raise ConfigError(
                "recipe.precision=fp16 needs GPUs, and runtime.gpus_per_worker is 0: a CPU computes fp16 hundreds of "
                "times slower than bf16; use recipe.precision=bf16 or runtime.gpus_per_worker=1"
            )
