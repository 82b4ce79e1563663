"""The guard leaves out what would throw a run off, and nothing else."""

import random

import pytest

from clinscale.errors import ConfigError
from clinscale.pretrain import SpikeGuardConfig
from clinscale.pretrain.guard import SpikeGuard


def healthy(steps):
    """Losses that fall and tremble, as those of a run do."""
    noise = random.Random(0)
    return [2 + 6 * 0.98**step + noise.gauss(0, 0.05) for step in range(steps)]


def test_a_healthy_run_loses_no_step():
    guard = SpikeGuard(SpikeGuardConfig())
    assert not any(guard.is_spike(loss) for loss in healthy(1000))


def test_a_spike_is_found_once_there_is_something_to_compare_it_with():
    guard = SpikeGuard(SpikeGuardConfig())
    assert not guard.is_spike(1e6)
    guard = SpikeGuard(SpikeGuardConfig(), healthy(200))
    assert guard.is_spike(5.0)
    assert not guard.is_spike(0.1), "a loss that falls is no spike"


def test_spikes_do_not_become_the_measure():
    guard = SpikeGuard(SpikeGuardConfig(), healthy(200))
    assert all(guard.is_spike(5.0) for _ in range(200))
    assert 5.0 not in guard.losses


def test_a_guard_goes_on_from_the_losses_of_another():
    losses = healthy(300)
    whole = SpikeGuard(SpikeGuardConfig(window_steps=50))
    for loss in losses[:150]:
        whole.is_spike(loss)
    resumed = SpikeGuard(SpikeGuardConfig(window_steps=50), whole.losses)
    for loss in [*losses[150:], 4.0, 9.0]:
        assert whole.is_spike(loss) == resumed.is_spike(loss)
    assert whole.losses == resumed.losses


def test_without_a_config_nothing_is_a_spike():
    guard = SpikeGuard(None, healthy(200))
    assert not guard.is_spike(1e9)
    assert guard.losses == []


def test_a_loss_that_has_converged_may_tremble():
    guard = SpikeGuard(SpikeGuardConfig(), [1.0] * 100)
    assert not guard.is_spike(1.001)
    assert guard.is_spike(1.1)


def test_settings_that_cannot_judge_are_refused():
    with pytest.raises(ConfigError, match="window_steps >= 16"):
        SpikeGuardConfig(window_steps=3)
