"""The pages of a home for the one who started them: `clinscale ui`."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from clinscale.errors import ConfigError, RegistryError
from clinscale.registry import own_server
from clinscale.registry.application import end_with


@pytest.fixture
def home(mlflow_database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    return tmp_path


def digest(home):
    return hashlib.sha256((home / "mlflow.db").read_bytes()).hexdigest()


def test_the_login_is_made_for_one_start_in_a_folder_of_its_owner_and_is_gone_after_it(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "the-password-of-a-team")
    before, passwords = digest(home), []
    for _ in range(2):
        with own_server(home) as server:
            folder = server.folder
            environment = server._environment()
            passwords.append(folder.admin_password.read_text())
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            assert stat.S_IMODE(folder.admin_password.stat().st_mode) == 0o600
            assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{home}/mlflow.db"
            assert f"database_uri = sqlite:///{folder.path}/" in (folder.path / "auth.ini").read_text()
            assert environment["TMPDIR"].startswith(str(folder.path))
            command = server._command()
            assert command[command.index("--host") + 1] == "127.0.0.1"
            assert not {password.strip() for password in passwords} & set(command)
        assert not folder.path.exists()
    assert len({*passwords, "the-password-of-a-team\n"}) == 3
    assert digest(home) == before
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]


def damage(home, how):
    database = home / "mlflow.db"
    if how == "older":
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'cc1f77228345'")
            connection.execute("DROP TABLE logged_models")
    elif how == "absent":
        database.unlink()
    else:
        database.write_bytes({"empty": b"", "no database": b"id,text\n" * 99}[how])


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("older", RegistryError, "cc1f77228345; use the MLflow that wrote it"),
        ("absent", ConfigError, "does not exist"),
        ("empty", ConfigError, "no such table"),
        ("no database", ConfigError, "not a database"),
    ],
)
def test_what_mlflow_would_change_on_opening_is_refused_as_it_is(home, how, error, said):
    damage(home, how)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(error, match=said), own_server(home):
        pass
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_stranger_who_was_faster_at_the_port_is_not_taken_for_our_server(home):
    with own_server(home) as server, http.server.HTTPServer(("127.0.0.1", server._config.port), Stranger) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with subprocess.Popen(["sleep", "0.5"]) as child, pytest.raises(RegistryError, match="did not answer"):
            server._wait_until_ready(child, "proof")
        other.shutdown()


def forked(act):
    """Number of a process that does `act`, in a group of its own."""
    child = os.fork()
    if not child:
        try:
            os.setsid()
            act()
        finally:
            os._exit(1)
    return child


def test_a_killed_starter_closes_the_pipe_that_its_server_watches(home, tmp_path, monkeypatch):
    started, ended = tmp_path / "started", tmp_path / "ended"
    with own_server(home) as server:
        command = ["sh", "-c", 'touch "$0"; cat; touch "$1"', str(started), str(ended)]
        monkeypatch.setattr(type(server), "_command", lambda _: command)
        starter = forked(lambda: server.run(print))
        for awaited in (started, ended):
            end = time.monotonic() + 60
            while not awaited.exists():
                assert time.monotonic() < end, f"not {awaited.name}"
                time.sleep(0.01)
            if awaited == started:
                os.kill(starter, signal.SIGKILL)
                os.waitpid(starter, 0)


def test_a_server_whose_starter_is_gone_ends_with_all_of_its_group():
    (watched, starter), (alive, of_group) = os.pipe(), os.pipe()

    def serve():
        os.close(starter)
        if os.fork():  # as MLflow's server has workers, which hold the port
            end_with(watched)
        time.sleep(60)

    child = forked(serve)
    for end in (watched, of_group):
        os.close(end)
    os.close(starter)
    assert os.read(alive, 1) == b""  # nobody holds the other end
    os.close(alive)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def status(url, login=None):
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_only_who_has_the_login_sees_the_runs_and_a_closed_terminal_leaves_nothing(home):
    before = digest(home)
    command = [sys.executable, "-m", "clinscale", "ui", "--home", str(home), "--json"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kept) as ui:
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(ui.stdout.readline())
            assert lines[-1], "it ended"
        said = json.loads("".join(lines))
        with open(said["password_file"]) as file:  # noqa: PTH123
            password = file.read().strip()
        path = f"{said['url']}/ajax-api/2.0/mlflow/experiments/search?max_results=5"
        assert status(path) == 401
        assert status(path, f"{said['user']}:wrong") == 401
        assert status(path, f"{said['user']}:{password}") == 200
        assert status(f"{said['url']}/start") == 200
        ui.send_signal(signal.SIGHUP)
        assert ui.wait(60) == 0
    with pytest.raises(urllib.error.URLError):
        status(path)
    assert not os.path.exists(said["password_file"])  # noqa: PTH110
    assert digest(home) == before
