"""Metrics are kept first and delivered later, each once, whoever dies in between."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from clinscale import held, registry
from clinscale.registry import Tag, process, runs


def start(tracking, spool=None, name="base"):
    return registry.resume_or_start_run(
        tracking,
        experiment="clinscale-pretrain",
        name=name,
        kind="pretrain",
        recipe="r",
        tags={Tag.HARDWARE: "2 CPUs"},
        params={},
        spool=spool,
    )


@pytest.fixture
def later(monkeypatch):
    """`later(seconds)`: that time passes for who looks at heartbeats."""
    passed = []

    def wait(seconds):
        passed.append(seconds)
        clocks = {name: lambda read=getattr(time, name): read() + sum(passed) for name in ("time", "monotonic")}
        monkeypatch.setattr(process, "time", SimpleNamespace(**clocks))

    return wait


def points(tracking, run, key="train/loss"):
    """As MLflow stores them, repetitions included."""
    return sorted((point.step, point.value) for point in tracking.client.get_metric_history(run.id, key))


def test_what_is_logged_is_in_the_file_at_once_and_in_mlflow_in_the_end(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        for step in range(5):
            assert run.log({"train/loss": step / 3, "perf/tokens_per_second": 7.0}, step=step)
        lines = [json.loads(line) for line in spool.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(5))
    assert points(tracking, run) == [(step, step / 3) for step in range(5)]
    times = {point.timestamp for point in tracking.client.get_metric_history(run.id, "train/loss")}
    assert times == {line["timestamp_ms"] for line in lines}


def test_a_step_that_is_done_again_keeps_its_first_value_and_time(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        assert run.log({"train/loss": 1.0}, step=1)
        assert not run.log({"train/loss": 2.0}, step=1)
        assert run.log({"train/loss": 3.0, "eval/loss": 4.0}, step=2)
    with start(tracking, spool) as again:  # the driver came back, and the workers with their history
        assert again.id == run.id
        assert not again.log({"train/loss": 1.0}, step=1)
        assert again.log({"train/loss": 5.0, "eval/loss": 4.0}, step=3)
    assert points(tracking, run) == [(1, 1.0), (2, 3.0), (3, 5.0)]
    assert points(tracking, run, "eval/loss") == [(2, 4.0), (3, 4.0)]


def test_a_run_that_goes_on_on_another_machine_repeats_nothing(tracking, tmp_path):
    with start(tracking, tmp_path / "here.jsonl") as run:
        run.log({"train/loss": 1.0}, step=1)
    with start(tracking, tmp_path / "elsewhere.jsonl") as again:
        assert not again.log({"train/loss": 1.0}, step=1)
        assert again.log({"train/loss": 2.0}, step=2)
    assert points(tracking, run) == [(1, 1.0), (2, 2.0)]


def test_a_line_that_a_killed_process_had_begun_is_cut_off(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        run.log({"train/loss": 1.0}, step=1)
    with spool.open("a") as stream:
        stream.write('{"step": 2, "timestamp_ms": 5, "met')
    with start(tracking, spool) as run:
        assert run.log({"train/loss": 2.0}, step=2)
    assert points(tracking, run) == [(1, 1.0), (2, 2.0)]
    assert len(spool.read_text().splitlines()) == 2


FULL_DISK = """
import resource, sys
from pathlib import Path
from clinscale import held, registry
path = Path(sys.argv[2])
spool = registry.spool.Spool(registry.Tracking("http://127.0.0.1:1", None), sys.argv[1], path)
spool.log({"train/loss": 1.0}, 1)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))  # room for a part of the next line
spool.log({"train/loss": 2.0}, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
spool.log({"train/loss": 3.0}, 3)
"""


def test_a_disk_that_was_full_loses_no_step_and_leaves_the_file_readable(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    run = start(tracking)
    subprocess.run([sys.executable, "-c", FULL_DISK, run.id, str(spool)], check=True, capture_output=True)
    with start(tracking, spool):
        assert len(spool.read_text().splitlines()) == 3
    assert points(tracking, run) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_what_only_memory_held_does_not_count_as_delivered_of_the_file(tracking, tmp_path):
    """Else a line that comes to stand there would be taken for delivered by the next process."""
    spool, aside = tmp_path / "metrics.jsonl", tmp_path / "aside"
    with start(tracking, spool) as run:
        run.log({"train/loss": 1.0}, step=1)
        spool.rename(aside)
        spool.mkdir()  # nothing can be written there
        run.log({"train/loss": 2.0}, step=2)
    assert points(tracking, run) == [(1, 1.0), (2, 2.0)]
    assert json.loads((tmp_path / "metrics.jsonl.delivered").read_text())["bytes"] == aside.stat().st_size


def test_metrics_of_a_folder_that_is_away_wait_in_memory_and_are_written_there_at_the_end(tracking, tmp_path):
    folder, server = tmp_path / "run", tmp_path / "server"
    folder.mkdir()
    with held.hold(folder, "the run"):
        with start(tracking, folder / "metrics.jsonl") as run:
            run.log({"train/loss": 1.0}, step=1)
            while not (folder / "metrics.jsonl.delivered").exists():
                time.sleep(0)
            folder.rename(server)
            folder.mkdir()  # the mount point
            assert run.log({"train/loss": 2.0}, step=2)
            folder.rmdir()  # nothing was written there
            server.rename(folder)
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert points(tracking, run) == [(1, 1.0), (2, 2.0)]


def test_a_step_that_mlflow_has_and_the_file_lost_is_not_stored_twice(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        run.log({"train/loss": 1.0}, step=1)
        run.log({"train/loss": 2.0}, step=2)
    spool.write_text(spool.read_text().splitlines(keepends=True)[0])  # a power cut took the last line
    with start(tracking, spool) as again:
        assert not again.log({"train/loss": 2.0}, step=2)
    assert points(tracking, run) == [(1, 1.0), (2, 2.0)]


def test_another_tracking_server_gets_everything(tracking, tmp_path, mlflow_database):
    import shutil

    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        run.log({"train/loss": 1.0}, step=1)
    shutil.copy(mlflow_database, tmp_path / "other.db")
    other = registry.connect(f"sqlite:///{tmp_path / 'other.db'}", home=tmp_path)
    with start(other, spool) as moved:
        moved.log({"train/loss": 2.0}, step=2)
    assert points(other, moved) == [(1, 1.0), (2, 2.0)]


def test_many_metrics_are_delivered_in_pieces(tracking, tmp_path):
    with start(tracking, tmp_path / "metrics.jsonl") as run:
        for step in range(30):
            run.log({f"key/{number}": float(step) for number in range(100)}, step=step)
        run.log({f"one call/{number}": 1.0 for number in range(1001)}, step=30)  # more than MLflow takes at once
    assert len(points(tracking, run, "key/99")) == 30
    assert points(tracking, run, "one call/1000") == [(30, 1.0)]


DRIVER = """
import sys, time
from pathlib import Path
from clinscale import held, registry
from clinscale.registry.spool import Spool
Spool._deliver = lambda self, entries: time.sleep(3600)  # a server that takes for ever
tracking = registry.connect(sys.argv[1])
run = registry.resume_or_start_run(tracking, experiment="clinscale-pretrain", name="base", kind="pretrain", recipe="r",
                                   tags={}, params={}, spool=Path(sys.argv[2]))
for step in range(50):
    run.log({"train/loss": float(step)}, step=step)
print("logged", flush=True)
time.sleep(3600)
"""


@pytest.mark.chaos
def test_a_driver_that_was_killed_is_followed_by_one_that_delivers(tracking, tmp_path):
    spool = tmp_path / "metrics.jsonl"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tracking.uri, str(spool)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout.readline() == "logged\n"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    [orphan] = registry.close_orphans(tracking)
    with start(tracking, spool) as run:
        assert run.id == orphan
        run.log({"train/loss": 50.0}, step=50)
    assert points(tracking, run) == [(step, float(step)) for step in range(51)]


def test_a_run_of_another_host_is_closed_when_its_heart_has_stopped(tracking, later):
    started = {name: start(tracking, name=name) for name in ("old", "young", "silent")}
    ages_s = {"old": 3600, "young": 60}
    for name, run in started.items():
        run.set_tags({Tag.OWNER: "another-host 1 1"})
        if name in ages_s:
            run.set_tags({Tag.ALIVE_AT: f"{time.time() - ages_s[name]:.0f}"})
    assert registry.close_orphans(tracking) == []
    later(600)
    assert registry.close_orphans(tracking) == []
    later(600)
    assert registry.close_orphans(tracking) == [started["old"].id]
    status = {record.name: record.status for record in registry.read_runs(tracking)}
    assert status == {"old": "KILLED", "young": "RUNNING", "silent": "RUNNING"}


def test_a_living_run_of_a_host_whose_clock_is_an_hour_back_is_left_alone(tracking, later):
    run = start(tracking)
    for beat in range(3):
        run.set_tags({Tag.OWNER: "another-host 1 1", Tag.ALIVE_AT: f"{time.time() - 3600 + beat:.0f}"})
        assert registry.close_orphans(tracking) == []
        later(1200)


def test_a_look_of_a_third_host_counts_after_a_day(tracking, later, monkeypatch):
    run = start(tracking)
    run.set_tags({Tag.OWNER: "another-host 1 1", Tag.ALIVE_AT: "1000"})
    with monkeypatch.context() as there:
        there.setattr(process.socket, "gethostname", lambda: "a-pod")
        assert registry.close_orphans(tracking) == []
    later(7200)
    assert registry.close_orphans(tracking) == []
    later(86400)
    assert registry.close_orphans(tracking) == [run.id]


def test_a_resumed_run_without_a_heartbeat_is_left_to_its_own_host(tracking, later):
    start(tracking).end("FAILED")
    run = start(tracking)
    run.set_tags({Tag.OWNER: "another-host 1 1"})
    registry.close_orphans(tracking)
    later(3600)
    assert registry.close_orphans(tracking) == []


def test_a_run_that_was_closed_by_mistake_opens_at_its_next_heartbeat(tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(registry.spool, "HEARTBEAT_S", 0.2)
    with start(tracking, tmp_path / "metrics.jsonl") as run:
        tracking.client.set_terminated(run.id, "KILLED")  # by a host that saw no heartbeat during an outage
        for _ in range(300):
            [record] = registry.read_runs(tracking)
            if record.status == "RUNNING":
                break
            time.sleep(0.1)
        assert record.status == "RUNNING"
    assert registry.read_runs(tracking)[0].status == "FINISHED"


def test_a_run_that_is_resumed_while_orphans_are_sought_stays_open(tracking, monkeypatch, later):
    run = start(tracking)
    run.set_tags({Tag.OWNER: "another-host 1 1", Tag.ALIVE_AT: "1"})
    assert registry.close_orphans(tracking) == []
    later(1200)
    search = runs._search

    def search_then_resume(*arguments):
        found = list(search(*arguments))
        registry.reopen_run(tracking, run.id)
        return iter(found)

    monkeypatch.setattr(runs, "_search", search_then_resume)
    assert registry.close_orphans(tracking) == []
    assert tracking.client.get_run(run.id).info.status == "RUNNING"


def test_an_open_run_says_that_it_is_alive(tracking, tmp_path):
    with start(tracking, tmp_path / "metrics.jsonl") as run:
        run.log({"train/loss": 1.0}, step=1)
    [record] = registry.read_runs(tracking)
    assert abs(time.time() - float(record.tags[Tag.ALIVE_AT])) < 3600
    assert record.tags[Tag.HARDWARE] == "2 CPUs"


def test_a_run_can_be_walked_back_to_its_code(tracking):
    start(tracking).end()
    [record] = registry.read_runs(tracking)
    assert record.tags[Tag.CODE_VERSION] == runs.code_version()
    assert {"torch", "transformers", "deepspeed", "ray"} <= set(
        record.tags[Tag.LIBRARIES].replace(",", "").split()
    )


def test_a_damaged_line_loses_its_own_metrics_alone(tracking, tmp_path, caplog):
    spool = tmp_path / "metrics.jsonl"
    with start(tracking, spool) as run:
        run.log({"train/loss": 1.0}, step=1)
        run.log({"train/loss": 2.0}, step=2)
    first, second = spool.read_text().splitlines()
    damages = ("\0" * 40, "[1]", "{}", '{"step": "x", "timestamp_ms": 1, "metrics": {"a": 1}}', "[" * 5000)
    spool.write_text("\n".join([first, *damages, second, ""]))
    with start(tracking, spool) as run:
        assert not run.log({"train/loss": 2.5}, step=2)
        run.log({"train/loss": 3.0}, step=3)
    assert points(tracking, run) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert "metrics.jsonl line 6 is damaged" in caplog.text
