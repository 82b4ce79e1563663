"""What a version takes along is all that prediction needs, and no more."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clinscale import registry
from clinscale.errors import DataError
from clinscale.predict import as_pyfunc, packaging
from clinscale.predict.requirements import locked_requirements, write_requirements
from clinscale.registry.folders import hash_folder
from clinscale.registry.mlflow_model import saved_model


def test_the_locked_packages_are_exact_and_few():
    locked = dict(line.split("==") for line in locked_requirements())
    assert locked["torch"] == "2.13.0", "without the name of a build"
    assert {"transformers", "mlflow-skinny", "numpy", "typer", "starlette"} <= locked.keys()
    assert (
        not {"clinscale", "ray", "deepspeed", "datasets", "duckdb", "optuna", "mlflow", "triton"} & locked.keys()
    )


def test_a_folder_says_what_it_needs(folders, tmp_path):
    folder = folders("demo_pairs", "longformer")
    write_requirements(tmp_path)
    assert (tmp_path / "requirements.txt").read_bytes() == (folder / "requirements.txt").read_bytes()
    assert as_pyfunc(folder).pip_requirements == locked_requirements()
    assert registry.folder_digest(folder), "pull takes it"


def test_a_version_keeps_the_packages_that_its_folder_was_made_with(folders, tmp_path):
    made = folders("demo_pairs", "longformer")
    (tmp_path / "task_card.json").write_bytes((made / "task_card.json").read_bytes())
    (tmp_path / "requirements.txt").write_text("# made elsewhere\ntorch==2.12.0\n")
    assert as_pyfunc(tmp_path).pip_requirements == ("torch==2.12.0",)


def test_the_code_of_a_version_is_complete(folders):
    code = as_pyfunc(folders("demo_pairs", "longformer")).code_files
    carried = {place.split("/")[1].removesuffix(".py") for place in code}
    for place, file in code.items():
        text = re.sub(r"^if TYPE_CHECKING:\n( .*\n|\n)+", "", file.read_text(), flags=re.MULTILINE)
        named = set(re.findall(r"^\s*from clinscale\.(\w+)", text, re.MULTILINE))
        assert named <= carried, f"{place} needs {named - carried}"
    assert not {"registry", "engine", "finetune", "sweep", "cli", "corpus", "runtime"} & carried


def test_a_version_carries_its_code_as_one_file_of_the_same_bytes_each_time(folders, tmp_path):
    pyfunc, files = as_pyfunc(folders("demo_pairs", "longformer")), []
    for copy in ("one", "other"):
        hf_folder = shutil.copytree(folders("demo_pairs", "longformer"), tmp_path / copy / "hf")
        with saved_model(hf_folder, hash_folder(hf_folder, source="test"), pyfunc) as (saved, _):
            files.append((saved / "code" / "code.zip").read_bytes())
            [alone] = (saved / "code").iterdir()
            assert set(zipfile.ZipFile(alone).namelist()) == set(pyfunc.code_files)
            assert sum(path.is_file() for path in saved.rglob("*")) < 25
    assert files[0] == files[1]


def test_a_base_model_has_no_pyfunc(base_models):
    with pytest.raises(DataError, match=r"has no task_card\.json"):
        as_pyfunc(base_models["longformer"])


def test_a_version_takes_along_every_room_that_prediction_imports():
    code = "import sys, clinscale.predict; print(*(m for m in sys.modules if m.startswith('clinscale.')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    carried = {Path(name).parts[1].removesuffix(".py") for name in packaging._own_code()}
    assert {module.split(".")[1] for module in told.stdout.split()} <= carried
