"""Jobs of a running cluster: what travels, who is let in, and a terminal that may be closed."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading

import forked_ray
import pytest

from clinscale.errors import AccessError, ClusterError, ConfigError
from clinscale.launch import Jobs, pack

CANARY = "canary-of-a-note"


def test_the_configs_that_are_named_travel_with_the_code_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.csv").write_text(CANARY)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text("name: own")
    elsewhere = tmp_path.parent / "space.yaml"
    elsewhere.write_text("parameters: {}")
    words = ["tune", "--task", "tasks/own.yaml", "--space", str(elsewhere), "--data", "notes.csv", "--home", "/h"]
    shipment = pack(words)
    assert set(shipment.files) == {"tasks/own.yaml", "space.yaml"}
    assert shipment.arguments == tuple(word.replace(str(elsewhere), "space.yaml") for word in words)
    working, package = shipment.write(tmp_path / "out")
    sent = [path for folder in (working, package) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in sent) == shipment.size_bytes < 5 * 2**20
    assert (package / "search_spaces" / "sequence.yaml").is_file()
    assert not any(CANARY in path.read_text() for path in sent if path.suffix == ".csv" or path.parent == working)
    before = shipment.digest()
    assert pack(words).digest() == before
    (tmp_path / "tasks" / "own.yaml").write_text("name: other")
    assert pack(words).digest() != before


def test_a_working_directory_with_data_is_refused_by_name(tmp_path):
    (tmp_path / "sweep.yaml").write_text("name: s")
    assert set(pack(["tasks"], tmp_path).files) == {"sweep.yaml"}
    for name in ("notes.csv", "shards/one.parquet", "dump.txt.gz", "gold.json", "0001", "big.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(CANARY * (2**17 if name == "big.py" else 1))
        with pytest.raises(ConfigError, match=rf"holds {name}: only code and configs travel") as caught:
            pack(["tasks"], tmp_path)
        assert CANARY not in str(caught.value)
        path.unlink()
    (tmp_path / "link.yaml").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match=r"holds link\.yaml"):
        pack(["tasks"], tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the command after `--` must begin with one of"),
        (["demo"], "one of corpus, pretrain, .* got 'demo'"),
        (["tune", "--task", "x"], "add --home FOLDER on the storage that all nodes share"),
        (["study", "open"], "study keeps runs and checkpoints in its home, .* add --home FOLDER"),
    ],
)
def test_what_a_cluster_cannot_do_is_told_before_it_is_asked(words, message):
    with pytest.raises(ConfigError, match=message):
        pack(words)


@contextlib.contextmanager
def answering(status, body):
    """Something that listens on loopback and answers everything so; its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_that_is_no_ray_head_is_named():
    for status in (404, 200):
        with answering(status, "<html>") as address:
            with pytest.raises(ClusterError, match=rf"http://{address} is not the dashboard of a Ray head"):
                Jobs(address, allow_open=True)
    with pytest.raises(ClusterError, match=r"nobody answers .* within 10 s .* ssh -L 8265"):
        Jobs(address)
    with pytest.raises(ConfigError, match="is not the address of a dashboard"):
        Jobs("ray://127.0.0.1:10001")


def test_a_cluster_with_another_ray_is_refused():
    with answering(200, json.dumps({"ray_version": "2.9.3"})) as address:
        with pytest.raises(ConfigError, match=r"runs Ray 2\.9\.3, this machine 2\.60"):
            Jobs(address, allow_open=True)
        with pytest.raises(AccessError, match="asks for no token"):
            Jobs(address)


