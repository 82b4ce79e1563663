"""A simulated sweep is run by its own controller: all of its trials, no more at once than there is room for."""

from dataclasses import replace

import pytest

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError
from clinscale.plan import Site, plan_tune, simulate_tune
from clinscale.sweep import SweepConfig, read_inputs

FEW = {"replace_s": 1.0, "start_s": 0.0, "runs": 3}


@pytest.fixture
def sweep(demo_data, base_models, tracking, tmp_path):
    """Makes a sweep with its inputs, and a site without losses."""

    def make(*overrides):
        study = {
            "name": "s",
            "task": "demo_pairs",
            "data": str(demo_data),
            "models": [str(base_models["longformer"])],
        }
        base = {"name": "x", "recipe": {"studies": [study]}, "runtime": {"gpus_per_trial": 1}}
        config = SweepConfig.load(None, overrides, base=base)
        inputs = read_inputs(config, tracking=tracking, home=tmp_path, loads_weights=False)
        t4 = load_hardware().device("t4")
        site = Site(hardware=load_hardware(), device_name="t4", device=t4, preemptions_per_device_day=0.0)
        return config, inputs, site

    return make


def test_without_halving_it_takes_what_is_planned_and_every_start(sweep):
    config, inputs, site = sweep("recipe.budget.trials=4", "recipe.scheduler=none", "recipe.confirm_seeds=2")
    found = simulate_tune(config, inputs, site, at_once=1, **FEW)
    planned = plan_tune(config, inputs, site, devices=1).work
    assert 4 + 2 <= found.trials <= 4 + 3  # the first trial may be the winner or the runner-up
    assert found.mean_hours == pytest.approx(planned.hours, rel=0.35)
    started = simulate_tune(config, inputs, site, at_once=1, **FEW | {"start_s": 36.0})
    assert started.mean_hours == pytest.approx(found.mean_hours + 0.01 * found.trials)
    assert found.device_hours == pytest.approx(found.mean_hours)
    assert (found.losses, found.failed) == (0, 0)


def test_halving_ends_sooner_and_more_devices_sooner_still(sweep):
    whole, inputs, site = sweep("recipe.budget.trials=9", "recipe.scheduler=none")
    halved, _, _ = sweep("recipe.budget.trials=9")
    alone, early, wide = (
        simulate_tune(config, inputs, site, at_once=at_once, **FEW)
        for config, at_once in ((whole, 1), (halved, 1), (halved, 3))
    )
    assert wide.mean_hours < early.mean_hours < alone.mean_hours
    assert wide.mean_hours > early.mean_hours / 3
    assert simulate_tune(halved, inputs, site, at_once=3, **FEW) == wide


def test_lost_devices_cost_time_and_trials_go_on(sweep):
    config, inputs, site = sweep("recipe.budget.trials=6")
    calm, rough = (
        simulate_tune(
            config, inputs, replace(site, preemptions_per_device_day=rate), at_once=2, **FEW | {"replace_s": 60}
        )
        for rate in (0.0, 2e6)
    )
    assert rough.losses > 0
    assert rough.mean_hours > calm.mean_hours
    assert rough.trials == calm.trials


def test_looks_inside_an_epoch_are_refused(sweep):
    config, inputs, site = sweep("recipe.grace=0.5epochs")
    with pytest.raises(ConfigError, match=r"recipe\.grace"):
        simulate_tune(config, inputs, site, at_once=1, **FEW)
