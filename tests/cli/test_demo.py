"""The demo at a reduced size, as a newcomer meets it: interrupted on a Ray of its own, continued on forks, repeated."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import forked_ray
import psutil
import pytest

from clinscale import interrupts
from clinscale.cli.main import app
from clinscale.cli.output import keep_stdout_clean

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@dataclass
class Ran:
    """How a demo ended."""

    returncode: int
    stdout: str
    stderr: str
    runs: dict[str, str]
    """MLflow's runs when it ended, id to status."""
    left_behind: list[str] = field(default_factory=list)

    @property
    def answer(self):
        return json.loads(self.stdout)


def demo(folder: Path) -> list[str]:
    """The command, on as little data as shows the whole flow."""
    return ["demo", "--dir", str(folder), "--json", "--scale", "0.03", "--num-trials", "2"]


def interrupt_demo(folder: Path) -> Ran:
    """A demo in a session of its own; Ctrl-C to the whole group when one trial of its sweep has ended and one runs."""
    command = [sys.executable, "-m", "clinscale", *demo(folder)]
    log = folder.with_suffix(".log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env=forked_ray.clean_environment(),
        )
        family: set[psutil.Process] = set()
        others = set(forked_ray.forks())
        interrupted = False
        while process.poll() is None:
            family |= set(forked_ray.forks()) - others
            if process.poll() is None:
                family |= set(psutil.Process(process.pid).children(recursive=True))
            if not interrupted and "Sweeping" in log.read_text() and {"FINISHED", "RUNNING"} <= trials_of(folder):
                os.killpg(process.pid, signal.SIGINT)
                interrupted = True
            time.sleep(0.5)
    psutil.wait_procs(family, timeout=20)
    alive = [" ".join(member.cmdline()[:3]) for member in family if member.is_running()]
    stdout = process.stdout.read() if process.stdout else ""
    return Ran(process.returncode, stdout, log.read_text(), runs_of(folder), alive)


def run_demo_here(folder: Path) -> Ran:
    """A demo in this process, which has everything imported; as the fixture `here`, but for a whole module."""
    paths = [folder.with_suffix(suffix) for suffix in (".out", ".log")]
    with contextlib.ExitStack() as stack:
        out, log = (stack.enter_context(path.open("a")) for path in paths)
        stack.enter_context(contextlib.redirect_stderr(log))
        for number, told in ((1, out), (2, log)):
            stack.callback(os.dup2, os.dup(number), number)
            os.dup2(told.fileno(), number)
        stack.enter_context(keep_stdout_clean())
        code = app(demo(folder), standalone_mode=False)
    return Ran(code or 0, *(path.read_text() for path in paths), runs_of(folder))


def runs_of(folder: Path) -> dict[str, str]:
    """MLflow's runs, id to status."""
    return dict(ask(folder, "select run_uuid, status from runs"))


def trials_of(folder: Path) -> set[str]:
    """The states of the sweep's trials."""
    kind = "key = 'clinscale.kind' and value = 'trial'"
    return {status for (status,) in ask(folder, f"select status from runs natural join tags where {kind}")}


def ask(folder: Path, query: str) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as database:
        return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def interrupted(folder):
    """In the middle of the sweep: less is left to the next."""
    return interrupt_demo(folder)


@pytest.fixture(scope="module")
def finished(folder, interrupted, fork_workers):
    with fork_workers():
        return run_demo_here(folder)


def test_ctrl_c_leaves_no_process_and_no_open_run(interrupted):
    assert interrupted.returncode == 130, interrupted.stderr
    assert interrupts.GO_ON in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert interrupted.stdout == ""
    assert interrupted.left_behind == []
    assert set(interrupted.runs.values()) == {"FINISHED", "KILLED"}


def test_the_next_run_finishes_what_was_interrupted(interrupted, finished):
    assert finished.returncode == 0, finished.stderr
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


def test_one_more_run_adds_nothing(folder, finished, here, forks):
    again = here(*demo(folder))
    assert again.returncode == 0, again.stderr
    assert runs_of(folder) == finished.runs
    assert json.loads(again.stdout) | {"seconds": 0} == finished.answer | {"seconds": 0}


def test_no_invented_note_is_told(folder, finished, here):
    """The synthetic notes stand for real ones: none of their sentences may leave the data folder.

    One is planted beside what the demo wrote, and is all that is found.
    """
    note = (folder / "data" / "documents" / "train.csv").read_text().split()
    (folder / "planted.log").write_text(" ".join(note[200:208]))
    told = folder.with_suffix(".out")
    places = ["--home", folder, "--skip", folder / "data", "--also", told, "--also", folder.with_suffix(".log")]
    command = ["models", "scan", folder / "data" / "notes", folder / "data" / "documents", "--id-column", "id"]
    scanned = here(*command, *places, "--json")
    (folder / "planted.log").unlink()
    answer = json.loads(scanned.stdout)
    assert {Path(finding["place"]).name for finding in answer["findings"]} == {"planted.log"}
    assert scanned.returncode == 1, scanned.stderr
    assert note[201] not in scanned.stdout + scanned.stderr
    assert answer["notes"] > 25
    assert answer["notes_too_short"] == 0
    assert answer["files"] > 100
    assert answer["texts"] > 100
    assert answer["unread"] == []
