"""A registered version answers alike wherever it is loaded: by MLflow, plain transformers, or clinscale alone."""

import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import mlflow.pyfunc
import pandas
import pytest
import torch
import transformers
from mlflow.exceptions import MlflowException

import clinscale
from clinscale import promotion, registry
from clinscale.errors import AccessError, ClinscaleError, ConfigError, DataError
from clinscale.predict import as_pyfunc, load_predictor, pyfunc
from clinscale.predict.requirements import locked_requirements

TASKS = ("demo_documents", "demo_pairs", "demo_entities", "demo_questions")
FAMILIES = ("longformer", "bigbird")
CASES = [(task, family) for task in TASKS for family in FAMILIES]
ONE_OF_EACH = list(zip(TASKS, FAMILIES * 2, strict=True))
"""Every kind and every family, for what depends on either alone: what is imported, and what a server hands out."""
MAX_TOKENS = 256
"""Shorter than most documents, so that windows are stitched."""


def rows_of(examples, predictor):
    columns = ["text", "text_pair"] if predictor.kind.name in ("pair", "spans") else ["text"]
    return [{name: getattr(example, name) for name in columns} for example in examples]


@pytest.fixture(scope="module")
def versions(folders, documents, mlflow_database, tmp_path_factory):
    """By (task, family): the pulled `folder`, the downloaded `model`, `rows` and what they were answered."""
    home = tmp_path_factory.mktemp("registry")
    shutil.copy(mlflow_database, home / "mlflow.db")
    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}")

    class Versions(dict):
        def __missing__(self, case):
            folder, name = folders(*case, MAX_TOKENS), "-".join(case)
            version = registry.register(tracking, run.id, folder, name=name, tags={}, pyfunc=as_pyfunc(folder))
            predictor, examples = load_predictor(folder), documents(case[0])[::3]
            self[case] = {
                "model": tracking.client.get_model_version_download_uri(name, str(version.version)),
                "folder": str(registry.pull(tracking, name, home / name).path),
                "rows": rows_of(examples, predictor),
                "answers": predictor.predict(examples),
            }
            return self[case]

    with registry.start_run(tracking, experiment="clinscale-sweep", name="x", tags={}, params={}) as run:
        yield Versions()


@pytest.mark.parametrize(("task", "family"), CASES)
def test_mlflow_loads_what_was_registered(task, family, versions):
    version = versions[task, family]
    model = mlflow.pyfunc.load_model(version["model"])
    assert not any(place.endswith("code.zip") for place in sys.path), (
        "which processes spawned from here would import"
    )
    table = pandas.DataFrame(version["rows"])
    assert model.predict(table) == version["answers"]
    assert all(model.predict(model.input_example)), "the example is answered"
    signature = model.metadata.signature
    assert signature.inputs.input_names() == list(version["rows"][0])
    assert set(signature.outputs.input_names()) == set(version["answers"][0])
    with pytest.raises(MlflowException) as refused:
        model.predict(table.rename(columns={"text": "note"}))
    assert version["rows"][0]["text"][:20] not in str(refused.value)
    [alone] = model.predict(table[-1:], params={"batch_size": 1})
    assert alone.keys() == version["answers"][-1].keys()


def test_a_row_without_text_keeps_no_other_from_its_answer(folders, documents):
    model, [example] = pyfunc.ClinscaleModel(), documents("demo_documents")[:1]
    model._predictor = load_predictor(folders("demo_documents", "longformer", MAX_TOKENS))
    rows = [{"text": example.text}, {"text": float("nan")}, {"text": ["canary"]}]
    with pytest.raises(DataError, match="input row 2: column 'text' has no text"):
        model.predict(None, rows)
    usual = model._predictor.batch_size
    answered, blank, odd = model.predict(None, rows, {"on_error": "skip", "batch_size": 1})
    assert model._predictor.batch_size == usual > 1, "params of one call were those of the next"
    assert set(answered) == {"label", "labels", "scores"}
    assert blank == {"error": "column 'text' has no text"}
    assert "canary" not in odd.pop("error")
    assert not odd
    for unread in ("a\0b", "\u200b"):  # as `clinscale predict` refuses them
        with pytest.raises(DataError, match="input row 1: "):
            model.predict(None, [{"text": unread}])
    with pytest.raises(ConfigError, match="on_error must be raise or skip"):
        model.predict(None, rows, {"on_error": "ignore"})


