import fcntl
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import sqlalchemy

from clinscale import interrupts, registry
from clinscale.errors import ConfigError, RegistryError


def test_importing_the_room_loads_no_mlflow():
    code = "import sys, clinscale.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_is_sqlite_at_home_with_artifacts_beside_it(tracking, tmp_path):
    run = registry.start_run(tracking, experiment="e", name="r", tags={}, params={})
    (tmp_path / "card.txt").write_text("fine")
    run.log_file(tmp_path / "card.txt", "cards")

    assert tracking.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert len(list((tmp_path / "mlartifacts").rglob("cards/card.txt"))) == 1


def test_argument_beats_environment_beats_home(mlflow_database, tmp_path, monkeypatch):
    by_argument, by_environment = tmp_path / "argument.db", tmp_path / "environment.db"
    for path in (by_argument, by_environment):
        path.write_bytes(mlflow_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{by_environment}")

    assert registry.connect(f"sqlite:///{by_argument}", home=tmp_path).uri.endswith("argument.db")
    assert registry.connect(home=tmp_path).uri.endswith("environment.db")


def test_a_relative_database_stays_the_same_one_elsewhere(mlflow_database, tmp_path, monkeypatch):
    (tmp_path / "here.db").write_bytes(mlflow_database.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert registry.connect("sqlite:///here.db").uri == f"sqlite:///{tmp_path / 'here.db'}"


def test_a_database_that_was_copied_or_moved_away_from_its_files_is_refused(tracking, tmp_path):
    """Its paths are absolute: a copy would write among the files of the original."""
    home, other, link = (tmp_path / name for name in ("home", "other", "link"))
    for folder in (home, other):
        folder.mkdir()
    shutil.copy(tmp_path / "mlflow.db", home)
    registry.connect(home=home).experiment_id(registry.Experiment.FINETUNE)
    link.symlink_to(home)
    registry.connect(home=link)
    shutil.copy(home / "mlflow.db", other)
    with pytest.raises(
        RegistryError, match=f"keeps its files below {home}, and is in {other}: it was copied; use the"
    ):
        registry.connect(home=other)
    shutil.rmtree(other)
    home.rename(other)
    link.unlink()
    with pytest.raises(RegistryError, match=f"it was moved; move it back, or make {home} a link to {other}"):
        registry.connect(home=other)
    home.symlink_to(other)
    registry.connect(home=other)


def test_processes_that_open_a_database_at_once_wait_for_one_another(mlflow_database, tmp_path, monkeypatch):
    """All that would make the tables of a new one at once would fail."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    registry.connect(home=tmp_path)  # from now on it takes milliseconds
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    connects = threading.Thread(target=registry.connect, kwargs={"home": tmp_path})
    connects.start()
    connects.join(0.5)
    assert connects.is_alive()
    os.close(other)
    connects.join()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("listening", [False, True], ids=["refuses", "never answers"])
def test_a_server_that_does_not_answer_is_named(listening):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError) as caught:
            registry.connect(uri)
    assert f"127.0.0.1:{uri.rpartition(':')[2]}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ, "patience returns once connected"


@pytest.mark.parametrize(("uri", "extra"), [("s3://bucket/a", "s3"), ("gs://bucket/a", "gs")])
def test_files_in_an_object_store_whose_library_is_missing_name_the_extra(tracking, uri, extra, monkeypatch):
    import mlflow.artifacts

    for library in ("boto3", "google.cloud", "google.cloud.storage"):
        monkeypatch.setitem(sys.modules, library, None)
    with (
        pytest.raises(ConfigError, match=rf"could not look: .*pip install 'clinscale\[{extra}\]'"),
        tracking.faults("look"),
    ):
        mlflow.artifacts.list_artifacts(artifact_uri=uri, tracking_uri=tracking.uri)


@pytest.mark.timeout(60)
def test_a_file_that_is_no_database_is_refused_at_once(tmp_path):
    (tmp_path / "notes.txt").write_text("this is no database, " * 100)
    with pytest.raises(RegistryError, match=r"notes\.txt cannot be used"):
        registry.connect(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_a_full_disk_below_the_database_is_reported_in_its_own_words():
    with sqlalchemy.create_engine("sqlite://").connect() as database:
        database.exec_driver_sql("PRAGMA max_page_count = 1")
        with (
            pytest.raises(
                RegistryError, match=r"not count \(database or disk is full\); check the room on its disk"
            ),
            registry.Tracking("sqlite:///mlflow.db", None).faults("count"),
        ):
            database.exec_driver_sql("CREATE TABLE notes (text)")


def test_stray_mlflow_variables_do_not_redirect_runs(mlflow_database, monkeypatch):
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.setenv(name, "999")
    registry.connect(f"sqlite:///{mlflow_database}")
    assert not {"MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"} & os.environ.keys()


def test_a_deleted_experiment_says_how_to_restore_it(tracking):
    number = tracking.experiment_id("gone")
    tracking.client.delete_experiment(number)
    with pytest.raises(RegistryError, match=f"restore --experiment-id {number}"):
        tracking.experiment_id("gone")


@pytest.mark.parametrize(("later_s", "finishes"), [(10, True), (0, False)])
def test_a_ctrl_c_lets_the_database_finish_its_statement_and_a_later_one_does_not(
    tracking, later_s, finishes, monkeypatch
):
    """Two at once are one: the runs must still be closed, for which the database may not be locked."""
    monkeypatch.setattr(interrupts, "TIDYING_S", later_s)
    finished = []

    def statement():
        with tracking.faults("count"):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            finished.append(True)

    with pytest.raises(KeyboardInterrupt):
        statement()
    assert finished == [True] * finishes
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_connection_travels_to_other_processes(tracking):
    assert tracking.client
    assert pickle.loads(pickle.dumps(tracking)) == tracking


def test_a_registry_elsewhere_than_the_runs_is_refused(tracking, tmp_path, monkeypatch):
    """MLflow itself would look for versions there, and clinscale would have put them elsewhere."""
    monkeypatch.chdir(tmp_path)
    for same in (tracking.uri, "sqlite:///mlflow.db", ""):
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", same)
        assert registry.connect(home=tmp_path) == tracking
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://ann:secret@models")
    with pytest.raises(
        ConfigError, match=r"must name the tracking server .*mlflow\.db, got http://ann:\*\*\*@models"
    ):
        registry.connect(home=tmp_path)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (
            "mysql://u:secret@127.0.0.1:9/db",
            r"mysql://u:\*\*\*@127\.0\.0\.1:9/db needs the Python package MySQLdb",
        ),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/db", r"cannot be used \(.*[Cc]onnection refused"),
        ("postgresql://u:secret@[::1", r"tracking URI postgresql://u:\*\*\*@\[::1 is none \(Invalid IPv6 URL\)"),
        ("postgresql+psycopg://127.0.0.1:9/db?user=u&password=secret", r"password=\*\*\* cannot be used"),
        ("http://u:se/cret@127.0.0.1:9", r"tracking server http://u:\*\*\*@127\.0\.0\.1:9 could not be reached"),
    ],
)
def test_a_place_that_is_none_is_told_at_once_and_without_its_password(uri, told, tmp_path):
    with pytest.raises((ConfigError, RegistryError), match=told) as raised:
        registry.connect(uri, home=tmp_path)
    assert "cret" not in str(raised.value)


def test_a_database_in_the_users_own_folder_is_there(mlflow_database, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_database, tmp_path / "runs.db")
    assert registry.connect("sqlite:///~/runs.db").uri == f"sqlite:///{tmp_path / 'runs.db'}"
    assert not (tmp_path / "~").exists()
