"""What a verb writes mixes with no model and no corpus, and takes the place of nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

import clinscale.report
from clinscale.cli.outputs import check_new, check_place, is_bill, is_report
from clinscale.errors import ConfigError


@pytest.mark.parametrize("below", ["o.jsonl", "sub/o.jsonl"])
def test_no_place_is_in_a_model_or_a_corpus(below, base_models, shards, tmp_path):
    model = shutil.copytree(base_models["longformer"], tmp_path / "model")
    (tmp_path / "linked").symlink_to(model)
    for folder, what in ((model, "a model"), (tmp_path / "linked", "a model"), (Path(shards.uri), "a ShardSet")):
        with pytest.raises(ConfigError, match=f"o.jsonl must not be in the folder of {what}, got "):
            check_place(folder / below)
    (model / "model.safetensors").unlink()
    check_place(model / below)  # settings of something else
    check_place(tmp_path / below)


def test_a_file_takes_the_place_of_one_of_its_own_sort(tmp_path):
    out = tmp_path / "out"
    check_new(out)
    out.touch()
    check_new(out)
    page = "<!doctype html>\n<head>\n<title>clinscale report</title>\n"
    for text, is_one in ((page, is_report), (json.dumps({"bomFormat": "CycloneDX"}), is_bill)):
        out.write_text(text)
        check_new(out, is_one)
        with pytest.raises(ConfigError, match="must not take the place of a file that is there"):
            check_new(out)
        for other in ("id,text\n1,pain\n", "<!doctype html>\n<title>Ward 3</title>\n"):
            out.write_text(other)
            with pytest.raises(
                ConfigError, match="must not take the place of a file of another kind; choose another name"
            ):
                check_new(out, is_one)
    check_new(tmp_path / ("x" * 300), is_report)  # who writes it says that the name is too long


def test_what_report_writes_is_known_as_its_own():
    assert is_report(Path(clinscale.report.__file__).with_name("page.html.jinja"))


def test_a_link_stays_one_and_no_pipe_becomes_a_file(tmp_path):
    (tmp_path / "out.html").symlink_to(tmp_path / "elsewhere" / "out.html")
    assert check_new(tmp_path / "out.html", is_report) == tmp_path / "elsewhere" / "out.html"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"pipe must be a file, got a pipe or device; choose another name"):
        check_new(tmp_path / "pipe", is_report)


@pytest.mark.parametrize(
    "verb",
    [
        ["report", "--home", "HOME", "--out"],
        ["doctor", "--quick", "--home", "HOME", "--sbom"],
        ["models", "bom", "m/1", "--home", "HOME", "--out"],
        ["bench", "search", "--model", "m", "--record"],
        ["predict", "no-model", "notes.csv", "--home", "HOME", "--out"],
    ],
)
def test_no_verb_writes_over_a_table_of_notes(verb, here, tmp_path):
    notes = tmp_path / "notes.csv"
    notes.write_text("id,text\n1,pain\n")
    with pytest.raises(ConfigError, match=r"notes\.csv must not take the place of a file"):
        here(*(str(tmp_path) if word == "HOME" else word for word in verb), notes)
    assert notes.read_text() == "id,text\n1,pain\n"
    assert list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize(
    "verb",
    [
        ["models", "convert", "MODEL", "--family", "bigbird", "--out", "MODEL/new"],
        ["pull", "m", "--home", "HOME", "--out", "MODEL/new"],
        ["corpus", "build", "HOME/notes.csv", "--out", "MODEL/new"],
        ["bench", "all", "--only", "attention", "--record", "MODEL/new.json"],
        ["cluster", "render", "docker", "--out", "MODEL"],
        ["report", "--home", "HOME", "--out", "MODEL/new.html"],
    ],
)
def test_no_verb_adds_to_the_files_of_a_model(verb, here, base_models, tmp_path):
    model = shutil.copytree(base_models["longformer"], tmp_path / "model")
    (tmp_path / "notes.csv").write_text("id,text\n1,pain\n")
    before = sorted(model.rglob("*"))
    with pytest.raises(ConfigError, match="must not be in the folder of a model"):
        here(*(word.replace("MODEL", str(model)).replace("HOME", str(tmp_path)) for word in verb))
    assert sorted(model.rglob("*")) == before
