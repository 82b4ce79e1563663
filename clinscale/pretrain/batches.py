"""The global batch as a schedule: small batches first, then those of the recipe."""

from dataclasses import dataclass

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError


def rows_of_batch(rows_per_step: int | None, tokens_per_step: int | None, row_tokens: int) -> int:
    """A global batch in rows of `row_tokens`; one given in tokens is as many rows as fit, at least one."""
    return max(1, tokens_per_step // row_tokens) if tokens_per_step else rows_per_step or 1


class SmallBatchesConfig(Config):
    """Smaller global batches at the start of a training, in rows or in tokens.

    Rows come in the order in which they come without, each once per epoch, and as many tokens are read; there are more
    steps.
    """

    rows_per_step: int | None = Field(default=None, ge=1)
    """Rows of a small global batch, fewer than the recipe's."""

    tokens_per_step: int | None = Field(default=None, ge=1)
    """The same in tokens, in place of `rows_per_step`."""

    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the training's tokens that comes in small batches."""

    def check(self) -> None:
        """The size is given once."""
        if (self.rows_per_step is None) == (self.tokens_per_step is None):
            raise ConfigError(
                "recipe.small_batches needs either rows_per_step or tokens_per_step, got "
                f"{self.rows_per_step} and {self.tokens_per_step}; small_batches.rows_per_step=6 is enough"
            )


@dataclass(frozen=True)
class BatchSchedule:
    """Rows of each step of a training, a pure function of the step's number."""

    rows: int
    """Global batch in rows, as the last steps have it."""

    small_rows: int
    """Global batch of the first steps."""

    small_share: float
    """Share of the tokens that comes in small batches."""

    @property
    def small_share_of_steps(self) -> float:
        """Share of the steps that have small batches."""
        small, large = self.small_share / self.small_rows, (1 - self.small_share) / self.rows
        return small / (small + large)

    @property
    def mean_rows(self) -> float:
        """Mean global batch over the steps, in rows."""
        if not self.small_share:
            return self.rows
        return 1 / (self.small_share / self.small_rows + (1 - self.small_share) / self.rows)

    def small_steps(self, total_steps: int) -> int:
        """Number of the steps with small batches; however few steps there are, the last one is never small."""
        return min(round(self.small_share_of_steps * total_steps), total_steps - 1)

    def rows_at(self, step: int, total_steps: int) -> int:
        """Global batch of step `step`, numbered from 0, in rows."""
        return self.small_rows if step < self.small_steps(total_steps) else self.rows

    def rows_before(self, step: int, total_steps: int) -> int:
        """Rows that all steps before `step` have read together."""
        small = min(step, self.small_steps(total_steps))
        return small * self.small_rows + (step - small) * self.rows
