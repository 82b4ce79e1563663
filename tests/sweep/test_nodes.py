"""Sweeps over several nodes, and trials of several workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clinscale import registry
from clinscale.registry import Tag
from clinscale.sweep import SweepConfig, sweep
from clinscale.sweep.ledger import Ledger


def settings(demo_data, model, folder, **changes):
    space = {
        "fixed": {"epochs": 3, "dropout": 0.0, "batch_size": 8, "max_tokens": 128},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    study = {"name": "pairs", "task": "demo_pairs", "data": str(demo_data), "models": [model]}
    recipe = {"studies": [{**study, "space": str(folder / "space.yaml")}], **changes.pop("recipe", {})}
    return {"name": "s", "recipe": recipe, **changes}


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_node_that_is_lost_costs_no_trial(demo_data, base_models, tmp_path):
    recipe = {"budget": {"trials": 4}, "scheduler": "none", "sampler": "random"}
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump(settings(demo_data, base_models["longformer"], tmp_path, recipe=recipe))
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    script = Path(__file__).with_name("nodes.py")
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(tmp_path / "sweep.yaml")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["nodes"] == 2, "a node was lost and another came"
    assert seen["most_at_once"] >= 2
    assert seen["free_cpus"] == seen["cpus"] == 2, "nothing holds on to a CPU"
    trials = Ledger(tmp_path / "sweep" / "s" / "ledger.jsonl").trials
    assert [trial.state for trial in trials] == ["complete"] * 4
    assert all([epoch.epoch for epoch in trial.epochs] == [1, 2, 3] for trial in trials)
    runs = registry.read_runs(registry.connect(home=tmp_path), kind="trial")
    assert sorted(run.name for run in runs) == [f"pairs-{trial.id}" for trial in trials]
    assert {run.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_may_be_a_group_under_zero(demo_data, base_models, tracking, tmp_path, ray_cluster):
    recipe = {"budget": {"trials": 1}, "scheduler": "none"}
    runtime = {"workers_per_trial": 2, "cpus_per_trial": 0.9, "zero": {"stage": 2}}
    config = SweepConfig.parse(
        settings(demo_data, base_models["longformer"], tmp_path, recipe=recipe, runtime=runtime), source="test"
    )
    [result] = sweep(config, tracking=tracking, home=tmp_path, cluster=ray_cluster).studies
    [trial] = Ledger(tmp_path / "sweep" / "s" / "ledger.jsonl").trials
    assert trial.state == "complete"
    assert [epoch.epoch for epoch in trial.epochs] == [1, 2, 3]
    assert result.folder.is_dir()
    [run] = registry.read_runs(tracking, kind="trial")
    assert run.tags[Tag.TRIAL_STATE] == "complete"
    assert float(run.tags[Tag.DEVICE_SECONDS]) > 0