def test_a_version_holds_no_word_on_the_makers_folders(versions, folders):
    task, family = CASES[0]
    model, made = Path(versions[task, family]["model"]), folders(task, family, MAX_TOKENS)
    stored = [file for file in model.rglob("*") if file.is_file()]
    assert {"MLmodel", "requirements.txt", "input_example.json", "pyfunc.py"} <= {file.name for file in stored}
    [archive] = (file for file in stored if file.suffix == ".zip")
    code = [zipfile.Path(archive, name).read_bytes() for name in zipfile.ZipFile(archive).namelist()]
    assert not [
        one for one in (*code, *(file.read_bytes() for file in stored)) if str(made.parent).encode() in one
    ]


@pytest.mark.parametrize(("task", "family"), CASES)
def test_plain_transformers_gives_the_same_numbers(task, family, folders, documents):
    """A document of one window; nothing but the tokenizer's output need be passed, Longformer's global attention
    is then HF's own default."""
    folder = folders(task, family)
    mine, example = load_predictor(folder), documents(task)[0]
    loader = {
        "sequence": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForTokenClassification,
        "spans": transformers.AutoModelForQuestionAnswering,
    }[mine.kind.head]
    plain, tokenizer = loader.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    texts = {"pair": (example.text, example.text_pair), "spans": (example.text_pair, example.text)}
    batch = tokenizer(*texts.get(mine.kind.name, (example.text,)), return_tensors="pt")
    [window] = mine.windows(example)
    assert batch["input_ids"][0].tolist() == list(window.input_ids)
    with torch.no_grad():
        outputs = {name: value[0].numpy() for name, value in plain(**batch).items()}
    theirs = mine.kind.decode(example, [window], [outputs], mine.card.labels)
    assert_close(theirs, mine.predict([example])[0])


