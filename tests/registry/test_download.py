import io
import json
import shutil
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from clinscale import patience, registry
from clinscale.cli import models
from clinscale.errors import RegistryError
from clinscale.registry import answers
from clinscale.registry.stored import StoredFiles
from clinscale.storage import sha256


def test_the_bill_of_a_registered_version_holds_its_very_files(tracking, register_base, hf_folder, tmp_path):
    (hf_folder / "requirements.txt").write_text("# made with Python 3.11\nnumpy==2.4.6\n")
    label, out = register_base(hf_folder).label, tmp_path / "bill.json"
    told = CliRunner().invoke(models.app, ["bom", label, "--home", str(tmp_path), "--out", str(out)])
    assert told.exit_code == 0, told.output
    bill = json.loads(out.read_text())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    files = {one["name"]: one["hashes"][0]["content"] for one in bill["components"] if one["type"] == "file"}
    assert files == {f"artifacts/hf/{file.name}": sha256(file) for file in hf_folder.iterdir()}
    assert [one["name"] for one in bill["components"] if one["type"] == "library"] == ["numpy"]
    printed = CliRunner().invoke(models.app, ["bom", label, "--home", str(tmp_path)])
    assert printed.exit_code == 0


@pytest.mark.parametrize("name", ["manifest.json", "artifacts/hf/requirements.txt"])
def test_no_bill_of_files_that_were_changed(tracking, register_base, hf_folder, tmp_path, name):
    (hf_folder / "requirements.txt").write_text("numpy==2.4.6\n")
    version = register_base(hf_folder)
    [stored] = [path for path in tmp_path.rglob(name.rpartition("/")[2]) if path.parent != hf_folder]
    stored.write_text(stored.read_text().replace("2", "3", 1))
    with pytest.raises(RegistryError, match="changed"):
        registry.stored_files(tracking, version)


class Bucket:
    """The folder of a version as the driver of an object store gives it."""

    def __init__(self, repository, faults):
        self._repository, self._faults = repository, faults
        self.list_artifacts = repository.list_artifacts

    def _download_file(self, path, target):
        if self._faults:
            raise self._faults.pop()
        shutil.copy(self._repository.get_local_path(path), target)


def test_a_version_in_an_object_store_is_pulled_and_its_refusal_is_said_by_its_code(
    tracking, register_base, hf_folder, tmp_path, monkeypatch
):
    from mlflow.store.artifact import artifact_repository_registry as known

    version, faults, found = register_base(hf_folder), [], known.get_artifact_repository
    monkeypatch.setattr(
        known, "get_artifact_repository", lambda *one, **named: Bucket(found(*one, **named), faults)
    )
    refused = type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})("Mr Jones")
    refused.response = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    faults.append(refused)
    with pytest.raises(
        RegistryError, match=r"could not download radiology/1: its files .* AccessDenied; "
    ) as caught:
        registry.pull(tracking, version.label, tmp_path / "out", home=tmp_path)
    assert "Jones" not in str(caught.value)
    assert registry.pull(tracking, version.label, tmp_path / "out", home=tmp_path).digest == version.digest


def test_a_page_in_place_of_a_file_is_no_change_of_it_and_is_waited_for(
    tracking, register_base, hf_folder, tmp_path, monkeypatch
):
    """A proxy that asks for a login answers so, to every request, with 200."""
    import mlflow.utils.rest_utils
    import requests
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    version, pages = register_base(hf_folder), [b"<html>Mr Jones</html>"] * 2
    stored = StoredFiles(tracking, version)
    local, stored._repository = stored._repository, HttpArtifactRepository("http://server/api")
    stored._is_local, stored._is_http = False, True

    def answer(_, path, *given, **named):
        response = requests.Response()
        response.status_code = 200
        page = pages.pop() if pages else b""
        content = page or Path(local.get_local_path(path[1:])).read_bytes()
        response.headers["Content-Type"] = "text/html" if page else "application/json"
        response.raw = io.BytesIO(content)
        return response

    monkeypatch.setattr(mlflow.utils.rest_utils, "http_request", answer)
    with pytest.raises(RegistryError, match=r"could not download radiology/1 \(what answers is not MLflow\)"):
        stored.fetch("manifest.json", tmp_path / "got", 10**6)
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(
        registry.Tracking, "answer", lambda self, *given, **named: answers.answered(self.place, *given, **named)
    )
    stored.fetch("manifest.json", tmp_path / "got", 10**6)
    assert json.loads((tmp_path / "got").read_text())["files"]
