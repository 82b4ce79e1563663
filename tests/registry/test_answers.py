"""A server that is away is waited for and named; what it made is not made again because its answer was lost."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading

import pytest
import requests

from clinscale import patience, registry
from clinscale.errors import RegistryError
from clinscale.registry import Tag, answers

SETTINGS = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def ill_server(how, times):
    """A server that is ill for its first requests, and then has no experiments; its URI."""
    left = [times]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            left[0] -= 1
            is_ill = left[0] >= 0
            if is_ill and how == "closes":
                return
            self.send_response(500 if is_ill and how == "500" else 200)
            self.end_headers()
            self.wfile.write(b"<html>Mr Jones, ward 5</html>" if is_ill else b'{"experiments": []}')

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


ILLS = {"closes": "the connection was closed", "500": "HTTP 500", "nonsense": "what answers is not MLflow"}


@pytest.mark.parametrize(("how", "why"), ILLS.items(), ids=ILLS)
def test_a_server_that_is_ill_at_first_is_waited_for_and_both_are_said(how, why, caplog):
    with ill_server(how, times=4) as uri:
        assert registry.connect(uri, patience_s=60).uri == uri
    assert [record.getMessage() for record in caplog.records] == [
        f"tracking server {uri} does not answer ({why}); trying again for 60 s",
        f"tracking server {uri} answers again",
    ]
    assert not {*SETTINGS} & os.environ.keys()


@pytest.mark.parametrize(("how", "why"), ILLS.items(), ids=ILLS)
def test_who_does_not_wait_hears_at_once_what_ails_it_and_nothing_that_it_answered(how, why, caplog):
    with ill_server(how, times=100) as uri, pytest.raises(RegistryError) as caught:
        registry.connect(uri)
    assert str(caught.value) == (
        f"tracking server {uri} could not be reached ({why}); check that it runs and that --tracking-uri or "
        "MLFLOW_TRACKING_URI names it"
    )
    assert not caplog.records


def test_users_who_set_mlflows_retries_get_those_instead(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ill_server("500", times=1) as uri, pytest.raises(RegistryError, match="HTTP 500"):
        registry.connect(uri, patience_s=60)
    assert not caplog.records
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_a_process_that_begins_within_a_call_has_the_users_settings(monkeypatch):
    monkeypatch.setenv(SETTINGS[1], "7")
    code = f"import os; from clinscale.registry import answers; print([os.environ.get(one) for one in {SETTINGS}])"
    assert answers.answered("place", subprocess.check_output, [sys.executable, "-c", code]) == b"[None, '7']\n"


def test_a_patient_call_beside_an_impatient_one_leaves_no_setting_behind():
    with answers._settings(answers.PATIENT):
        with answers._settings(answers.IMPATIENT):
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "4"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    first, second = answers._settings(answers.IMPATIENT), answers._settings(answers.PATIENT)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # as of two threads
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    second.__exit__(None, None, None)
    assert not {*SETTINGS} & os.environ.keys()


@pytest.fixture
def forgetful(tracking, monkeypatch):
    """A client of the test's database that does what it is asked and loses the answers to `making` once each."""
    client, lost = tracking.client, []

    def losing(name, method):
        def call(*arguments, **named):
            answer = method(*arguments, **named)
            if name not in lost:
                lost.append(name)
                raise requests.ConnectionError("Remote end closed connection without response")
            return answer

        return call

    for name in ("create_run", "create_model_version"):
        monkeypatch.setattr(client, name, losing(name, getattr(client, name)))
    monkeypatch.setattr(
        registry.Tracking, "once", lambda self, make, *rest: answers.once(self.place, lambda: make(client), *rest)
    )
    return lost


def test_a_lost_answer_makes_no_second_run_and_no_second_version(tracking, forgetful, hf_folder):
    with registry.start_run(tracking, experiment="e", name="r", tags={Tag.KIND: "sweep"}, params={}) as run:
        version = registry.register(tracking, run.id, hf_folder, name="radiology", tags={"a": "b"})
    assert forgetful == ["create_run", "create_model_version"]
    assert [record.id for record in registry.read_runs(tracking)] == [run.id]
    assert registry.list_versions(tracking) == [version]
    assert (version.version, version.tags["a"], version.run_id) == (1, "b", run.id)


def test_a_request_that_was_thought_lost_and_comes_late_is_taken_back():
    """A stopped server has it in its queue, and serves it after it was asked again."""
    there, asked = [], []

    def make():
        asked.append(1)
        if len(asked) == 1:
            raise requests.ReadTimeout
        there.extend(["late", "second"])
        return "second"

    assert answers.once("place", make, lambda: [*there], there.remove) == "late"
    assert there == ["late"]
    assert len(asked) == 2


def test_a_store_behind_the_server_that_is_away_is_waited_for(caplog):
    away = type(
        "EndpointConnectionError", (type("ConnectionError", (Exception,), {"__module__": "botocore.x"}),), {}
    )
    asked = []

    def ask():
        asked.append(1)
        if len(asked) < 3:
            raise away("Could not connect")
        return "there"

    assert answers.answered("place", ask) == "there"
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "tracking server place does not answer (EndpointConnectionError)",
        "tracking server place answers again",
    ]
