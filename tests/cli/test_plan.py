"""`clinscale plan` in the words of its verb."""

import json

import pytest

from clinscale.errors import CapacityError, ConfigError


def test_a_plan_takes_the_verb_s_words_and_answers_in_one_document(here):
    ran = here("plan", "pretrain", "clinical-longformer", "recipe.shards=nowhere", "--gpu", "a100-80gb", "--json")
    found = json.loads(ran.stdout)
    assert found["device"]["name"] == "a100-80gb"
    assert found["fits"] is True
    assert found["plan"]["usd"] is None
    assert found["rows_per_step"] == 18


def test_a_plan_is_readable_without_prices_and_with_them(here):
    words = ["plan", "pretrain", "clinical-bigbird", "--gpu", "h100"]
    assert "no price given" in here(*words).stdout
    shown = here(*words, "--usd-per-hour", "2.5", "--usd-per-spot-hour", "1").stdout
    assert "USD on spot with" in shown
    assert "do not pay" in shown


def test_a_simulation_says_days_with_their_spread_and_the_best_interval(here):
    words = ["plan", "pretrain", "clinical-longformer", "--gpu", "a100-80gb", "--workers", "4", "--simulate"]
    words += ["runtime.num_workers=[1,4]", "--preemptions-per-device-day", "2", "--usd-per-spot-hour", "1"]
    found = json.loads(here(*words, "--json").stdout)["simulation"]
    assert found["fleet"]["least"] == 1
    assert found["best"]["mean_days"] <= found["configured"]["mean_days"]
    assert found["configured"]["low_days"] < found["configured"]["high_days"]
    assert found["usd_spot"] == pytest.approx(found["configured"]["device_hours"])
    assert "Young and Daly: a checkpoint every" in here(*words).stdout


def test_a_cpu_run_is_planned_without_naming_hardware(here):
    ran = here("plan", "pretrain", "name=x", "recipe.shards=nowhere", "recipe.model.size=tiny", "--json")
    assert json.loads(ran.stdout)["device"]["name"] == "cpu"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "h10"], "did you mean h100"),
        (["--link", "infiniband"], "infiniband-ndr"),
        (["--gpu", "v100", "--probe"], "--probe measures this machine, got --gpu v100"),
        (["recipe.modl.size=tiny"], "modl"),
        (["recipe.row_tokens=5000"], "got 5000"),
        (["--usd-per-hour", "inf"], "--usd-per-hour must be a finite number, got inf"),
        (["--usd-per-spot-hour", "inf"], "--usd-per-spot-hour must be a finite number"),
        (["--preemptions-per-device-day", "1e400"], "--preemptions-per-device-day must be a finite number"),
        (["--replacement-minutes", "inf"], "--replacement-minutes must be a finite number"),
    ],
)
def test_wrong_words_are_answered_with_what_is_known(here, words, said):
    with pytest.raises(ConfigError, match=said):
        here("plan", "pretrain", "clinical-longformer", *words)


@pytest.mark.parametrize("verb", [(), ("verify-resume",)])
def test_what_cannot_fit_is_refused_before_ray_starts(here, tmp_path, verb):
    huge = "recipe.model.hf_overrides={hidden_size: 8192, num_hidden_layers: 48, intermediate_size: 32768}"
    with pytest.raises(CapacityError, match="run big: one row of 4096 tokens must fit"):
        here("pretrain", *verb, "name=big", "recipe.shards=nowhere", huge, "--home", tmp_path / "home")
    assert not list(tmp_path.glob("home/pretrain"))


def test_a_sweep_is_planned_by_the_words_of_tune(here, demo_data, base_models, tracking, tmp_path):
    words = ["--task", "demo_pairs", "--data", demo_data, "--model", base_models["longformer"]]
    words += ["runtime.gpus_per_trial=1", "recipe.budget.trials=4", "--home", tmp_path]
    found = json.loads(here("plan", "tune", *words, "--gpu", "h100", "--usd-per-hour", "3", "--json").stdout)
    assert found["trials"] == 4
    assert found["usd"] == pytest.approx(3 * found["device_hours"])
    shown = here("plan", "tune", *words, "--devices", "2", "--simulate").stdout
    assert "Simulated by the sweep's own policy" in shown
    assert "4 trials, 2 at once" in shown
    assert "no price given" in shown
    with pytest.raises(ConfigError, match="did you mean h100"):
        here("plan", "tune", *words, "--gpu", "h10")
