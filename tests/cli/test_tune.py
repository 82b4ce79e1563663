"""`clinscale tune` as a person meets it: the forecast before, several studies in one command, Ctrl-C and --resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import forked_ray
import psutil
import pytest
import yaml

from clinscale.cli.tune import _forecast_tables, _Lines, progress_table
from clinscale.errors import ConfigError
from clinscale.promotion import GateRules
from clinscale.sweep import Forecast, SearchForecast
from clinscale.sweep.run import SearchProgress, SweepProgress

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def asked(demo_data, base_models, mlflow_database, tmp_path_factory):
    """Options of a sweep over two tasks, one of which has no data here, and the folder it runs in."""
    folder = tmp_path_factory.mktemp("tune")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    space = {
        "fixed": {"epochs": 2, "dropout": 0.0, "batch_size": 8, "max_tokens": 128},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    options = ["--task", "demo_pairs", "--data", str(demo_data), "--task", "demo_entities", "--data", str(folder)]
    options += ["--model", base_models["longformer"], "--space", str(folder / "space.yaml"), "--home", str(folder)]
    return [*options, "--name", "two", "recipe.budget.trials=3"], folder


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_is_forecast_interrupted_and_gone_on_with(asked, here, forks, monkeypatch):
    """It is interrupted on a Ray of its own; before and after it runs on forks."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options, folder = asked
    dry = here("tune", *options, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    found = json.loads(dry.stdout)
    [study] = found["studies"]
    assert study["space"][0]["key"] == "optimizer.learning_rate"
    assert len(study["suggestions"]) == 10
    assert study["suggestions"][0]["from"] == "first"
    assert found["trials"] == 3
    assert found["trials_at_once"] >= 1
    assert found["gate"]["min_seeds"] == 3
    assert 0 < found["hours"] <= found["device_hours"] < 1
    assert "does not exist" in found["failures"]["demo_entities-longformer"]
    ledger = folder / "sweep" / "two" / "ledger.jsonl"
    assert not ledger.exists(), "a dry run starts nothing"

    command = [sys.executable, "-m", "clinscale", "tune", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    others = {*forked_ray.forks()}
    process = subprocess.Popen(command, env=forked_ray.clean_environment(), start_new_session=True, **pipes)
    while not ledger.exists() or '"epoch"' not in ledger.read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    family = [*psutil.Process(process.pid).children(recursive=True), *({*forked_ray.forks()} - others)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, told = process.communicate(timeout=180)
    assert process.returncode == 130, told
    assert "clinscale tune --resume two" in told
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(family, timeout=90)
    assert not alive

    again = here("tune", "--resume", "two", "--home", folder, "--json")
    assert again.returncode == 1, "one of the two tasks has no data"
    answer = json.loads(again.stdout)
    assert [row["task"] for row in answer["winners"]] == ["demo_pairs"]
    assert list(answer["failures"]) == ["demo_entities-longformer"]
    assert "error: study demo_entities-longformer" in again.stderr
    numbers = [json.loads(line)["number"] for line in ledger.read_text().splitlines() if '"start"' in line]
    assert numbers == [0, 1, 2], "no trial was begun twice"


def test_remarks_on_the_data_are_said_before_anything_starts(here, capfd, base_models, tmp_path, monkeypatch):
    def no_session(address):
        raise ConfigError("the session would start here")

    monkeypatch.setattr("clinscale.runtime.ray_session", no_session)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    files = {"train": "yes", "dev": "no", "test": "yes"}
    for split, label in files.items():
        rows = "".join(f"{split} {number},{('yes', label)[number % 2]}\n" for number in range(9))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    splits = {split: f"{split}.csv" for split in files}
    task = {"name": "t", "kind": "sequence", "format": "records", "splits": splits}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(task))
    options = ["--task", tmp_path / "t.yaml", "--data", tmp_path, "--model", base_models["longformer"]]
    with pytest.raises(ConfigError, match="would start here"):
        here("tune", *options, "--home", tmp_path, "--name", "one", "recipe.budget.trials=2", "--dry-run")
    assert "data of task t: no training example has label 'no'" in capfd.readouterr().err


def test_studies_with_the_same_space_are_shown_once():
    def study(name, rate):
        suggestions = ({"trial": 0, "from": "first", "rate": rate},)
        return SearchForecast(name, ({"key": "rate"},), {"epochs": 3}, suggestions, 1.0, 2.0, 3)

    found = Forecast(
        name="sweep",
        studies=(study("one", 1), study("two", 1), study("three", 2)),
        gate=GateRules(),
        failures={},
        trials_at_once=2,
        trials=3,
        hours=1.0,
        device_hours=2.0,
        usd=None,
    )
    shown = [part if isinstance(part, str) else part.title for part in _forecast_tables(found)]
    assert shown.count("epochs=3") == 2
    assert "one, two: space" in shown
    assert "three: space" in shown
    assert "Limits that a winner must keep to become champion" in shown


def test_a_flat_search_is_told_once_before_the_budget_is_spent(capsys):
    flat = SearchProgress("s", 3, 1, 0, 0, 6, 0.5, 9.0, remark="dev accuracy is flat at 0.5000 over all 3 trials")
    at = SweepProgress((flat,), trials_budget=9, device_seconds_budget=None)
    lines = _Lines(SimpleNamespace(name="x"))
    for _ in range(3):
        lines(at)
    assert capsys.readouterr().err.count("s: dev accuracy is flat") == 1
    assert "s: dev accuracy is flat at 0.5000 over all 3 trials" in progress_table("x", at).renderables


def test_trainings_under_other_seeds_are_shown_when_all_trials_are_begun():
    at = SweepProgress((SearchProgress("s", 3, 1, 0, 0, 6, 0.5, 9.0, confirmations=2),), 3, None)
    assert (
        progress_table("x", at).renderables[0].title.startswith("Sweep x: 3 of 3 trials and 2 under other seeds, ")
    )
