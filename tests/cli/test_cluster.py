"""`clinscale cluster mlflow` and `user`: every mistake a sentence, a small lab's server, and the compose file."""

import datetime
import io
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from clinscale import registry
from clinscale.cli import cluster
from clinscale.cli.main import app
from clinscale.errors import ClinscaleError

COMPOSE = Path(__file__).parents[2] / "cluster" / "mlflow" / "compose.yaml"


def run(*arguments):
    return app(["cluster", *map(str, arguments)], standalone_mode=False)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, and none of the variables that the verbs read or set."""
    monkeypatch.chdir(tmp_path)
    for name in ("URI", "USERNAME", "PASSWORD", "SERVER_CERT_PATH"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    (tmp_path / "open" / "server").mkdir(parents=True)
    (tmp_path / "open" / "server").chmod(0o755)
    (tmp_path / "junk.pem").write_text("junk")
    (tmp_path / "junk.pem").chmod(0o600)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--allowed-hosts is empty"),
        (["--allowed-hosts", "*.lab.example"], "takes exact host names, got '*.lab.example'"),
        (["--allowed-hosts", "https://mlflow.lab"], "no wildcards and no URLs"),
        (["--tls-key", "junk.pem"], "give both or neither"),
        (["--tls-key", "junk.pem", "--tls-certificate", "junk.pem"], "junk.pem and key junk.pem cannot be used"),
        (
            ["--database", "postgresql://mlflow:secret@db/mlflow"],
            "everybody on this machine may read command lines",
        ),
        (["--database", "mysql://mlflow@db/mlflow"], "database 'mysql' is not known"),
        (["--database", "nonsense"], "is no URI; write postgresql://"),
        (["--database", "sqlite:////nowhere/mlflow.db"], "sqlite:////nowhere/mlflow.db does not answer"),
        (["--database", "postgresql://m@127.0.0.1:1/m"], "postgresql+psycopg://m@127.0.0.1:1/m does not answer"),
        (["--database", "postgresql://m@db/m", "--database-password-file", "gone"], "gone cannot be read"),
        (["--home", "open"], "is open to others (mode 055); chmod 700 it"),
        (["--home", "junk.pem"], "junk.pem/server cannot be made"),
    ],
)
def test_a_wrong_setting_is_a_sentence(arguments, message, capsys):
    with pytest.raises(ClinscaleError) as caught:
        run("mlflow", "--home", "h", *arguments)
    assert message in str(caught.value)
    assert "secret@" not in str(caught.value) + capsys.readouterr().err


def test_a_port_that_is_taken_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClinscaleError, match=f"127.0.0.1:{port} cannot be listened on"):
            run("mlflow", "--home", "h", "--port", port)


@pytest.mark.parametrize(("package", "what"), [("psycopg", "driver psycopg"), ("flask_wtf", r"mlflow\[auth\]")])
def test_a_package_that_is_missing_is_a_sentence(package, what, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ClinscaleError, match=what + r".*pip install 'clinscale\[server\]'"):
        run("mlflow", "--home", "h", "--database", "postgresql://m@127.0.0.1:1/m")


def test_a_user_needs_a_server():
    with pytest.raises(ClinscaleError, match="no server was started from --home h"):
        run("user", "ann", "--role", "reader", "--home", "h")
    assert not Path("h").exists()


@pytest.mark.slow
def test_a_small_lab_serves_sqlite_over_tls_and_ends_on_ctrl_c(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    certificate, key = self_signed(tmp_path)
    command = [sys.executable, "-m", "clinscale", "cluster", "mlflow", "--home", "h", "--port", str(port)]
    command += ["--tls-certificate", certificate, "--tls-key", key, "--workers", "1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert f"MLflow answers at https://127.0.0.1:{port}\n" in said
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", certificate)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a busy machine's first answer takes a while
        for password, message in {
            "short": "at least 12 characters, as MLflow wants, got 5",
            "": "ann is new and needs a password",
        }.items():
            monkeypatch.setenv("CLINSCALE_USER_PASSWORD", password)
            with pytest.raises(ClinscaleError, match=message):
                run("user", "ann", "--role", "trainer", "--home", "h")
        monkeypatch.setenv("CLINSCALE_USER_PASSWORD", "password-of-ann")
        run("user", "ann", "--role", "trainer", "--home", "h")
        monkeypatch.setenv("CLINSCALE_USER_PASSWORD", "")
        run("user", "ann", "--role", "reader", "--home", "h")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-ann")
        tracking = registry.connect(f"https://127.0.0.1:{port}")
        assert [found.name for found in tracking.client.search_experiments()] == [registry.Experiment.RELEASES]
        children = psutil.Process(server.pid).children(recursive=True)
        assert children
        server.send_signal(signal.SIGINT)
        rest = server.stderr.read()
        assert server.wait(timeout=60) == 0
        assert "MLflow has ended" in rest
        assert "Traceback" not in "".join(said) + rest
        assert not [child for child in children if child.is_running()]
    finally:
        server.kill()


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "lab.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "lab.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    (folder / "lab.key").chmod(0o600)
    return str(folder / "lab.crt"), str(folder / "lab.key")


def test_the_compose_file_runs_the_same_command_and_publishes_one_port_on_loopback():
    import typer.main

    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    compose = yaml.safe_load(text)
    mlflow, postgres = compose["services"]["mlflow"], compose["services"]["postgres"]
    assert [port for service in (mlflow, postgres) for port in service.get("ports", [])] == ["127.0.0.1:5000:5000"]
    assert mlflow["command"][:3] == ["clinscale", "cluster", "mlflow"]
    parsed = (
        typer.main.get_command(cluster.app).commands["mlflow"].make_context("mlflow", mlflow["command"][3:]).params
    )
    assert (parsed["port"], parsed["host"], parsed["allowed_hosts"]) == (5000, "0.0.0.0", "localhost")
    secret = str(parsed["database_password_file"])
    assert secret == postgres["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database-password"
    assert mlflow["secrets"] == postgres["secrets"] == list(compose["secrets"])
    assert "PASSWORD:" not in text, "no password stands in an environment"
    mounted = {service: entry["volumes"][0].partition(":") for service, entry in compose["services"].items()}
    assert {name for name, _, _ in mounted.values()} == compose["volumes"].keys()
    assert mounted["mlflow"][2] == mlflow["environment"]["CLINSCALE_HOME"]
    user, _, host = parsed["database"].removeprefix("postgresql://").partition("/")[0].partition("@")
    assert (user, host) == (postgres["environment"]["POSTGRES_USER"], "postgres")
    assert compose["networks"]["database"]["internal"]
    assert postgres["networks"] == ["database"]


def test_faults_of_a_launch_file_are_a_table_and_exit_code_1(place, clinscale):
    made = clinscale("cluster", "render", "docker", "--json", cwd=place)
    assert (made.returncode, json.loads(made.stdout)) == (0, {"files": ["Dockerfile"]})
    clean = clinscale("cluster", "check", "Dockerfile", cwd=place)
    assert (clean.returncode, clean.stdout) == (0, "Dockerfile: nothing to fix\n")
    text = (place / "Dockerfile").read_text()
    (place / "Dockerfile").write_text(text.replace("USER clinscale", "EXPOSE 8265"))
    shown = clinscale("cluster", "check", "Dockerfile", cwd=place)
    assert shown.returncode == 1
    assert "2 to fix" in shown.stdout
    told = clinscale("cluster", "check", "Dockerfile", "--json", cwd=place)
    assert told.returncode == 1
    problems = json.loads(told.stdout)["problems"]
    assert [problem["rule"] for problem in problems] == ["privileged container", "published port"]
    assert all(problem.keys() == {"file", "rule", "found", "mend"} for problem in problems)
    again = clinscale("cluster", "render", "docker", cwd=place)
    assert again.returncode == 2
    assert "Dockerfile is there and differs; --force" in again.stderr
    assert clinscale("cluster", "render", "docker", "--force", cwd=place).returncode == 0
    assert (place / "Dockerfile").read_text() == text


def test_the_rights_of_each_role_can_be_printed(monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr("clinscale.cli.output._stdout", told)
    run("rights", "--json")
    rows = {(row["method"], row["route"]): row for row in json.loads(told.getvalue())["rights"]}
    unreleased = rows["GET", "/model-versions/get-artifact"]
    assert (unreleased["reader"], unreleased["trainer"], unreleased["promoter"]) == (False, True, True)
    assert not any(rows["*", "mlflow/webhooks/**"][role] for role in ("reader", "trainer", "promoter", "admin"))
    assert rows["GET", "mlflow/users/list"]["admin"]
