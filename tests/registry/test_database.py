"""A tracking database in a home that goes away, as a shared folder does: nothing is recorded in its place."""

import os
import signal
import threading

import pytest
import sqlalchemy

from clinscale import held, registry
from clinscale.errors import RegistryError
from clinscale.registry.answers import Waiting, waiting


@pytest.fixture
def home(tmp_path, monkeypatch, tracking):
    """The home of `tracking`, which is looked for often."""
    monkeypatch.setattr(held, "_RETRY_S", 0.001)
    assert tracking.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    return tmp_path


def leave(home, *, empty):
    home.rename(home.with_name(f"{home.name}-server"))
    if empty:
        home.mkdir()


def come_back(home):
    if home.exists():
        home.rmdir()  # fails where something was written in its place
    home.with_name(f"{home.name}-server").rename(home)


@pytest.mark.parametrize("empty", [True, False])
def test_runs_and_their_files_wait_for_a_database_that_is_away(home, tracking, run, empty, caplog):
    def work():
        run.log({"loss": 1.0}, step=1)
        run.log_json("facts.json", {"rows": 1})

    leave(home, empty=empty)
    worker = threading.Thread(target=work)
    worker.start()
    while not caplog.messages:
        assert worker.is_alive(), "it did not wait"
    come_back(home)
    worker.join()
    assert registry.metric_history(tracking, run.id, "loss") == [(1, 1.0)]
    assert registry.read_json_artifact(tracking, run.id, "facts.json") == {"rows": 1}
    assert caplog.messages[0].endswith(f"waits for its folder {home}, which is away, for at most 300 s")
    assert caplog.messages[-1].endswith("is back; work with tracking database mlflow.db goes on")


def test_no_connection_makes_the_file_anew(home, tracking):
    assert tracking.client
    leave(home, empty=True)
    with (
        pytest.raises(sqlalchemy.exc.OperationalError, match="unable to open database file"),
        sqlalchemy.create_engine(tracking.uri).connect(),
    ):
        pass
    come_back(home)


def test_what_is_away_for_too_long_or_replaced_is_named(home, tracking, run):
    leave(home, empty=True)
    with waiting(Waiting(1, 0)), pytest.raises(RegistryError, match=r"tracking database .*mlflow\.db is away"):
        run.log({"loss": 1.0}, step=1)
    (home / "mlflow.db").write_bytes(home.with_name(f"{home.name}-server").joinpath("mlflow.db").read_bytes())
    with pytest.raises(RegistryError, match=r"mlflow\.db ends, .* was deleted or replaced"):
        run.log({"loss": 1.0}, step=1)


def test_a_ctrl_c_ends_the_wait(home, run, caplog):
    def interrupt():
        while not caplog.messages:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    leave(home, empty=True)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run.log({"loss": 1.0}, step=1)
    come_back(home)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
