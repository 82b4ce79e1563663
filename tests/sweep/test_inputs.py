"""What a sweep finds out before it starts anything."""

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from clinscale.errors import ConfigError, DataError
from clinscale.sweep import SweepConfig, read_inputs
from clinscale.sweep.config import SweepRuntime

forecast = importlib.import_module("clinscale.sweep.forecast")  # the room has a function of that name


@pytest.fixture
def config(demo_data, base_models, tmp_path):
    """Makes a sweep of one study whose task has the given name."""

    def make(task_name, model=base_models["longformer"], **study):
        task = tmp_path / "task.yaml"
        task.write_text(yaml.safe_dump({"extends": "demo_pairs", "name": task_name}, allow_unicode=True))
        values = {"name": "study", "task": str(task), "data": str(demo_data), "models": [str(model)], **study}
        return SweepConfig.parse({"name": "sweep", "recipe": {"studies": [values]}}, source="test")

    return make


@pytest.mark.parametrize("name", ["ward stay", "größe", "a:b"])
def test_a_task_whose_winner_could_not_be_registered_needs_another_name_for_it(name, config, tracking, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"study study: the registered model of its winner .* must be a plain word.*--register-as",
    ):
        read_inputs(config(name), tracking=tracking, home=tmp_path)
    assert read_inputs(config(name, register_as="ward_stay"), tracking=tracking, home=tmp_path).studies


@pytest.mark.parametrize("name", ["ward stay", "größe", "", "a/b", "x" * 201])
def test_a_name_of_the_registry_is_checked_with_the_config(name, config):
    with pytest.raises(ConfigError, match=r"study study: register_as .* must be a plain word"):
        config("pairs", register_as=name)


@pytest.mark.parametrize(
    ("resources", "threads", "devices"),
    [
        ({"cpus_per_trial": 2}, 2, 2),
        ({"cpus_per_trial": 0.5}, 1, 0.5),
        ({"cpus_per_trial": 4, "gpus_per_trial": 0.5}, 4, 0.5),
        ({"cpus_per_trial": 2, "workers_per_trial": 3, "zero": {"stage": 3}}, 2, 2),
    ],
)
def test_an_epoch_is_timed_with_the_resources_of_a_trial_and_counted_in_its_devices(
    resources, threads, devices, config, demo_data, base_models, tracking, tmp_path, monkeypatch
):
    def timed(recipe, data, *, runtime):
        """Ten seconds, for whatever would have been trained."""
        import torch

        timed_with.append((recipe.model, data.task.name, runtime.num_workers, torch.get_num_threads()))
        return 10.0

    def here(what, function, *arguments, cpus, gpus):
        asked.append((cpus, gpus))
        return function(*arguments)

    timed_with, asked = [], []
    monkeypatch.setattr(forecast, "seconds_per_epoch", timed)
    monkeypatch.setattr(forecast, "run_once", here)
    made = config("pairs")
    made = made.model_copy(update={"runtime": SweepRuntime.parse(resources, source="test")})
    inputs = read_inputs(made, tracking=tracking, home=tmp_path)
    import torch

    before = torch.get_num_threads()
    try:
        found = forecast.device_seconds_per_epoch(made, inputs.studies[0])
    finally:
        torch.set_num_threads(before)
    assert found == 10.0 * devices
    assert timed_with == [(inputs.studies[0].bases[0].path, "pairs", 1, threads)]
    assert asked == [(resources["cpus_per_trial"], resources.get("gpus_per_trial", 0))]


def test_a_forecast_has_the_keys_that_scripts_read_from_its_json(config, tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "device_seconds_per_epoch", lambda config, study: 10.004)
    made = config("pairs")
    inputs = read_inputs(made, tracking=tracking, home=tmp_path)
    found = forecast.forecast(made, inputs, cluster=SimpleNamespace(slots=lambda cpus, gpus: 2)).plain()
    keys = ["name", "studies", "expected", "gate", "failures"]
    assert list(found) == [*keys, "trials_at_once", "trials", "device_hours", "hours", "usd"]
    assert list(found["studies"][0]) == ["name", "space", "fixed", "suggestions"]
    assert list(found["studies"][0]["suggestions"][0])[:2] == ["trial", "from"]
    [row] = found["expected"]
    assert list(row) == ["study", "device-seconds per epoch", "epochs of a trial", "of at most"]
    assert row["device-seconds per epoch"] == 10.0
    assert found["hours"] == found["device_hours"] / 2
    json.dumps(found)


def test_a_probe_of_the_first_setting_corrects_what_is_planned_for_all(config, tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "device_seconds_per_epoch", lambda config, study: 30.0)
    made = config("pairs")
    inputs = read_inputs(made, tracking=tracking, home=tmp_path)
    cluster = SimpleNamespace(slots=lambda cpus, gpus: 2)
    # the first is planned at 10 s, the others at 20
    found = forecast.forecast(
        made, inputs, cluster=cluster, planned=lambda study, points: [10.0] + [20.0] * (len(points) - 1)
    )
    [row] = found.plain()["expected"]
    assert row["measured over planned"] == 3.0
    assert row["device-seconds per epoch"] == pytest.approx(3 * (10 + 9 * 20) / 10)
    unknown = forecast.forecast(made, inputs, cluster=cluster, planned=lambda study, points: None)
    assert unknown.studies[0].device_seconds_per_epoch == 30.0


@pytest.mark.parametrize("name", ["", " ", "..", ".hidden", "a/b", "../a", "a\nb", "ä" * 101])
def test_a_study_that_could_be_no_folder_is_refused(name, config):
    with pytest.raises(ConfigError, match="study name"):
        config("pairs", name=name)


def test_a_base_that_no_trial_could_load_is_told_before_any_starts(config, base_models, tracking, tmp_path):
    base = shutil.copytree(base_models["longformer"], tmp_path / "base")
    values = json.loads(Path(base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(values | {"vocab_size": values["vocab_size"] + 8}))
    with pytest.raises(DataError, match=r"has 1 of another shape .*word_embeddings"):
        read_inputs(config("pairs", base), tracking=tracking, home=tmp_path)


@pytest.mark.parametrize(
    ("runtime", "device"), [({}, "cpu"), ({"gpus_per_trial": 0.5}, None), ({"workers_per_trial": 2}, None)]
)
def test_a_trial_that_asks_for_no_gpu_takes_none(runtime, device):
    assert SweepRuntime.parse(runtime, source="test").finetune.device == device
