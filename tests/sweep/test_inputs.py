"""What a sweep finds out before it starts anything."""

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from clinscale.errors import ConfigError, DataError
from clinscale.runfolder import claim_run_folder
from clinscale.sweep import SweepConfig, check_start, read_inputs
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


def test_one_base_under_two_spellings_is_no_choice_of_two(config, base_models, tracking, tmp_path):
    base = base_models["longformer"]
    for other in (f"{base}/.", shutil.copytree(base, tmp_path / "copied")):
        sweep = config("pairs", models=[str(base), str(other)])
        with pytest.raises(ConfigError, match=r"models must differ, but .* are the same files; leave out one"):
            read_inputs(sweep, tracking=tracking, home=tmp_path)


def test_a_task_that_is_called_as_another_kind_has_the_space_of_its_own(config, tracking, tmp_path):
    [called], [own] = (
        read_inputs(config(name), tracking=tracking, home=tmp_path).studies for name in ("tokens", "mine")
    )
    assert called.space == own.space


@pytest.mark.parametrize(
    ("runtime", "device"), [({}, "cpu"), ({"gpus_per_trial": 0.5}, None), ({"workers_per_trial": 2}, None)]
)
def test_a_trial_that_asks_for_no_gpu_takes_none(runtime, device):
    assert SweepRuntime.parse(runtime, source="test").finetune.device == device


def space_file(folder, parameters, **fixed):
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"fixed": {"epochs": 2, "batch_size": 8, **fixed}, "parameters": parameters}))
    return str(path)


RATE = {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}}


@pytest.mark.parametrize(
    ("parameters", "fixed", "message"),
    [
        (
            {"max_tokens": {"type": "categorical", "choices": [64, 5000]}},
            {},
            "max_tokens=5000 would fail: .* 1024",
        ),
        (
            RATE,
            {"max_tokens": 5000},
            "longformer.* would fail: recipe.max_tokens must be at most the model's 1024",
        ),
        (
            {"precision": {"type": "categorical", "choices": ["fp32", "fp16"]}},
            {},
            "precision='fp16' would fail: .*gpus_per_trial is 0",
        ),
    ],
)
def test_a_value_with_which_every_trial_would_fail_is_told_before_any_starts(
    parameters, fixed, message, config, tracking, tmp_path
):
    with pytest.raises(ConfigError, match=f"study study: every trial of .*{message}"):
        read_inputs(
            config("pairs", space=space_file(tmp_path, parameters, **fixed)), tracking=tracking, home=tmp_path
        )


class TestWarmUp:
    STEPS = "optimizer.warmup_steps"

    def read(self, config, tracking, tmp_path, parameters, **fixed):
        made = config("pairs", space=space_file(tmp_path, parameters, **fixed))
        return read_inputs(made, tracking=tracking, home=tmp_path).studies[0]

    def test_longer_than_the_shortest_training(self, config, tracking, tmp_path):
        steps = {"type": "int", "low": 0, "high": 10_000}
        with pytest.raises(
            ConfigError,
            match=r"warmup_steps is a whole number from 0 to 10000, and the \d+ training windows of .* make short "
            r"trainings with batch_size=8 and epochs=2: .* at most \d+ in a training of \d+ steps",
        ):
            self.read(config, tracking, tmp_path, {self.STEPS: steps})
        with pytest.raises(ConfigError, match=r"warmup_steps is 10000, and the"):
            self.read(config, tracking, tmp_path, RATE, **{self.STEPS: 10_000})

    def test_only_of_the_largest_batch(self, config, tracking, tmp_path):
        """The limit is that of the run itself: one step of training is left."""
        batch = {"type": "categorical", "choices": [2, 8]}
        windows = len(self.read(config, tracking, tmp_path, RATE).data.splits["train"])
        most = 2 * -(-windows // 8) - 1
        for high in (most, most + 1):
            parameters = {"batch_size": batch, self.STEPS: {"type": "int", "low": 1, "high": high}}
            space = tmp_path / "space.yaml"
            space.write_text(yaml.safe_dump({"fixed": {"epochs": 2}, "parameters": parameters}))
            made = config("pairs", space=str(space))
            if high == most:
                assert read_inputs(made, tracking=tracking, home=tmp_path).studies
                continue
            with pytest.raises(
                ConfigError, match=rf"batch_size=8 .* at most {most} in a training of {most + 1} steps"
            ):
                read_inputs(made, tracking=tracking, home=tmp_path)

    def test_a_condition_keeps_it_from_short_trainings(self, config, tracking, tmp_path):
        steps = {"type": "int", "low": 1, "high": 40, "when": {"epochs": [50]}}
        parameters = {"epochs": {"type": "categorical", "choices": [1, 50]}, self.STEPS: steps}
        space = tmp_path / "space.yaml"
        space.write_text(yaml.safe_dump({"fixed": {"batch_size": 8}, "parameters": parameters}))
        assert read_inputs(config("pairs", space=str(space)), tracking=tracking, home=tmp_path).studies


def test_a_grid_over_a_range_without_end_is_told_before_ray_starts(config, tracking, tmp_path):
    made = config("pairs", space=space_file(tmp_path, RATE))
    made = made.model_copy(update={"recipe": made.recipe.model_copy(update={"sampler": "grid"})})
    with pytest.raises(ConfigError, match="no grid holds them"):
        read_inputs(made, tracking=tracking, home=tmp_path)


def test_a_dry_run_refuses_what_the_run_refuses_and_writes_nothing(config, tracking, tmp_path, monkeypatch):
    made = config("pairs", space=space_file(tmp_path, RATE))
    home = tmp_path / "home"
    inputs = read_inputs(made, tracking=tracking, home=home)
    check_start(made, inputs, home=home)
    assert not (home / "sweep").exists()
    claim_run_folder(home, "sweep", "sweep", {"other": "recipe"})
    with pytest.raises(ConfigError, match=r"sweep run 'sweep' exists in .* with another recipe"):
        check_start(made, inputs, home=home)
    monkeypatch.setattr(forecast, "device_seconds_per_epoch", lambda config, study: 1800.0)
    budget = made.recipe.budget.model_copy(update={"device_hours": 0.9})
    poor = made.model_copy(update={"recipe": made.recipe.model_copy(update={"budget": budget})})
    with pytest.raises(
        ConfigError, match=r"the budget of 0\.9 device-hours is below one trial of study, .* about 1;"
    ):
        forecast.forecast(poor, inputs, cluster=SimpleNamespace(slots=lambda cpus, gpus: 2))
