"""The demo at a reduced size, as a newcomer meets it: interrupted, continued, repeated."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@dataclass
class Ran:
    """How a demo ended."""

    returncode: int
    stdout: str
    stderr: str
    left_behind: list[str]
    runs: dict[str, str]
    """MLflow's runs when it ended, id to status."""

    @property
    def answer(self):
        return json.loads(self.stdout)


def run_demo(folder: Path, *, interrupt_at: str | None = None) -> Ran:
    """`clinscale demo` in a session of its own; Ctrl-C to the whole group in a run after `interrupt_at`."""
    command = [sys.executable, "-m", "clinscale", "demo", "--dir", str(folder), "--json"]
    command += ["--scale", "0.1", "--num-trials", "2"]
    log = folder.with_suffix(".log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True, env=environment()
        )
        family: set[psutil.Process] = set()
        while process.poll() is None:
            family |= (
                set(psutil.Process(process.pid).children(recursive=True)) if process.poll() is None else set()
            )
            if interrupt_at and interrupt_at in log.read_text() and "RUNNING" in runs_of(folder).values():
                os.killpg(process.pid, signal.SIGINT)
                interrupt_at = None
            time.sleep(0.5)
    psutil.wait_procs(family, timeout=20)
    alive = [" ".join(member.cmdline()[:3]) for member in family if member.is_running()]
    stdout = process.stdout.read() if process.stdout else ""
    return Ran(process.returncode, stdout, log.read_text(), alive, runs_of(folder))


def environment() -> dict[str, str]:
    """Without what the other tests have running."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}


def clinscale(*arguments) -> subprocess.CompletedProcess[str]:
    """A verb beside the demo."""
    command = [sys.executable, "-m", "clinscale", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def runs_of(folder: Path) -> dict[str, str]:
    """MLflow's runs, id to status."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return dict(database.execute("select run_uuid, status from runs"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def interrupted(folder):
    return run_demo(folder, interrupt_at="Sweeping demo_documents")


@pytest.fixture(scope="module")
def finished(folder, interrupted):
    return run_demo(folder)


def test_ctrl_c_leaves_no_process_and_no_open_run(interrupted):
    assert interrupted.returncode == 130, interrupted.stderr
    assert "the same command continues" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert interrupted.stdout == ""
    assert interrupted.left_behind == []
    assert set(interrupted.runs.values()) == {"FINISHED", "KILLED"}


def test_the_next_run_finishes_what_was_interrupted(interrupted, finished):
    assert finished.returncode == 0, finished.stderr
    assert finished.left_behind == []
    answer = finished.answer
    assert [base["family"] for base in answer["base_models"]] == ["longformer", "bigbird"]
    assert all(base["perplexity_after"] < base["perplexity_before"] / 2 for base in answer["base_models"])
    assert {winner["kind"] for winner in answer["winners"]} == {"sequence", "pair", "tokens", "spans"}
    assert all(winner["version"] == 1 and winner["trials"] == 2 for winner in answer["winners"])
    assert all(0 <= winner["value"] <= 1 for winner in answer["winners"])
    assert set(answer["long_versus_short"]) == {"task", "metric", "value_4096_or_max", "value_512"}
    assert set(answer["pulled"]["prediction"]) == {"label", "labels", "scores"}
    assert (Path(answer["pulled"]["path"]) / "model.safetensors").exists()
    assert "</html>" in Path(answer["report"]).read_text()
    assert set(interrupted.runs) < set(finished.runs)
    assert set(finished.runs.values()) == {"FINISHED"}, "a run that was interrupted was not continued"


def test_one_more_run_adds_nothing(folder, finished):
    again = run_demo(folder)
    assert again.returncode == 0, again.stderr
    assert set(again.runs) == set(finished.runs)
    assert {key: value for key, value in again.answer.items() if key != "seconds"} == {
        key: value for key, value in finished.answer.items() if key != "seconds"
    }


def test_no_invented_note_is_told(folder, finished):
    """The synthetic notes stand for real ones: none of their sentences may leave the data folder."""
    told = folder.with_suffix(".out")
    told.write_text(finished.stdout)
    places = ["--home", folder, "--skip", folder / "data", "--also", told, "--also", folder.with_suffix(".log")]
    command = ["models", "scan", folder / "data" / "notes", folder / "data" / "documents", "--id-column", "id"]
    scanned = clinscale(*command, *places, "--json")
    answer = json.loads(scanned.stdout)
    assert answer["findings"] == []
    assert scanned.returncode == 0, scanned.stderr
    assert answer["notes"] > 50
    assert answer["notes_too_short"] == 0
    assert answer["files"] > 100
    assert answer["texts"] > 100
    assert answer["unread"] == []

    note = (folder / "data" / "documents" / "train.csv").read_text().split()
    (folder / "planted.log").write_text(" ".join(note[200:208]))
    found = clinscale(*command, *places)
    (folder / "planted.log").unlink()
    assert found.returncode == 1
    assert "planted.log" in found.stdout
    assert note[201] not in found.stdout + found.stderr
