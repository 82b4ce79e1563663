"""The same room over HTTP, as teams use it: a real `mlflow server` that also keeps the files."""

import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest

from clinscale import registry
from clinscale.errors import AccessError, RegistryError
from clinscale.registry import Tag, spool

pytestmark = pytest.mark.slow


def serve(database, artifacts, port, log, *options, certificate=None, **environment):
    """Start a server and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    known = ssl.create_default_context(cafile=certificate)
    for _ in range(240):
        try:
            place = f"{'https' if certificate else 'http'}://127.0.0.1:{port}/health"
            urllib.request.urlopen(place, timeout=2, context=known if certificate else None).close()
            return server
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, "mlflow server ended"
            time.sleep(0.5)
    raise AssertionError("mlflow server did not come up")


def stop(server):
    server.terminate()
    server.wait(timeout=60)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Served:
    """A server of the tests that need no login, which can be stopped, killed and started again."""

    def __init__(self, database, folder):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._database, self._folder = folder / "server.db", folder
        self._database.write_bytes(database.read_bytes())
        self.start()

    def start(self):
        with (self._folder / "server.log").open("ab") as log:
            self.process = serve(self._database, self._folder / "artifacts", self.port, log)

    def stop(self):
        stop(self.process)

    def kill(self):
        """With its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def running(mlflow_database, tmp_path_factory):
    """Such a server; a test leaves it running."""
    server = Served(mlflow_database, tmp_path_factory.mktemp("served"))
    yield server
    if server.process.poll() is None:
        server.stop()


def test_the_whole_way_over_http(running, tmp_path, hf_folder, pyfunc_code, monkeypatch):
    tracking = registry.connect(running.uri, home=tmp_path)
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
    running.stop()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=f"{running.uri} could not log"):
        run.log({"train/loss": 0.5}, step=2)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    running.start()
    with run:  # the run outlives its server
        run.log({"train/loss": 0.5}, step=2)
    [record] = registry.read_runs(tracking, kind="sweep")
    assert record.status == "FINISHED"
    assert registry.metric_history(tracking, run.id, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert not (tmp_path / "mlartifacts").exists(), "the server keeps the files"


def write_certificate(folder):
    """A key and a certificate for 127.0.0.1 that nobody but itself vouches for: paths of both."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mlflow")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    (folder / "tls.key").chmod(0o600)
    (folder / "tls.crt").write_bytes(certificate.public_bytes(pem))
    return folder / "tls.key", folder / "tls.crt"


PASSWORD = "a-long-and@secret-word"


def test_a_pull_over_tls_with_a_login_goes_on_where_it_was_cut(
    mlflow_database, tmp_path, hf_folder, monkeypatch, caplog, capfd
):
    port = free_port()
    key, certificate = write_certificate(tmp_path)
    database, store = tmp_path / "server.db", tmp_path / "artifacts"
    database.write_bytes(mlflow_database.read_bytes())
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
    )
    options = ["--app-name", "basic-auth", "--uvicorn-opts", f"--ssl-keyfile {key} --ssl-certfile {certificate}"]
    environment = {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
    }
    places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
    with (tmp_path / "server.log").open("wb") as log:
        server = serve(database, store, port, log, *options, certificate=str(certificate), **environment)
        try:
            uri, login = f"https://127.0.0.1:{port}", f"https://admin:{quote(PASSWORD)}@127.0.0.1:{port}"
            monkeypatch.setenv(
                "MLFLOW_HTTP_REQUEST_TIMEOUT", "60"
            )  # hashing passwords takes a busy machine seconds
            monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
            by_uri = registry.connect(login)
            with registry.start_run(by_uri, experiment="e", name="r", tags={}, params={}) as run:
                version = registry.register(by_uri, run.id, hf_folder, name="radiology", tags={})
            registry.pull(by_uri, "radiology", tmp_path / "by-uri", **places)

            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            by_environment = registry.connect(uri)
            weights = (hf_folder / "model.safetensors").read_bytes()
            half = len(weights) // 2
            partial = tmp_path / "other-home/models/cache" / f"{version.digest}.partial"
            partial.mkdir(parents=True)
            (partial / "model.safetensors").write_bytes(weights[:half])
            [stored] = store.rglob("model.safetensors")
            stored.write_bytes(
                bytes(half) + weights[half:]
            )  # only its end may be asked for, or the hash will differ
            registry.pull(by_environment, "radiology", tmp_path / "cut", home=tmp_path / "other-home")
            stored.write_bytes(weights)

            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-" + PASSWORD)
            with pytest.raises(AccessError) as denied:
                registry.pull(by_environment, "radiology", tmp_path / "out", **places)
            monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
            monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
            with pytest.raises(AccessError) as denied_by_uri:
                registry.connect(login.replace("admin:", "admin:wrong-"))
            monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            with pytest.raises(RegistryError) as unknown:
                registry.connect(login)
        finally:
            stop(server)
    assert "MLFLOW_TRACKING_PASSWORD" in str(denied.value)
    assert registry.folder_digest(tmp_path / "by-uri") == version.digest
    assert registry.folder_digest(tmp_path / "cut") == version.digest
    assert not (tmp_path / "out").exists()
    told = [str(error.value) for error in (denied, denied_by_uri, unknown)]
    told += [(tmp_path / "models.lock").read_text(), caplog.text, *capfd.readouterr()]
    for secret in (PASSWORD, quote(PASSWORD), "secret-word"):
        assert secret not in "\n".join(told)
    assert registry.read_lock(tmp_path / "models.lock")["radiology"].registry == uri


@pytest.mark.chaos
def test_a_server_that_is_away_stops_no_training_and_gets_everything_once(running, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "PATIENCE_S", 3.0)
    tracking = registry.connect(running.uri, home=tmp_path)
    options = {"experiment": "clinscale-pretrain", "name": "base", "kind": "pretrain", "recipe": "r"}
    options |= {"tags": {}, "params": {}, "spool": tmp_path / "metrics.jsonl"}
    run = registry.resume_or_start_run(tracking, **options)
    run.log({"train/loss": 0.0}, step=0)
    running.kill()
    for step in range(1, 200):
        run.log({"train/loss": float(step)}, step=step)
    assert running.process.poll() is not None  # all of it was logged while nobody listened
    with pytest.raises(RegistryError, match=r"has not taken \d+ steps of run base; they are kept"):
        run.end()
    running.start()
    monkeypatch.undo()
    with registry.resume_or_start_run(tracking, **options) as again:
        assert not again.log({"train/loss": 7.0}, step=7)
    assert again.id == run.id
    stored = tracking.client.get_metric_history(run.id, "train/loss")
    assert sorted((point.step, point.value) for point in stored) == [(n, float(n)) for n in range(200)]
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