def assert_close(left, right):
    """Equal but for the fifth place of what is not whole."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        left, right = list(left.values()), list(right.values())
    if isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=1e-5)
    else:
        assert left == right


@pytest.fixture(scope="module")
def minimal_python(tmp_path_factory):
    """A Python that sees the locked packages, linked from here, and no others."""
    root = tmp_path_factory.mktemp("minimal")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    [site] = root.glob("lib/*/site-packages")
    owners = importlib.metadata.packages_distributions()
    shared = {name for name, of in owners.items() if len(set(of)) > 1}
    for line in locked_requirements():
        distribution = importlib.metadata.distribution(line.partition("==")[0])
        for place in {file if file.parts[0] in shared else Path(file.parts[0]) for file in distribution.files}:
            if place.parts[0] not in ("..", "__pycache__"):
                (site / place).parent.mkdir(parents=True, exist_ok=True)
                (site / place).symlink_to(distribution.locate_file(place))
    uvicorn = root / "bin" / "uvicorn"  # MLflow serves through its script
    uvicorn.write_text(f"#!{root}/bin/python\nfrom uvicorn.main import main\n\nmain()\n")
    uvicorn.chmod(0o700)
    return root / "bin" / "python"


def environment(**more):
    """Without what would let the outside in."""
    hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def ask_elsewhere(versions, python, folder, **more):
    """What the versions answer to a process of that Python: the answers, and what it told people."""
    asked = {
        "versions": versions,
        "checkout": str(Path(clinscale.__file__).parents[1]),
        "out": str(folder / "answers.json"),
    }
    done = subprocess.run(
        [python, Path(__file__).with_name("elsewhere.py")],
        input=json.dumps(asked, default=str),
        env=environment(**more),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text()), done.stderr


def test_a_version_answers_where_only_its_requirements_are_installed(versions, minimal_python, tmp_path):
    asked = [versions[case] for case in ONE_OF_EACH]
    answered, told = ask_elsewhere(asked, minimal_python, tmp_path)
    expected = [version["answers"] for version in asked]
    assert answered["importable"] == []
    assert answered["pyfunc"] == expected
    assert answered["package"] == expected
    assert Path(answered["wins"]).is_relative_to(asked[0]["model"]), "an installed clinscale came first"
    assert (answered["predict"], answered["pull"]) == (0, 2)
    place = {"id": "answers:1", "file": str(tmp_path / "answers.csv"), "row": 1}
    assert answered["predicted"][0] == {**place, **expected[0][0]}
    assert [answer.keys() - place.keys() for answer in answered["predicted"]] == [set(one) for one in expected[0]]
    assert "only mlflow-skinny is installed" in told


@pytest.mark.slow
def test_a_reader_gets_the_same_answers_from_a_server_with_postgresql(
    versions, folders, team_server, minimal_python, tmp_path
):
    """Registered by a trainer, released by a promoter; the reader sees neither training nor the checkout's packages."""
    for name, role in (("trainer", "trainer"), ("promoter", "promoter"), ("reader", "reader")):
        team_server.user(name, role)
    names = {case: "-".join(case) for case in (ONE_OF_EACH[0], ONE_OF_EACH[-1])}
    with (
        team_server.login("trainer") as tracking,
        registry.start_run(tracking, experiment=registry.Experiment.SWEEP, name="x", tags={}, params={}) as run,
    ):
        for case, name in names.items():
            tags = {registry.Tag.KIND: "task"}  # its code comes with the release
            registry.register(tracking, run.id, folders(*case, MAX_TOKENS), name=name, tags=tags)
    with team_server.login("promoter") as tracking:
        for name in names.values():
            version, _ = promotion.promote(tracking, f"{name}/1", home=tmp_path / "promoter", force="for the test")
            assert version.aliases == ("champion",)
    wanted = [
        {
            "model": f"models:/{name}@champion",
            "reference": f"{name}@champion",
            "folder": str(tmp_path / "pulled" / name),
            "rows": versions[case]["rows"],
        }
        for case, name in names.items()
    ]
    login = {"USERNAME": "reader", "PASSWORD": team_server.passwords["reader"], "URI": team_server.uri}
    answered, _ = ask_elsewhere(
        wanted, minimal_python, tmp_path, **{f"MLFLOW_TRACKING_{key}": value for key, value in login.items()}
    )
    expected = [versions[case]["answers"] for case in names]
    assert answered["importable"] == []
    assert answered["pyfunc"] == expected
    assert answered["package"] == expected
    with team_server.login("reader") as tracking, pytest.raises(AccessError, match="this account may not"):
        registry.pull(tracking, f"{name}/1", tmp_path / "candidate")


def test_mlflow_serves_a_version_over_http(versions, minimal_python, tmp_path):
    version = versions["demo_questions", "longformer"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [minimal_python, "-m", "mlflow", "models", "serve", "--model-uri", version["model"]]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port), "--workers", "1"],
            env=environment(PATH=f"{minimal_python.parent}{os.pathsep}{os.environ['PATH']}"),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
            asked = {"dataframe_records": version["rows"], "params": {"batch_size": 2}}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps(asked).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                assert_close(json.load(reply)["predictions"], version["answers"])
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def wait_for(url, server, log):
    while server.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.parametrize(
    ("row", "params", "message"),
    [
        ({"note": "canary"}, None, "row 1: column 'text' has no text"),
        ({"text": None}, None, "row 1: column 'text' has no text"),
        ({"text": "canary", "text_pair": float("nan")}, None, "row 1: column 'text_pair' has no text"),
        ({"text": "canary", "text_pair": "canary"}, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_the_served_model_names_bad_input_without_its_text(row, params, message, folders):
    model = pyfunc.ClinscaleModel()
    context = type("Context", (), {"artifacts": {"hf": str(folders("demo_pairs", "bigbird"))}})
    model.load_context(context)
    with pytest.raises(ClinscaleError, match=message) as caught:
        model.predict(context, pandas.DataFrame([row]), params)
    assert isinstance(caught.value, ConfigError if params else DataError)
    assert "canary" not in str(caught.value)
