"""The same room over HTTP, as teams use it: a real `mlflow server` that also keeps the files."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.registry import Tag

pytestmark = pytest.mark.slow


def serve(database, artifacts, port, log):
    """Start a server and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, "mlflow server ended"
            time.sleep(0.5)
    raise AssertionError("mlflow server did not come up")


def stop(server):
    server.terminate()
    server.wait(timeout=60)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_whole_way_over_http(mlflow_database, tmp_path, port, hf_folder, pyfunc_code, monkeypatch):
    database = tmp_path / "server.db"
    database.write_bytes(mlflow_database.read_bytes())
    with (tmp_path / "server.log").open("wb") as log:
        server = serve(database, tmp_path / "artifacts", port, log)
        try:
            tracking = registry.connect(f"http://127.0.0.1:{port}", home=tmp_path)
            run = registry.start_run(
                tracking, experiment="clinscale-sweep", name="s", tags={Tag.KIND: "sweep"}, params={"a": {"b": 1}}
            )
            run.log({"train/loss": 1.0}, step=1)
            version = registry.register(
                tracking,
                run.id,
                hf_folder,
                name="radiology",
                tags={},
                pyfunc=registry.Pyfunc(pyfunc_code, ("torch",)),
                alias="champion",
            )
            pulled = registry.pull(tracking, "radiology", tmp_path / "out")
            assert registry.folder_digest(pulled.path) == version.digest
            with pytest.raises(RegistryError, match="did you mean radiology"):
                registry.resolve(tracking, "radiolog")
        finally:
            stop(server)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(RegistryError, match=f"http://127.0.0.1:{port} could not log"):
            run.log({"train/loss": 0.5}, step=2)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        server = serve(database, tmp_path / "artifacts", port, log)
        try:
            with run:  # the run outlives its server
                run.log({"train/loss": 0.5}, step=2)
            [record] = registry.read_runs(tracking, kind="sweep")
            assert record.status == "FINISHED"
            assert registry.metric_history(tracking, run.id, "train/loss") == [(1, 1.0), (2, 0.5)]
        finally:
            stop(server)
    assert not (tmp_path / "mlartifacts").exists(), "the server keeps the files"


@pytest.mark.chaos
def test_a_server_that_is_away_stops_no_training_and_gets_everything_once(mlflow_database, tmp_path, port):
    database = tmp_path / "server.db"
    database.write_bytes(mlflow_database.read_bytes())
    with (tmp_path / "server.log").open("wb") as log:
        server = serve(database, tmp_path / "artifacts", port, log)
        tracking = registry.connect(f"http://127.0.0.1:{port}", home=tmp_path)
        options = {"experiment": "clinscale-pretrain", "name": "base", "kind": "pretrain", "recipe": "r"}
        options |= {"tags": {}, "params": {}, "spool": tmp_path / "metrics.jsonl"}
        run = registry.resume_or_start_run(tracking, **options)
        run.log({"train/loss": 0.0}, step=0)
        os.killpg(server.pid, signal.SIGKILL)  # with its workers
        server.wait()
        for step in range(1, 200):
            run.log({"train/loss": float(step)}, step=step)
        assert server.poll() is not None  # all of it was logged while nobody listened
        with pytest.raises(RegistryError, match=r"has not taken \d+ steps of run base; they are kept"):
            run.end()
        server = serve(database, tmp_path / "artifacts", port, log)
        try:
            with registry.resume_or_start_run(tracking, **options) as again:
                assert not again.log({"train/loss": 7.0}, step=7)
            assert again.id == run.id
            stored = tracking.client.get_metric_history(run.id, "train/loss")
            assert sorted((point.step, point.value) for point in stored) == [(n, float(n)) for n in range(200)]
            assert registry.read_runs(tracking)[0].status == "FINISHED"
        finally:
            stop(server)
