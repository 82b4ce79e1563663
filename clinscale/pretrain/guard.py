"""A guard against steps that would throw a long run off its course."""

import statistics
from collections import deque
from collections.abc import Iterable

from clinscale.config import Config
from clinscale.errors import ConfigError

_LEAST_HISTORY = 16
"""Losses before the guard judges: a spread of fewer says little."""


class SpikeGuardConfig(Config):
    """The rule by which a step's update is left out because its loss is far above the last ones."""

    max_z_score: float = 6.0
    """Standard deviations above the mean of the last losses; a lower loss is never a spike."""

    window_steps: int = 128
    """Number of last losses, spikes excluded, that a loss is compared with."""

    def check(self) -> None:
        """Something can be judged."""
        if self.max_z_score <= 0 or self.window_steps < _LEAST_HISTORY:
            raise ConfigError(
                f"spike_guard.max_z_score must be > 0 and window_steps >= {_LEAST_HISTORY}, got {self.max_z_score} "
                f"and {self.window_steps}; 6 and 128 are usual"
            )


class SpikeGuard:
    """Judges each step's loss before its update; its memory is part of the checkpoint."""

    def __init__(self, config: SpikeGuardConfig | None, losses: Iterable[float] = ()) -> None:
        """Go on from the `losses` of an earlier guard; without a config nothing is a spike."""
        self._max_z_score = config.max_z_score if config else None
        self._losses = deque(losses, maxlen=config.window_steps if config else 0)

    @property
    def losses(self) -> list[float]:
        """The losses that the next guard needs to judge as this one would."""
        return list(self._losses)

    def is_spike(self, loss: float) -> bool:
        """Whether the update of a step with this loss must be left out; remembers the loss otherwise."""
        if self._max_z_score is not None and len(self._losses) >= _LEAST_HISTORY:
            mean, deviation = statistics.fmean(self._losses), statistics.stdev(self._losses)
            # a loss that has converged to the last digit must not make each tremor a spike
            if loss - mean > self._max_z_score * max(deviation, 1e-3 * abs(mean)):
                return True
        self._losses.append(loss)
        return False
