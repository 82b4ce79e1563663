import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from clinscale import registry
from clinscale.cli import models
from clinscale.errors import RegistryError
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
