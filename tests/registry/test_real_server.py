"""The server that `clinscale cluster mlflow` starts on a PostgreSQL: who may do what, many at once, and killed."""

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from clinscale import registry
from clinscale.errors import AccessError, RegistryError
from clinscale.registry import Experiment, Tag

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def users(team_server):
    """One user of each role, and a second trainer."""
    for name, role in {"rita": "reader", "tom": "trainer", "tina": "trainer", "pam": "promoter"}.items():
        team_server.user(name, role)
    return team_server


@pytest.fixture(scope="module")
def models(users, saved_model, tmp_path_factory):
    """`organs`: version 1 by tom from his run, version 2 released by pam, who made it the champion."""
    folder = shutil.copytree(saved_model, tmp_path_factory.mktemp("models") / "hf")
    with users.login("tom") as tracking:
        run = start_run(tracking, "tom's")
        first = registry.register(tracking, run.id, folder, name="organs", tags={}, alias="challenger")
    (folder / "README.md").write_text("# released")
    with users.login("pam") as tracking:
        released = registry.register(
            tracking, run.id, folder, name="organs", tags={}, experiment=Experiment.RELEASES, alias="champion"
        )
    return run, first, released


def start_run(tracking, name):
    return registry.start_run(
        tracking, experiment=Experiment.SWEEP, name=name, tags={Tag.KIND: "sweep"}, params={}
    )


def call(server, path, *, user=None, password=None, body=None, **headers):
    """The status that the server answers with."""
    if user:
        login = f"{user}:{password or server.passwords[user]}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.uri}{path}", data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=9"


def test_only_logins_by_the_names_of_the_server_pass(users):
    assert call(users, SEARCH, user="rita") == 200
    assert call(users, SEARCH) == 401
    assert call(users, SEARCH, user="rita", password="another-password") == 401
    assert call(users, "/") == 401
    assert call(users, SEARCH, user="rita", Host=f"localhost:{users.port}") == 200
    for host in ("evil.example", "10.evil.example", "192.168.evil.example", f"127.0.0.1.evil:{users.port}"):
        assert call(users, SEARCH, user="rita", Host=host) == 403, host
    body = {"name": "from another page"}
    created = "/api/2.0/mlflow/experiments/create"
    assert call(users, created, user="tom", body=body, Origin="http://evil.example") == 403


def test_a_reader_pulls_what_is_released_and_sees_no_training(users, models, tmp_path):
    run, first, released = models
    with users.login("rita") as tracking:
        assert [experiment.name for experiment in tracking.client.search_experiments()] == [Experiment.RELEASES]
        assert registry.read_runs(tracking, kind="sweep") == []
        organs = [version.label for version in registry.list_versions(tracking) if version.name == "organs"]
        assert organs == ["organs/1", "organs/2"]
        pulled = registry.pull(tracking, "organs@champion", tmp_path / "organs")
        assert registry.folder_digest(pulled.path) == released.digest
        refused = {
            "see a training run": lambda: registry.open_run(tracking, run.id),
            "pull what is not released": lambda: registry.pull(tracking, first.label, tmp_path / "first"),
            "move an alias": lambda: registry.set_alias(tracking, first, "champion"),
            "write tags": lambda: registry.set_version_tags(tracking, released, {"a": "b"}),
            "register": lambda: registry.register(tracking, run.id, pulled.path, name="own", tags={}),
            "make an experiment": lambda: tracking.experiment_id("own"),
            "train": lambda: start_run(tracking, "own"),
            "release": lambda: tracking.client.create_run(tracking.experiment_id(Experiment.RELEASES)),
            "make a user": lambda: registry.set_user(tracking, "rob", "promoter", "a-long-password"),
        }
        assert_refused(refused)
    assert call(users, "/api/2.0/mlflow/registered-models/create", user="rita", body={"name": "own"}) == 403
    assert not (tmp_path / "first").exists()


def test_a_trainer_has_his_own_models_and_no_releases(users, models, saved_model, tmp_path):
    run, first, _ = models
    with users.login("tom") as tracking:
        tracking.experiment_id("toms-own")
    with users.login("tina") as tracking:
        assert registry.open_run(tracking, run.id).name == "tom's"  # trainers share the experiments of training
        assert registry.pull(tracking, first.label, tmp_path / "base").digest == first.digest
        own = registry.register(
            tracking, start_run(tracking, "tina's").id, saved_model, name="tinas", tags={}, alias="champion"
        )
        assert own.aliases == ("champion",)
        other = shutil.copytree(saved_model, tmp_path / "other")
        (other / "README.md").write_text("# tina's")
        refused = {
            "open another's experiment": lambda: tracking.experiment_id("toms-own"),
            "move another's alias": lambda: registry.set_alias(tracking, first, "champion"),
            "add to another's model": lambda: registry.register(tracking, run.id, other, name="organs", tags={}),
            "write another's tags": lambda: registry.set_version_tags(tracking, first, {"a": "b"}),
            "release": lambda: registry.register(
                tracking, run.id, saved_model, name="tinas", tags={}, experiment=Experiment.RELEASES
            ),
            "overwrite what is released": lambda: tracking.client.log_model_artifacts(
                tracking.client.get_model_version("organs", "2").model_id, str(saved_model)
            ),
        }
        assert_refused(refused)
    with users.login("rita") as tracking:  # made after her account was
        assert registry.resolve(tracking, "tinas").version == 1


