"""The folder of shards, opened to a group on request."""

import grp
import os
import stat

import pytest

from clinscale.cli.corpus import _share_new
from clinscale.errors import ConfigError

OWN_GROUP = grp.getgrgid(os.getgid()).gr_name


def test_new_shards_are_shared_and_a_build_that_goes_on_stays_shared(tmp_path):
    for _ in range(2):
        _share_new(str(tmp_path / "shards"), OWN_GROUP)
        assert stat.S_IMODE((tmp_path / "shards").stat().st_mode) == 0o2770
        (tmp_path / "shards" / "part").touch()


@pytest.mark.parametrize(
    ("out", "group", "said"),
    [
        (".", OWN_GROUP, "new or empty folder"),
        ("s3://bucket/shards", OWN_GROUP, "s3://bucket/shards"),
        ("new", "no-such-group", "must name a group"),
    ],
)
def test_notes_that_lie_where_shards_are_written_are_not_opened_with_them(out, group, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.csv").touch(mode=0o600)
    with pytest.raises(ConfigError, match=said):
        _share_new(out, group)
    assert stat.S_IMODE((tmp_path / "notes.csv").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["notes.csv"]
