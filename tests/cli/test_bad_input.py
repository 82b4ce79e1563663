"""Every mistake a user can make: one clear sentence, exit code 2, no note text, nothing half-written."""

import gzip
import json
import os
import shutil

import pytest

CANARY = "canary-of-a-note"


def files_in(folder):
    """All files below, without the tracking database that a verb opens to look into."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "mlflow.db" not in path.name}


@pytest.fixture
def place(tmp_path, mlflow_database):
    """A working folder with good and bad files, and an empty registry."""
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    (tmp_path / "notes.csv").write_text(f"id,text,label\n1,{CANARY} one,a\n2,{CANARY} two,b\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "no.key").write_text("none")
    (tmp_path / "no.key").chmod(0o600)
    (tmp_path / "blank.csv").write_text(f"id,text,label\n1,{CANARY},a\n2,,b\n")
    (tmp_path / "latin.csv").write_bytes(b"id,text,label\n1," + CANARY.encode() + b" \xe9,a\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((CANARY * 99).encode())[:-12])
    (tmp_path / "not-a-model").mkdir()
    task = "name: t\nkind: sequence\nformat: records\nsplits: {all: %s}\nsplit_ratios: [0.6, 0.2, 0.2]\n"
    for name in ("notes", "blank", "latin", "empty"):
        (tmp_path / f"{name}.yaml").write_text(task % f"{name}.csv")
    (tmp_path / "columns.yaml").write_text(task % "notes.csv" + "columns: {text: txt}\n")
    (tmp_path / "typo.yaml").write_text("name: t\nkind: sequence\nformt: records\n")
    space = "parameters:\n  optimizer.learning_rate: {type: float, low: %s, high: 1e-5}\n"
    (tmp_path / "inverted.yaml").write_text(space % "1e-3")
    (tmp_path / "unknown.yaml").write_text(space.replace("learning_rate", "learning_rat") % "1e-6")
    return tmp_path


def build(*arguments):
    return ["corpus", "build", *arguments, "--out", "shards"]


def tune(*arguments, task="demo_pairs", model="not-a-model"):
    return ["tune", "--task", task, "--data", ".", "--model", model, "--home", ".", *arguments]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (build("nowhere.csv"), "nowhere.csv does not exist"),
        (build("empty.csv"), "empty.csv is empty"),
        (build("cut.csv.gz"), "cut.csv.gz cannot be read"),
        (
            build("notes.csv", "--text-column", "txt"),
            "no column 'txt'; did you mean text?",
        ),
        (build("blank.csv", "cleaning.empty=raise"), "blank.csv row 2: column 'text' has no text"),
        (build("latin.csv"), "latin.csv is not valid UTF-8 at byte 33"),
        (build("notes.csv", "cleaning.lower_cas=true"), "did you mean lower_case?"),
        (["corpus", "show", "not-a-model"], "not-a-model"),
        (["tasks", "show", "demo_pears"], "did you mean demo_pairs?"),
        (["tasks", "show", "typo.yaml"], "formt is not a known key; did you mean format?"),
        (["tasks", "show", "columns.yaml", "--data", "."], "no column 'txt'"),
        (["tasks", "show", "blank.yaml", "--data", "."], "blank.csv row 2: column 'text' has no text"),
        (["tasks", "show", "latin.yaml", "--data", "."], "not valid UTF-8 at byte 33"),
        (["tasks", "show", "empty.yaml", "--data", "."], "empty.csv is empty"),
        (["pretrain", "nothing.yaml", "--home", "."], "nothing.yaml does not exist"),
        (
            ["pretrain", "name=x", "recipe.shrads=y", "--home", "."],
            "recipe.shrads is not a known key; did you mean shards",
        ),
        (["pretrain", "clinical-longfromer", "--home", "."], "did you mean clinical-longformer?"),
        (["pretrain", "name=x", "recipe.shards=y", "recipe.precision=fp16", "--home", "."], "fp16 needs GPUs"),
        (["pretrain", "verify-resume", "nothing.yaml", "--home", "."], "nothing.yaml does not exist"),
        (build("notes.csv", "--leakage", "mimic_aki"), "--leakage mimic_aki must read TASK=PATH"),
        (["pretrain", "--resume", "gone", "--home", "."], "no pretraining run 'gone'"),
        (tune("--space", "inverted.yaml"), "low must not exceed high, got low=0.001 and high=1e-05"),
        (tune("--space", "unknown.yaml"), "did you mean optimizer.learning_rate?"),
        (tune("recipe.budget.trails=3"), "did you mean trials?"),
        (tune("recipe.budget.trials=0"), "budget.trials must be at least 1"),
        (tune("--resume", "earlier"), "--resume takes all it needs"),
        (["tune", "--resume", "earlier", "--home", "."], "no sweep 'earlier' in ."),
        (["tune", "--task", "demo_pairs", "--model", "x"], "--data is needed"),
        (tune("--data", "a", "--data", "b"), "--data is given once, or once per --task"),
        (
            ["finetune", "--task", "notes.yaml", "--data", ".", "--model", "gone", "--home", "."],
            "known: none; a folder is named by its path, which is not here, and a model of the hub as ORG/NAME",
        ),
        (["pull", "gone@champion", "--out", "here", "--home", "."], "no model 'gone'"),
        (["pull", "a/b/c", "--out", "here", "--home", "."], "must read NAME, NAME@alias or NAME/3"),
        (["pull", "m", "--out", "here", "--home", ".", "--offline"], "models.lock does not hold m"),
        (["pull", "m", "--out", "here", "--lock", "notes.csv", "--home", "."], "notes.csv"),
        (["pull", "m", "--out", "here", "--offline", "--update"], "give one of them"),
        (
            ["models", "sign", "gone", "--key", "no.key", "--home", "."],
            "no.key holds no ed25519 private key",
        ),
        (["models", "show", "gone", "--home", "."], "no model 'gone'"),
        (["predict", "gone", "notes.csv", "--home", "."], "no model 'gone'"),
        (["predict", "not-a-model", "notes.csv", "--home", "."], "no config.json"),
        (["predict", "not-a-model", "notes.csv", "--workers", "2", "--home", "."], "add --out predictions.jsonl"),
        (["models", "scan", "gone.csv", "--home", "."], "gone.csv does not exist"),
        (["models", "--tracking-uri", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["report", "--tracking-uri", "http://127.0.0.1:1", "--out", "r.html"], "http://127.0.0.1:1"),
        (["report", "--home", ".", "--out", "notes.csv/r.html"], "notes.csv/r.html"),
        (["cluster", "render", "awz"], "did you mean aws?"),
        (["cluster", "render", "on-prem", "hed=10.0.0.1"], "hed is not a known key; did you mean head?"),
        (["cluster", "render", "on-prem", "head=10.0.0.1", "workers=10.0.0.1"], "is among the workers"),
        (["cluster", "render", "docker", "--out", "notes.csv"], "notes.csv cannot be written to"),
        (["cluster", "render", "slurm", "nodes"], "must read key.path=value"),
        (["cluster", "check", "gone.yaml"], "gone.yaml does not exist"),
        (["cluster", "check", "notes.csv"], "notes.csv is no launch file"),
        (["cluster", "check", "typo.yaml"], "typo.yaml is no launch file"),
        (build("year=2021/notes.csv"), "year=2021/notes.csv is no file or folder, nor a setting"),
        (["report", "--home", ".", "--out", "notes.csv/[/b]\x1b[31m.html"], r"[/b]\x1b[31m.html"),
        (["tasks", "show", os.fsdecode(b"\xff.yaml")], "argument 3 is not UTF-8"),
        (["models", "--home", "s3://bucket/x"], "got a place of s3; name a local path"),
        (
            ["predict", "not-a-model", "notes.csv", "--out", "gs://b/out.jsonl"],
            "got a place of gs; name a local path",
        ),
        (["tune", "--nonsense"], "No such option"),
        (["tuen"], "tune"),
    ],
)
def test_the_mistake_is_named_and_nothing_is_written(command, message, place, clinscale):
    before = files_in(place)
    ended = clinscale(*command, cwd=place)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert sum(line.startswith("error:") for line in ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert CANARY not in ended.stderr
    # a corpus build that fails while it reads may leave its folder, but nothing that opens as a ShardSet
    assert {path for path in files_in(place) - before if not path.startswith("shards")} == set()
    assert not (place / "shards" / "manifest.json").exists()


def test_a_folder_that_is_no_hf_model_is_named(place, clinscale):
    rows = "".join(f"{number},{CANARY} {number},{'ab'[number % 2]}\n" for number in range(40))
    (place / "notes.csv").write_text("id,text,label\n" + rows)
    given = ["--task", "notes.yaml", "--data", ".", "--model", "not-a-model", "--home", "."]
    ended = clinscale("finetune", *given, cwd=place)
    assert ended.returncode == 2, ended.stderr
    assert "not-a-model is not an HF model folder: it has no config.json" in ended.stderr
    assert CANARY not in ended.stderr


def test_two_corpora_under_one_name_are_refused(place, clinscale):
    (place / "notes.csv").write_text("id,text\n" + "".join(f"{n},{CANARY} number {n}\n" for n in range(50)))
    arguments = build("notes.csv", "vocab_size=300", "--json")
    first = clinscale(*arguments, cwd=place)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["train_documents"] > 0
    again = clinscale(*arguments, cwd=place)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    other = clinscale(*build("notes.csv", "vocab_size=301"), cwd=place)
    assert other.returncode == 2
    assert "vocab_size: 300 -> 301" in other.stderr
