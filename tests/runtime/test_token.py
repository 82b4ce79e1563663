"""The secret of a cluster is for its owner alone."""

import pytest

from clinscale.errors import ConfigError
from clinscale.runtime import make_token, read_token


def test_a_token_is_made_once_and_nobody_else_may_read_it(tmp_path):
    path, is_new = make_token(tmp_path / "cluster")
    assert is_new
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    token = read_token(path)
    assert len(token) == 64
    assert make_token(tmp_path / "cluster") == (path, False)
    assert read_token(path) == token


def test_a_token_that_others_may_read_is_no_secret(tmp_path):
    path, _ = make_token(tmp_path)
    path.chmod(0o644)
    for use in (lambda: read_token(path), lambda: make_token(tmp_path)):
        with pytest.raises(ConfigError, match=r"may be read by others \(mode 0644\).*make a new one") as caught:
            use()
        assert path.read_text() not in str(caught.value)


def test_a_token_is_looked_for_where_ray_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert read_token() is None
    with pytest.raises(ConfigError, match="there is no token at"):
        read_token(tmp_path / "gone")
    of_ray = tmp_path / ".ray" / "auth_token"
    of_ray.parent.mkdir()
    of_ray.write_text("made by a local Ray\n")
    of_ray.chmod(0o644)
    assert read_token() != "made by a local Ray", "who has read the old one has nothing by it"
    assert len(read_token()) == 64
    assert of_ray.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from the environment")
    assert read_token() == "from the environment"