def test_a_promoter_writes_releases_and_aliases_and_no_training(users, models):
    run, _, released = models
    with users.login("tom") as tracking:
        orphan = start_run(tracking, "orphan")
        orphan.set_tags({Tag.OWNER: f"{socket.gethostname()} 999999999 1"})
    with users.login("pam") as tracking:
        assert registry.open_run(tracking, run.id).name == "tom's"
        moved = registry.set_alias(tracking, released, "previous-champion")
        assert "previous-champion" not in registry.remove_alias(tracking, moved, "previous-champion").aliases
        assert_refused(
            {
                "train": lambda: start_run(tracking, "own"),
                "write another's run": lambda: registry.open_run(tracking, run.id).set_tags({"a": "b"}),
            }
        )
        assert registry.close_orphans(tracking) == []
    with users.login("tom") as tracking:
        assert registry.close_orphans(tracking) == [orphan.id]


def assert_refused(actions):
    for what, action in actions.items():
        with pytest.raises(Exception) as caught:
            action()
        assert isinstance(caught.value, AccessError) or "403" in str(caught.value), (what, caught.value)


def test_a_user_who_becomes_reader_loses_what_he_owned(users, saved_model):
    users.user("theo", "trainer")
    with users.login("theo") as tracking:
        version = registry.register(tracking, start_run(tracking, "theo's").id, saved_model, name="theos", tags={})
    users.user("theo", "reader")
    with users.login("theo") as tracking:
        assert_refused({"move an alias": lambda: registry.set_alias(tracking, version, "champion")})
        assert [experiment.name for experiment in tracking.client.search_experiments()] == [Experiment.RELEASES]


def test_doors_of_mlflow_that_lead_onto_the_machine_are_shut(users, models):
    run, _, _ = models
    create, version = "/api/2.0/mlflow/experiments/create", "/api/2.0/mlflow/model-versions/create"
    for key in ("artifact_location", "artifactLocation"):
        assert call(users, create, user="tom", body={"name": key, key: "/tmp/elsewhere"}) == 403
    assert call(users, version, user="tom", body={"name": "organs", "source": "s3://bucket/x"}) == 400
    assert call(users, "/ajax-api/3.0/mlflow/assistant/config", user="admin") == 403
    assert (
        call(users, f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run.id}&path=x", user="tom", body={}) == 403
    )
    assert call(users, "/api/2.0/mlflow/users/create", user="tom", body={}) == 403


def test_secrets_are_in_no_command_line_and_in_no_log(users, postgres):
    _, password_file = postgres
    secrets = [users.passwords[name] for name in ("admin", "tom")] + [password_file.read_text()]
    secrets.append((users.folder.path / "secret-key").read_text().strip())
    shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(users.port) in shown
    logs = users.log.read_text()
    assert "MLflow answers at" in logs
    for secret in secrets:
        assert secret not in shown
        assert secret not in logs
    assert users.folder.path.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in users.folder.path.iterdir())


def test_eight_writers_at_once_lose_nothing_and_make_nothing_twice(users, saved_model, tmp_path):
    with users.login("tom") as tracking:
        script = Path(__file__).with_name("writers.py")
        ended = subprocess.run(
            [sys.executable, script, users.uri, saved_model, tmp_path], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        said = json.loads((tmp_path / "said.json").read_text())
        assert len(said) == 8
        versions = [version for version in registry.list_versions(tracking) if version.name == "crowd"]
        assert [version.version for version in versions] == list(range(1, 17))
        assert sorted(version.digest for version in versions) == sorted(
            digest for one in said for digest in one["digests"]
        )
        assert len({version.digest for version in versions}) == 16
        runs = {record.id for record in registry.read_runs(tracking, kind="crowd")}
        assert runs == {one["run"] for one in said}
        for one in said:
            assert registry.metric_history(tracking, one["run"], "loss") == [(n, float(n)) for n in range(10)]


@pytest.mark.chaos
def test_a_server_killed_in_mid_upload_shows_no_half_version(users, hf_folder, tmp_path, monkeypatch):
    import numpy as np
    from safetensors.numpy import save_file

    for number in range(40):
        save_file({"x": np.full(2**18, number, dtype="float32")}, hf_folder / f"part-{number:02}.safetensors")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    artifacts, failed = users.folder.path / "artifacts", []
    with users.login("tom") as tracking:
        run = start_run(tracking, "cut")

        def register():
            try:
                registry.register(tracking, run.id, hf_folder, name="cut", tags={})
            except RegistryError as error:
                failed.append(str(error))

        processes = users.processes()
        upload = threading.Thread(target=register)
        upload.start()
        while upload.is_alive() and not list(artifacts.rglob("part-*")):
            time.sleep(0.002)
        users.kill(processes)
        upload.join()
        stored = len(list(artifacts.rglob("part-*.safetensors")))
        assert 0 < stored < 40, "the server was not killed in mid-upload"
        assert users.uri in failed[0]
        users.restart()
        assert registry.find_version(tracking, "cut") is None
        version = registry.register(tracking, run.id, hf_folder, name="cut", tags={})
        assert version.version == 1
        pulled = registry.pull(tracking, "cut", tmp_path / "pulled")
        assert registry.folder_digest(pulled.path) == version.digest == registry.folder_digest(hf_folder)
