"""Which of a verb's words are paths: `=` is a usual sign in them, as Hive's partitions and cluster storage have it."""

from pathlib import Path

import pytest
from pydantic import Field

from clinscale.cli.options import local_only, paths_and_overrides, say_unused_gpus
from clinscale.config import Config
from clinscale.errors import ConfigError
from clinscale.runtime import Cluster


class Settings(Config):
    seed: int = 0
    """Seed."""
    cleaning: dict[str, str] = Field(default_factory=dict)
    """Nested."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "year=2020").mkdir()
    (tmp_path / "year=2020" / "n.csv").touch()
    (tmp_path / "seed=3").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "n.csv",
        "year=2020/n.csv",
        "year=2020",
        "./seed=3",
        "/data/seed=3",
        "s3://b/seed=3/n.csv",
        "~/a=b",
        "../a=b/c",
    ],
)
def test_a_path_is_a_path(path):
    assert paths_and_overrides([path], Settings) == ([path], [])


@pytest.mark.parametrize(
    "override",
    ["seed=4", "cleaning.lower_case=true", "cleaning.at=year=2020/x", f"cleaning={'x' * 5000}", "sed=4", "=3"],
)
def test_a_setting_is_a_setting(override):
    assert paths_and_overrides(["n.csv", override], Settings) == (["n.csv"], [override])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=3", "seed=3 is a path here and a setting too; write ./seed=3"),
        ("year=2021/n.csv", "year=2021/n.csv is no file or folder, nor a setting"),
    ],
)
def test_what_may_be_both_or_neither_is_asked_for(word, message):
    with pytest.raises(ConfigError, match=message):
        paths_and_overrides([word], Settings)


def test_a_place_to_write_to_may_be_below_the_users_home_where_no_shell_has_said_so(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert local_only(Path("~/runs")) == Path("/home/anna/runs")
    assert local_only(Path("runs/~")) == Path("runs/~")
    assert local_only(None) is None
    for odd in (" ", " /data/runs", "runs "):  # as a variable of a service's file has it
        with pytest.raises(ConfigError, match="begins or ends with a blank"):
            local_only(Path(odd))


@pytest.mark.parametrize(
    ("gpus", "asked", "said"),
    [(2, 0, "GPUs here: 2, and none is used; runtime.gpus_per_trial=1"), (2, 0.5, ""), (0, 0, "")],
)
def test_gpus_that_nothing_asks_for_are_named_with_the_setting_that_does(gpus, asked, said, capsys):
    say_unused_gpus(Cluster("here", num_cpus=4, num_gpus=gpus, num_nodes=1), asked, "runtime.gpus_per_trial")
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert bool(err) == bool(said)
