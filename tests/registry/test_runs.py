import json
import math
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from clinscale import registry
from clinscale.errors import ConfigError, RegistryError
from clinscale.registry import Tag
from clinscale.tasks import TaskConfig


def start(tracking, name="first", kind="sweep", parent=None, tags=None, params=None):
    return registry.start_run(
        tracking,
        experiment="clinscale-sweep",
        name=name,
        tags={Tag.KIND: kind, **(tags or {})},
        params=params or {},
        parent=parent,
    )


def status_of(tracking, run):
    return next(record.status for record in registry.read_runs(tracking) if record.id == run.id)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("bad"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_a_run_ends_as_its_block_ends(tracking, error, status):
    run = start(tracking)
    if error is None:
        with run:
            pass
    else:
        with pytest.raises(type(error)), run:
            raise error
    assert status_of(tracking, run) == status


@pytest.mark.parametrize("call", ["create_run", "log_batch"])
def test_ctrl_c_while_a_run_is_made_leaves_none_running(tracking, monkeypatch, call):
    """The server has done what it was asked, and its answer never arrives."""
    held, make = start(tracking), getattr(tracking.client, call)

    def interrupted(*arguments, **options):
        make(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.client, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(tracking, name="second", params={"seed": 1})
    assert {run.name: run.status for run in registry.read_runs(tracking)} == {
        "first": "RUNNING",
        "second": "KILLED",
    }
    assert status_of(tracking, held) == "RUNNING"


def test_a_run_is_read_back_as_it_was_written(tracking):
    parent = start(tracking)
    with start(tracking, "trial-1", "trial", parent.id, params={"optim": {"lr": 1e-4}, "layers": [1, 2]}) as run:
        run.log({"train/loss": 2.0, "eval/demo/f1": 0.25}, step=1)
        run.log({"train/loss": 1.0, "eval/demo/f1": 0.5}, step=2)
        run.set_tags({Tag.TASK: "demo"})

    [record] = registry.read_runs(tracking, parent=parent.id)
    assert (record.id, record.name, record.kind, record.parent) == (run.id, "trial-1", "trial", parent.id)
    assert record.params == {"optim.lr": "0.0001", "layers": "[1, 2]"}
    assert record.metrics == {"train/loss": 1.0, "eval/demo/f1": 0.5}
    assert record.tags[Tag.TASK] == "demo"
    assert record.end_time >= record.start_time
    assert registry.metric_history(tracking, run.id, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert registry.metric_history(tracking, run.id, "train/lost") == []


def test_more_than_one_batch_of_params_and_metrics_arrives(tracking):
    run = start(tracking, params={f"p{number}": number for number in range(250)})
    run.log({f"m{number}": number for number in range(1500)}, step=3)
    [record] = registry.read_runs(tracking)
    assert len(record.params) == 250
    assert len(record.metrics) == 1500


def test_a_long_param_is_cut_rather_than_lost(tracking):
    start(tracking, params={"sources": "x" * 20_000})
    [record] = registry.read_runs(tracking)
    assert record.params["sources"].startswith("x" * 1000)


def test_numbers_that_are_not_finite_survive(tracking):
    run = start(tracking)
    run.log({"train/loss": math.nan}, step=1)
    [(step, value)] = registry.metric_history(tracking, run.id, "train/loss")
    assert step == 1
    assert math.isnan(value)


def test_a_step_replayed_after_a_resume_counts_once(tracking):
    run = start(tracking)
    run.log({"eval/loss": 3.0}, step=10)
    run.log({"eval/loss": 2.5}, step=20)
    time.sleep(0.01)  # MLflow stamps milliseconds
    run.log({"eval/loss": 2.4}, step=20)
    assert registry.metric_history(tracking, run.id, "eval/loss") == [(10, 3.0), (20, 2.4)]


def test_runs_are_found_by_kind_and_name(tracking):
    older, newer, trial = start(tracking), start(tracking), start(tracking, kind="trial")
    assert {record.id for record in registry.read_runs(tracking, kind="sweep")} == {older.id, newer.id}
    assert {record.id for record in registry.read_runs(tracking)} == {older.id, newer.id, trial.id}
    found = registry.find_run(tracking, experiment="clinscale-sweep", name="first", kind="sweep")
    assert found.id == newer.id
    assert registry.find_run(tracking, experiment="clinscale-sweep", name="o'clock", kind="sweep") is None


def test_many_runs_come_in_pages(tracking, monkeypatch):
    search = tracking.client.search_runs
    monkeypatch.setattr(tracking.client, "search_runs", lambda *a, **k: search(*a, **k, max_results=2))
    made = [start(tracking, f"run-{number}").id for number in range(5)]
    assert [record.id for record in registry.read_runs(tracking)] == made


@pytest.mark.parametrize(("recipe", "same"), [("abc", True), ("other", False)])
def test_only_the_same_recipe_resumes_a_run(tracking, recipe, same):
    def resume(recipe, params):
        return registry.resume_or_start_run(
            tracking,
            experiment="clinscale-pretrain",
            name="base",
            kind="pretrain",
            recipe=recipe,
            tags={Tag.SHARDS: "s"},
            params=params,
        )

    with pytest.raises(ValueError), resume("abc", {"workers": 2}) as first:
        raise ValueError
    second = resume(recipe, {"workers": 4})  # a param of a run never changes, so the first start's stay

    assert (second.id == first.id) is same
    assert status_of(tracking, second) == "RUNNING"


ORPHAN = """
import os, sys
from clinscale import registry
tracking = registry.connect(sys.argv[1])
print(registry.start_run(tracking, experiment="e", name="orphan", tags={registry.Tag.KIND: "sweep"}, params={}).id)
sys.stdout.flush()
os._exit(9)
"""


def test_orphans_are_closed_and_living_runs_are_not(tracking):
    mine = start(tracking, "mine")
    elsewhere = start(tracking, "elsewhere")
    elsewhere.set_tags({Tag.OWNER: "another-host 1 0"})
    child = subprocess.run(
        [sys.executable, "-c", ORPHAN, tracking.uri], capture_output=True, text=True, check=False
    )
    assert child.returncode == 9, child.stderr

    assert registry.close_orphans(tracking) == [child.stdout.strip()]
    statuses = {record.name: record.status for record in registry.read_runs(tracking)}
    assert statuses == {"orphan": "KILLED", "mine": "RUNNING", "elsewhere": "RUNNING"}
    assert status_of(tracking, mine) == "RUNNING"


def test_the_run_of_a_living_process_is_its_own_after_the_clock_was_set_back(tracking, monkeypatch):
    run = start(tracking)
    booted, created = psutil.boot_time, psutil.Process.create_time  # both follow the clock
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) - 3600)
    assert registry.orphans(tracking) == []
    run.end()


def test_a_living_process_of_an_older_version_keeps_its_run(tracking):
    run = start(tracking)
    run.set_tags({Tag.OWNER: f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"})
    assert registry.orphans(tracking) == []
    run.end()


def test_a_reused_process_number_is_an_orphan_too(tracking):
    run = start(tracking)
    host, pid, began = next(r.tags[Tag.OWNER] for r in registry.read_runs(tracking)).split()
    started, _, boot = began.partition("@")
    run.set_tags({Tag.OWNER: f"{host} {pid} {float(started) + 1000:.0f}@{boot}"})
    assert registry.close_orphans(tracking) == [run.id]
    assert registry.close_orphans(tracking) == []


@pytest.fixture
def lost_run(monkeypatch):
    """A run whose server has gone away for good."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return registry.Run(registry.Tracking("http://127.0.0.1:1", None), "0" * 32, "lost")


def test_a_lost_server_is_named_to_the_caller(lost_run):
    with pytest.raises(RegistryError, match=r"http://127\.0\.0\.1:1 could not log metrics of run lost"):
        lost_run.log({"train/loss": 1.0}, step=1)


def test_a_lost_server_does_not_hide_the_first_error(lost_run):
    with pytest.raises(ZeroDivisionError) as caught, lost_run:
        raise ZeroDivisionError
    assert "127.0.0.1:1" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "name", ["ward stay", "größe", "日本", "n2c2_2018", "a.b", "group/ward", "30 d: all-cause", "x" * 100]
)
def test_scores_of_every_name_that_a_task_may_have_are_logged(tracking, name):
    task = TaskConfig.parse({**TASK, "name": name}, source="test")
    with registry.start_run(tracking, experiment="clinscale-finetune", name="r", tags={}, params={}) as run:
        run.set_tags({registry.Tag.TASK: task.name})
        run.log_inputs([registry.UsedData(task.name, "0" * 12, "fine-tuning", {})])
        run.log({f"trivial/{task.name}/macro_f1_above_512_tokens": 0.5})


@pytest.mark.parametrize(
    "name",
    [
        "readmission (30 d)",
        "a,b",
        "a%b",
        "a'b",
        "a+b",
        "#1",
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a//b",
        "a/",
        "a\nb",
        "x" * 101,
    ],
)
def test_a_task_name_that_mlflow_would_refuse_after_the_first_epoch_is_refused(name):
    with pytest.raises(ConfigError, match=r"task name .* must be letters, digits, blanks"):
        TaskConfig.parse({**TASK, "name": name}, source="test")


TASK = {
    "kind": "sequence",
    "format": "records",
    "splits": {"all": "s.csv"},
    "split_ratios": (0.6, 0.2, 0.2),
}


def test_settings_under_names_that_mlflow_does_not_take_are_kept(tracking):
    labels = {"Not mentioned?": "no", "Yes (confirmed)": "yes"}
    params = {"task": {"label_map": labels, "columns": {"text": "TEXT"}, "none": {}}, "lr": 0.1}
    run = start(tracking, params=params)
    run.end()
    found = registry.read_run(tracking, run.id).params
    assert json.loads(found.pop("task.label_map")) == labels
    assert found == {"task.columns.text": "TEXT", "task.none": "{}", "lr": "0.1"}
