"""Uploads that were answered and are not in the store: sent again, or said."""

import shutil
from pathlib import Path

import pytest

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.patience import Patience
from clinscale.registry import arrival


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(arrival, "_ARRIVAL_S", 0)


@pytest.fixture
def artifacts(tracking, run):
    """Folder of the run's artifacts."""
    return Path(tracking.client.get_run(run.id).info.artifact_uri)


def lose(monkeypatch, tracking, name, times, spoil):
    """Spoil what the first uploads by that method have brought, as a proxy does that answers in the server's place."""
    left, upload = [times], getattr(tracking.client, name)

    def lossy(*arguments):
        upload(*arguments)
        left[0] -= 1
        if left[0] >= 0:
            spoil()

    monkeypatch.setattr(tracking.client, name, lossy)


SPOILED = {
    "lost": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:3]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_runs_file_is_sent_again_where_it_did_not_arrive(tracking, run, artifacts, monkeypatch, spoil):
    monkeypatch.setattr(arrival, "Patience", lambda _: Patience(60, longest_pause_s=0))
    lose(monkeypatch, tracking, "log_artifact", 2, lambda: spoil(artifacts / "facts.json"))
    run.log_json("facts.json", {"rows": 12})
    assert registry.read_json_artifact(tracking, run.id, "facts.json") == {"rows": 12}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_runs_file_that_never_arrives_is_said(tracking, run, artifacts, monkeypatch, spoil, tmp_path):
    lose(monkeypatch, tracking, "log_artifact", 9, lambda: spoil(artifacts / "plots" / "curve.svg"))
    picture = tmp_path / "curve.svg"
    picture.write_text("<svg></svg>")
    with pytest.raises(RegistryError, match=r"stored 1 files of run maker, and 1 .*\(plots/curve\.svg\)"):
        run.log_file(picture, "plots")


def test_a_version_with_files_missing_is_not_made(tracking, register_base, hf_folder, tmp_path, monkeypatch):
    def spoil():
        for config in (tmp_path / "mlartifacts").rglob("config.json"):
            config.unlink()

    lose(monkeypatch, tracking, "log_model_artifacts", 9, spoil)
    with pytest.raises(
        RegistryError, match=r"model m-\w+, and 1 are not there as sent \(artifacts/hf/config\.json\)"
    ):
        register_base(hf_folder)
    assert not registry.list_versions(tracking)


@pytest.fixture
def sizeless(monkeypatch):
    """A store that tells no sizes, as MLflow's for some file systems."""
    from mlflow.entities import FileInfo

    entries = arrival.entries

    def without(*arguments):
        for name, item in entries(*arguments):
            yield name, FileInfo(item.path, item.is_dir, None)

    monkeypatch.setattr(arrival, "entries", without)


@pytest.mark.usefixtures("sizeless")
def test_a_store_that_tells_no_sizes_is_asked_for_the_content(
    tracking, run, artifacts, register_base, hf_folder, monkeypatch, caplog
):
    assert register_base(hf_folder).version == 1
    run.log_json("facts.json", {"rows": 12})
    run.log_json("empty.json", [])
    assert not caplog.messages
    lose(monkeypatch, tracking, "log_artifact", 9, lambda: (artifacts / "facts.json").write_text('{"rows": 13}'))
    with pytest.raises(RegistryError, match=r"\(facts\.json\)"):
        run.log_json("facts.json", {"rows": 12})


@pytest.mark.usefixtures("sizeless")
def test_what_is_too_large_to_be_brought_back_is_named(run, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(arrival, "_MAX_FETCHED_BYTES", 3)
    run.log_file(shutil.copy(__file__, tmp_path / "large.txt"))
    [said] = caplog.messages
    assert said.startswith("the store of run maker tells no size of large.txt: ")
