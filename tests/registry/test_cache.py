"""The cache's lock, and the copy that is handed out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clinscale.errors import CapacityError, ConfigError, RegistryError
from clinscale.registry.cache import clear_scratch, exclusive, scratch
from clinscale.registry.pull import _place


def test_a_held_lock_says_by_whom_and_is_given_up(tmp_path):
    with exclusive(tmp_path / "lock"):
        with pytest.raises(
            CapacityError, match=rf"held by process {os.getpid()} of user {os.getuid()} on .* 0.1 s"
        ):
            with exclusive(tmp_path / "lock", patience_s=0.1):
                pytest.fail("held twice")
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    with exclusive(tmp_path / "lock", patience_s=0):
        pass
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="is a link"):
        with exclusive(tmp_path / "lock"):
            pytest.fail("held")
    assert (tmp_path / "victim").read_text() == "kept"


def test_a_copy_that_is_not_what_was_checked_is_refused(tmp_path):
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match="was changed while it was copied"):
        _place(tmp_path / "cached", tmp_path / "out", "0" * 64, "radiology/1")
    assert [path.name for path in tmp_path.iterdir()] == ["cached"]


HELD = """
import sys, time
from pathlib import Path
from clinscale.registry.cache import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("a model")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(tmp_path):
    """A SIGKILL in the last copy of a pull left a hidden folder for ever."""
    kept = [".out", ".out.settings", ".out.0123abcd", ".out.0123abcd.partial.bak", ".other.0123abcd.partial"]
    for name in kept:
        (tmp_path / name).mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", HELD, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, living = (Path(process.stdout.readline().strip()) for process in processes)
        processes[0].kill()
        processes[0].wait()
        clear_scratch(tmp_path / "out")
        assert (living / "half").read_text() == "a model"
        assert not dead.exists()
        assert {path.name for path in tmp_path.iterdir()} == {*kept, living.name, living.with_suffix(".lock").name}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    clear_scratch(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {*kept}


def test_a_scratch_folder_goes_with_its_block_and_what_is_not_ours_stays(tmp_path):
    with scratch(tmp_path / "new" / "out") as folder:
        assert folder.parent == tmp_path / "new"
        (folder / "half").write_text("a model")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "victim").mkdir()
    (tmp_path / ".out.0123abcd.partial").symlink_to(tmp_path / "victim")
    clear_scratch(tmp_path / "out")
    assert (tmp_path / ".out.0123abcd.partial").is_symlink()
    assert (tmp_path / "victim").is_dir()
