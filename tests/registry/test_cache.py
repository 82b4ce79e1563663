"""The cache's lock, and the copy that is handed out."""

import os

import pytest

from clinscale.errors import CapacityError, ConfigError, RegistryError
from clinscale.registry.cache import exclusive
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
