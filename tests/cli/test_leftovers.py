"""What killed processes leave behind: shown by doctor, repaired on request, and nothing else is touched."""

import hashlib
import os
import signal
import socket
import time

import psutil
import pytest

from clinscale import registry
from clinscale.cli.doctor import _leftovers
from clinscale.engine.manifest import Manifest
from clinscale.permissions import make_folder
from clinscale.pretrain import CHECKPOINTS
from clinscale.registry import Tag
from clinscale.registry.cache import exclusive
from clinscale.runfolder import sole_writer
from clinscale.storage import write_json


@pytest.fixture
def killed(tmp_path):
    """The owner, as runs name theirs, of a process that was killed while it held a lock of the cache."""
    lock = make_folder(tmp_path / "models" / "cache") / "held.lock"
    ready, wrote = os.pipe()
    child = os.fork()
    if not child:
        try:
            with exclusive(lock):
                os.write(wrote, b"x")
                while True:
                    signal.pause()
        finally:  # never on into pytest's own work
            os._exit(1)
    os.close(wrote)
    assert os.read(ready, 1) == b"x"
    owner = f"{socket.gethostname()} {child} {psutil.Process(child).create_time():.0f}"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    return owner


def start(tracking, name, owner=None, kind="pretrain"):
    run = registry.start_run(tracking, experiment="e", name=name, tags={Tag.KIND: kind}, params={})
    if owner:
        run.set_tags({Tag.OWNER: owner})
    return run


def save(folder, step, content=b"weights"):
    """A whole checkpoint, whose file then becomes `content`."""
    checkpoint = folder / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "x.pt").write_bytes(content)
    manifest = Manifest(
        **dict.fromkeys(("step", "updates", "schedule_steps"), step),
        world_size=1,
        stage=0,
        precision="fp32",
        metric=None,
        parameters=("a",),
        files={"x.pt": (7, hashlib.sha256(b"weights").hexdigest())},
        taken_at_s=1.0,
    )
    write_json(checkpoint / "manifest.json", manifest.sealed(""))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_shown_and_then_mended(tracking, tmp_path, killed):
    dead, trial = start(tracking, "dead", killed), start(tracking, "t", killed, "trial")
    places = {
        name: tmp_path / "pretrain" / name / CHECKPOINTS for name in ("dead", "alive", "elsewhere", "unknown")
    }
    alive, elsewhere = start(tracking, "alive"), start(tracking, "elsewhere", "another-host 1 1")
    for folder in places.values():
        save(folder, 1)
        save(folder, 2, b"weight")
        (folder / ".step-00000003.partial").mkdir()
    before = {name: names(folder) for name, folder in places.items()}
    cache = tmp_path / "models" / "cache"
    with exclusive(cache / "in-use.lock"):
        shown = _leftovers(None, tmp_path, repair=False)
        assert shown.endswith("; fix them: clinscale doctor --repair")
        assert {name: names(folder) for name, folder in places.items()} == before
        assert names(cache) == ["held.lock", "in-use.lock"]
        for what in (
            f"orphaned run dead ({dead.id})",
            f"zombie trial t ({trial.id})",
            f"torn checkpoint {places['dead']}/step-00000002 (x.pt has 6 of 7 bytes)",
            f"torn checkpoint {places['dead']}/.step-00000003.partial (its save did not end)",
            f"stale lock {cache}/held.lock",
        ):
            assert shown.count(what) == 1
        assert shown.count(";") == 5
        mended = _leftovers(None, tmp_path, repair=True)
        assert [word in mended for word in ("closed as KILLED", "set aside", "removed")] == [True] * 3
        assert names(cache) == ["in-use.lock"]
        assert _leftovers(None, tmp_path, repair=False) == "none"
    assert names(places.pop("dead")) == ["step-00000001", "step-00000002.damaged"]
    assert {name: names(folder) for name, folder in places.items()} == {name: before[name] for name in places}
    status = {record.id: record.status for record in registry.read_runs(tracking)}
    assert [status[run.id] for run in (dead, trial, alive, elsewhere)] == [
        "KILLED",
        "KILLED",
        "RUNNING",
        "RUNNING",
    ]


def test_what_is_a_link_or_was_resumed_meanwhile_is_left_alone(tracking, tmp_path, killed):
    from clinscale.cli.leftovers import leftovers

    cache = tmp_path / "models" / "cache"
    (cache / "link.lock").symlink_to(tmp_path / "elsewhere")
    (cache / "mine.lock").write_text("a note of somebody")
    run = start(tracking, "dead", killed)
    (tmp_path / "pretrain" / "dead" / CHECKPOINTS / ".step-00000003.partial").mkdir(parents=True)
    found = leftovers(tracking, tmp_path)
    assert {one.kind for one in found} == {"orphaned run", "torn checkpoint", "stale lock"}
    registry.reopen_run(tracking, run.id)
    with exclusive(cache / "held.lock"):
        for one in found:
            one.fix()
        assert names(cache) == ["held.lock", "link.lock", "mine.lock"]
    assert (tmp_path / "pretrain" / "dead" / CHECKPOINTS / ".step-00000003.partial").exists()
    assert registry.read_run(tracking, run.id).status == "RUNNING"


def test_a_run_whose_folder_is_held_is_alive_whatever_mlflow_says_of_its_name(tracking, tmp_path, killed):
    """Its own record may be on another server."""
    from clinscale.cli.leftovers import leftovers

    start(tracking, "held", killed)
    folder = make_folder(tmp_path / "pretrain" / "held")
    torn = folder / CHECKPOINTS / ".step-00000003.partial"
    torn.mkdir(parents=True)
    with sole_writer(folder):
        assert [one.kind for one in leftovers(tracking, tmp_path)] == ["orphaned run", "stale lock"]
    [checkpoint] = [one for one in leftovers(tracking, tmp_path) if one.kind == "torn checkpoint"]
    with sole_writer(folder):
        assert not checkpoint.fix()
    assert torn.exists()
    assert checkpoint.fix()
    assert not checkpoint.fix()
    assert not torn.exists()


def test_a_run_that_began_when_the_clock_was_set_back_is_alive(tracking, tmp_path, killed, monkeypatch):
    start(tracking, "base", killed).end("KILLED")
    with monkeypatch.context() as patch:
        now_ns = time.time_ns() - 3600 * 10**9
        patch.setattr(time, "time_ns", lambda: now_ns)
        alive = start(tracking, "base")
    assert registry.gone_from_here(tracking, "pretrain") == set()
    alive.set_tags({Tag.OWNER: killed})
    assert registry.gone_from_here(tracking, "pretrain") == {"base"}
