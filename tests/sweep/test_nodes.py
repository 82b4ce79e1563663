"""Trials of several workers on Ray; `tests/launch/test_up.py` has a sweep over several nodes."""

import shutil

import pytest
import yaml

from clinscale import registry
from clinscale.registry import Tag
from clinscale.sweep import SweepConfig, sweep
from clinscale.sweep.ledger import Ledger


def settings(demo_data, model, folder):
    space = {
        "fixed": {"epochs": 2, "dropout": 0.0, "batch_size": 8, "max_tokens": 128},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    study = {"name": "pairs", "task": "demo_pairs", "data": str(demo_data), "models": [model]}
    study["space"] = str(folder / "space.yaml")
    runtime = {"workers_per_trial": 2, "cpus_per_trial": 0.9, "zero": {"stage": 2}}
    recipe = {"studies": [study], "budget": {"trials": 1}, "scheduler": "none"}
    return SweepConfig.parse({"name": "s", "recipe": recipe, "runtime": runtime}, source="test")


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_may_be_a_group_under_zero_and_ends_as_on_forks(
    demo_data, base_models, mlflow_database, tmp_path, ray_cluster, fork_workers
):
    """The trial is a process of Ray Tune that has a group of Ray Train's workers inside its placement."""
    config = settings(demo_data, base_models["longformer"], tmp_path)

    def run(home, cluster):
        home.mkdir()
        shutil.copy(mlflow_database, home / "mlflow.db")
        tracking = registry.connect(home=home)
        [result] = sweep(config, tracking=tracking, home=home, cluster=cluster).studies
        assert result.folder.is_dir()
        [trial] = Ledger(home / "sweep" / "s" / "ledger.jsonl").trials
        [one] = registry.read_runs(tracking, kind="trial")
        assert trial.state == one.tags[Tag.TRIAL_STATE] == "complete"
        assert float(one.tags[Tag.DEVICE_SECONDS]) > 0
        return [(epoch.epoch, epoch.objective) for epoch in trial.epochs], result.value

    on_ray = run(tmp_path / "ray", ray_cluster)
    assert [epoch for epoch, _ in on_ray[0]] == [1, 2]
    with fork_workers() as forks:
        assert run(tmp_path / "forks", forks) == on_ray
