"""Sweeps on real Ray Tune, Optuna and MLflow; each costs seconds, so each test asks a lot."""

import math

import pytest
import transformers
import yaml

from clinscale import registry
from clinscale.errors import ClusterError, ConfigError, DataError, RegistryError
from clinscale.registry import Tag
from clinscale.runtime import Cluster
from clinscale.sweep import SweepConfig, read_inputs, sweep
from clinscale.sweep.choose import Keep, Promote

TRIALS = 4


def write_space(folder, **changes):
    values = {
        "fixed": {"epochs": 3, "dropout": 0.0, "batch_size": 8, "max_tokens": 256},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def config(demo_data, base_models, space, *, name="pairs", **changes):
    recipe = {
        "task": "demo_pairs",
        "data": str(demo_data),
        "models": list(base_models.values()),
        "space": space,
        "num_trials": TRIALS,
        "grace_epochs": 1,
    }
    return SweepConfig.parse({"name": name, "recipe": recipe | changes}, source="test")


def trials_of(tracking):
    [parent] = registry.read_runs(tracking, kind="sweep")
    return parent, registry.read_runs(tracking, parent=parent.id)


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked_cpus", "asked_gpus", "slots"),
    [(8, 0, 1, 0, 8), (8, 0, 3, 0, 2), (8, 2, 1, 0.5, 4), (2, 4, 1, 1, 2), (1, 0, 2, 0, 1)],
)
def test_concurrency_is_what_the_cluster_has_room_for(cpus, gpus, asked_cpus, asked_gpus, slots):
    assert Cluster("x", cpus, gpus, 1).slots(cpus=asked_cpus, gpus=asked_gpus) == slots


def test_what_is_missing_is_said_before_a_trial_starts(demo_data, base_models, tracking, tmp_path):
    cluster = Cluster("x", 2, 0, 1)
    space = write_space(tmp_path)
    cases = [
        (config(demo_data / "nowhere", base_models, space), DataError, "does not exist"),
        (config(demo_data, {"x": "no-such-model"}, space), RegistryError, "no model 'no-such-model'"),
        (config(demo_data, base_models, str(tmp_path / "no.yaml")), ConfigError, "does not exist"),
        (config(demo_data, base_models, space, task="demo_pears"), ConfigError, "did you mean demo_pairs"),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            sweep(wrong, tracking=tracking, home=tmp_path, cluster=cluster)
    assert registry.read_runs(tracking) == []


@pytest.mark.ray
def test_a_sweep_ends_as_a_champion_and_its_name_is_kept(demo_data, base_models, tracking, tmp_path, ray_cluster):
    space = write_space(tmp_path)
    settings = config(demo_data, base_models, space)
    seen = []
    result = sweep(settings, tracking=tracking, home=tmp_path, cluster=ray_cluster, on_progress=seen.append)

    parent, trials = trials_of(tracking)
    assert seen[-1].finished == TRIALS
    assert len(trials) == TRIALS
    assert {trial.status for trial in [parent, *trials]} == {"FINISHED"}
    assert all("optimizer.learning_rate" in trial.params for trial in trials)
    assert {trial.params["model"].split("#")[0].rsplit("/", 1)[1] for trial in trials} == {"longformer", "bigbird"}
    values = [value for trial in trials for _, value in history(tracking, trial, "eval/demo_pairs/accuracy")]
    assert parent.metrics["best/objective"] == max(values)
    winner = next(trial for trial in trials if trial.id == parent.tags[Tag.WINNER_RUN])
    assert max(value for _, value in history(tracking, winner, "eval/demo_pairs/accuracy")) == max(values)

    assert isinstance(result.decision, Promote)
    assert result.version.aliases == ("champion",)
    tags = result.version.tags
    assert float(tags[Tag.VALUE]) == result.value == parent.metrics["test/demo_pairs/accuracy"]
    assert tags[Tag.BASE] == winner.params["model"]
    assert tags[Tag.DATA] == parent.tags[Tag.DATA]
    transformers.AutoModelForSequenceClassification.from_pretrained(result.folder)

    again = sweep(settings, tracking=tracking, home=tmp_path, cluster=ray_cluster)
    assert again.version == result.version
    assert isinstance(again.decision, Keep)
    assert len(trials_of(tracking)[1]) == TRIALS
    with pytest.raises(ConfigError, match="num_trials: 4 -> 5"):
        sweep(
            config(demo_data, base_models, space, num_trials=5),
            tracking=tracking,
            home=tmp_path,
            cluster=ray_cluster,
        )


@pytest.mark.ray
def test_a_trial_that_diverges_fails_alone_and_all_failing_is_told_without_text(
    demo_data, base_models, tracking, tmp_path, ray_cluster
):
    dimension = {"type": "categorical", "choices": [1e-3, 0.99]}
    points = [{"optimizer.learning_rate": 1e-3}, {"optimizer.learning_rate": 0.99}]
    fixed = {"epochs": 2, "dropout": 0.0, "batch_size": 8, "max_tokens": 128, "optimizer.max_grad_norm": 1e9}
    space = write_space(
        tmp_path, fixed=fixed, parameters={"optimizer.learning_rate": dimension}, first_trials=points
    )
    one_model = {"longformer": base_models["longformer"]}
    result = sweep(
        config(demo_data, one_model, space, num_trials=2), tracking=tracking, home=tmp_path, cluster=ray_cluster
    )
    assert math.isfinite(result.value)
    assert len(trials_of(tracking)[1]) == 2
    poisoned = {"broken": str(broken_copy(base_models["longformer"], tmp_path / "broken"))}
    with pytest.raises((ConfigError, ClusterError)) as caught:
        sweep(
            config(demo_data, poisoned, space, name="broken", num_trials=2),
            tracking=tracking,
            home=tmp_path,
            cluster=ray_cluster,
        )
    assert "Traceback" not in str(caught.value)
    statuses = {run.status for run in registry.read_runs(tracking)}
    assert "RUNNING" not in statuses
    assert "FAILED" in statuses


def broken_copy(folder, out):
    """A base model whose weights are not numbers."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    model.base_model.embeddings.word_embeddings.weight.data.fill_(float("nan"))
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def history(tracking, record, key):
    return registry.metric_history(tracking, record.id, key)


def test_a_sweep_can_be_cut_to_a_short_window(demo_data, base_models, tracking, tmp_path):
    short = config(demo_data, base_models, write_space(tmp_path), max_tokens=128)
    assert read_inputs(short, tracking=tracking, home=tmp_path).space.recipe("m", {}).max_tokens == 128
    searched = {"max_tokens": {"type": "categorical", "choices": [128, 256]}}
    space = write_space(tmp_path, parameters=searched, fixed={}, first_trials=[])
    with pytest.raises(ConfigError, match="max_tokens is both fixed and searched"):
        read_inputs(config(demo_data, base_models, space, max_tokens=128), tracking=tracking, home=tmp_path)