@pytest.mark.cluster
def test_only_the_right_token_lets_anybody_in(clinscale, loopback, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    with pytest.raises(AccessError, match="refuses this token"):
        Jobs(loopback.dashboard, token_file=wrong)
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    stranger = clinscale("submit", loopback.dashboard, "--status", "all", **home)
    assert stranger.returncode == 2
    assert "asks for a token and this user has none" in stranger.stderr
    # Ray's own doors: a job by its own client, a driver by the client port and by the head's
    job = ["-m", "ray.scripts.scripts", "job", "submit", "--address", loopback.dashboard, "--", "id"]
    driver = ["-c", "import sys, ray; ray.init(sys.argv[1]); print('inside')", loopback.address]
    soon = {"RAY_gcs_rpc_server_connect_timeout_s": "5"}
    modes = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    tries = [
        subprocess.Popen(
            [sys.executable, *words],
            env=home | mode | soon,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for words in (job, driver)
        for mode in modes
    ]
    for one in tries:  # a driver gives up after 20 s, so all at once
        said, _ = one.communicate(timeout=180)
        assert one.returncode, said
        assert "succeeded" not in said
        assert "inside" not in said
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # another one, which Ray would ask
    assert Jobs(loopback.dashboard, token_file=loopback.token_file).list() is not None
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_job_runs_the_code_from_here_once_and_its_exit_code_comes_back(clinscale, loopback):
    asked = ["submit", loopback.dashboard, "--token-file", loopback.token_file]
    work = ["--nodes", "2", "--", "models", "--home", loopback.folder / "home", "--json"]
    first = clinscale(*asked, *work)
    assert first.returncode == 0, first.stderr
    assert "sends 0 configs and clinscale's code, " in first.stderr
    assert "shared storage" in first.stderr, "the job began with a look at every node"
    assert '"models": []' in first.stderr
    again = clinscale(*asked, "--json", *work)
    job = json.loads(again.stdout)
    assert job["status"] == "SUCCEEDED"
    assert f"job {job['id']} does this already, or has done it" in again.stderr
    mistake = ["--no-preflight", "--", "tasks", "show", "gone"]
    failed = [clinscale(*asked, *mistake) for _ in range(2)]
    assert [ended.returncode for ended in failed] == [2, 2]
    assert "task 'gone' is not in the catalog" in failed[0].stderr
    listed = json.loads(clinscale(*asked, "--status", "all", "--json").stdout)["jobs"]
    mine = [job["id"] for job in listed if "show gone" in job["entrypoint"]]
    assert mine[1] == f"{mine[0]}-2", "what failed may be tried again"
    secret = loopback.token_file.read_text()
    assert secret not in first.stderr + again.stderr + json.dumps(listed)
    shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert secret not in shown
    unknown = clinscale(*asked, "--status", "models-0")
    assert unknown.returncode == 2
    assert "no job 'models-0'" in unknown.stderr


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_closed_terminal_ends_no_job_and_stop_does(loopback, tmp_path):
    asked = ["submit", loopback.dashboard, "--token-file", loopback.token_file]
    work = ["--no-preflight", "--", "doctor", "--home", loopback.folder / "home"]
    command = [sys.executable, "-m", "clinscale", *map(str, [*asked, *work])]
    terminal = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=forked_ray.clean_environment(), text=True
    )
    for line in terminal.stderr:
        if "Running entrypoint" in line:
            break
    terminal.send_signal(signal.SIGINT)
    said = terminal.stderr.read()
    assert terminal.wait(timeout=30) == 130
    assert "the job goes on without this terminal" in said
    jobs = Jobs(loopback.dashboard, token_file=loopback.token_file)
    [job] = [job for job in jobs.list() if job.id.startswith("doctor-")]
    assert job.status in ("PENDING", "RUNNING")
    stopped = jobs.stop(job.id)
    assert stopped.status == "STOPPED"
    written = []
    assert jobs.follow(job.id, written.append).status == "STOPPED"
    assert "Running entrypoint" in "".join(written)


@pytest.mark.cluster
def test_plain_ray_job_submit_does_the_same(loopback):
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", loopback.dashboard]
    ran = subprocess.run(
        [*command, "--", "python", "-m", "clinscale", "tasks", "--json"],
        env=forked_ray.clean_environment() | loopback.auth,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stderr
    assert '"tasks": [' in ran.stdout + ran.stderr
