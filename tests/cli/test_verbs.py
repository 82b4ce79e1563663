"""Doors: names, help with an example, one JSON document on stdout, a light start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from clinscale.cli.main import app


def verbs_below(command, path=()):
    """Every verb of the app, and each group that answers by itself."""
    groups = getattr(command, "commands", {})
    if path and (not groups or command.invoke_without_command):
        yield path
    for name, inner in groups.items():
        yield from verbs_below(inner, (*path, name))


VERBS = sorted(verbs_below(typer.main.get_command(app)))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_with_an_example(verb, clinscale):
    helped = clinscale(*verb, "--help")
    assert helped.returncode == 0
    assert f"clinscale {' '.join(verb)}" in helped.stdout
    assert "Example" in helped.stdout
    assert helped.stderr == ""


def test_the_command_line_starts_light():
    """A plan, too, is arithmetic alone."""
    heavy = {"torch", "ray", "mlflow", "transformers", "deepspeed", "scipy", "sklearn", "pandas"}
    words = ["plan", "pretrain", "clinical-longformer", "--gpu", "h100"]
    code = f"import sys\nfrom clinscale.cli.main import app\napp({words}, standalone_mode=False)\n"
    code += f"print('modules', *{heavy} & set(sys.modules))"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert started.stdout.splitlines()[-1] == "modules"


def test_version_goes_to_stdout(clinscale):
    assert clinscale("--version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["tasks"], {"tasks"}),
        (["tasks", "show", "demo_entities", "--data", "DATA"], {"documents", "examples", "labels", "rejected"}),
        (["corpus", "show", "SHARDS"], {"uri", "fingerprint", "train_tokens"}),
        (["models", "--home", "HOME"], {"models"}),
        (["report", "--home", "HOME", "--out", "HOME/r.html"], {"report"}),
        (
            [
                "bench",
                "attention",
                *["--tokens", "1024", "--hidden-size", "64", "--repeats", "1", "--precision", "fp32"],
            ],
            {"what", "machine", "versions", "load", "ratios", "equal"},
        ),
        (["doctor", "--quick", "--home", "HOME"], {"healthy", "checks"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("tracking")
def test_json_is_all_that_stdout_holds(command, keys, demo_data, shards, tmp_path, clinscale):
    places = {"DATA": str(demo_data), "SHARDS": shards.uri, "HOME": str(tmp_path)}
    words = [
        word.replace("HOME", places["HOME"]) if "HOME" in word else places.get(word, word) for word in command
    ]
    ran = clinscale(*words, "--json")
    assert ran.returncode == 0, ran.stderr
    assert keys <= set(json.loads(ran.stdout))


@pytest.mark.usefixtures("tracking")
def test_predict_reads_and_writes_what_users_have(demo_data, base_models, tmp_path, clinscale):
    """`finetune` makes a folder, `predict` answers from it on a CSV and on a text file."""
    trained = clinscale(
        *["finetune", "--task", "demo_pairs", "--data", demo_data, "--model", base_models["bigbird"]],
        *["--home", tmp_path, "--name", "one", "recipe.epochs=1", "recipe.max_tokens=64", "--json"],
    )
    assert trained.returncode == 0, trained.stderr
    folder = Path(json.loads(trained.stdout)["path"])
    rows = "0,the patient has a fever,there is fever\n0,,no fever\n"
    (tmp_path / "new.csv").write_text(f"id,premise,hypothesis\n{rows}")
    command = ["predict", folder, tmp_path / "new.csv", "--out", tmp_path / "out.jsonl", "--json"]
    refused = clinscale(*command)
    assert refused.returncode == 2
    assert (
        "new.csv row 2: column 'premise' has no text; fix it, or answer the others by on_error=skip (--on-error skip)"
        in refused.stderr
    )
    assert not (tmp_path / "out.jsonl").exists()
    told = clinscale(*command, "--on-error", "skip")
    assert told.returncode == 0, told.stderr
    answered = json.loads(told.stdout)
    assert (answered["documents"], answered["errors"], answered["repeated_ids"]) == (2, 1, 1)
    prediction, fault = answered["predictions"]
    assert prediction["id"] == "0"
    assert sum(prediction["scores"].values()) == pytest.approx(1)
    assert fault == {
        **{"id": "0", "file": str(tmp_path / "new.csv"), "row": 2},
        "error": "column 'premise' has no text",
    }
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [prediction, fault]
