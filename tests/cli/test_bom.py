import importlib.metadata
import json
import socket

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from clinscale.cli import doctor
from clinscale.cli.bom import installation_bom, version_bom
from clinscale.registry import ModelVersion, Tag


@pytest.fixture(scope="module")
def installed():
    return installation_bom()


TAGS = {
    Tag.KIND: "task",
    Tag.FAMILY: "longformer",
    Tag.TASK: "readmission",
    Tag.TASK_KIND: "sequence",
    Tag.METRIC: "f1",
    Tag.VALUE: "0.81",
    Tag.TRIVIAL: "0.5",
    Tag.DATA: "d" * 64,
    Tag.BASE: "/home/alice/models/base#0123456789ab",
    Tag.BASE_DIGEST: "b" * 64,
    Tag.OWNER: f"{socket.gethostname()} 1 1",
    Tag.WHY: "a reason with words",
    "made up": "by somebody",
}


def version(**tags):
    return ModelVersion("readmission", 3, ("champion",), "run", TAGS | tags, "d" * 64, "m" * 64, "m-1")


FILES = {
    "artifacts/hf/model.safetensors": {"sha256": "a" * 64, "bytes": 1},
    "MLmodel": {"sha256": "c" * 64, "bytes": 2},
}


def assert_valid(bill):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_the_bill_of_an_installation_holds_every_package_and_what_it_needs(installed):
    bill = installed
    assert_valid(bill)
    found = {one["name"]: one for one in bill["components"]}
    assert found["mlflow"]["purl"] == f"pkg:pypi/mlflow@{importlib.metadata.version('mlflow')}"
    assert found["mlflow"]["licenses"]
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert found["mlflow-skinny"]["bom-ref"] in needs[found["mlflow"]["bom-ref"]]
    assert found["mlflow"]["bom-ref"] in needs[bill["metadata"]["component"]["bom-ref"]]
    assert socket.gethostname() not in json.dumps(bill)


def test_the_bill_of_a_version_holds_files_packages_base_and_scores():
    bill = version_bom(
        version(), FILES, ["# made with Python", "torch==2.13.0", f"numpy==2.4.6 --hash=sha256:{'0' * 64}"]
    )
    assert_valid(bill)
    assert bill == version_bom(version(), dict(reversed(FILES.items())), ["numpy==2.4.6", "torch==2.13.0"])
    hashes = {one["name"]: one["hashes"][0]["content"] for one in bill["components"] if one["type"] == "file"}
    assert hashes == {path: facts["sha256"] for path, facts in FILES.items()}
    assert {one["purl"] for one in bill["components"] if one["type"] == "library"} == {
        "pkg:pypi/numpy@2.4.6",
        "pkg:pypi/torch@2.13.0",
    }
    model = bill["metadata"]["component"]
    assert (model["name"], model["version"], model["type"]) == ("readmission", "3", "machine-learning-model")
    assert [one["value"] for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]] == [
        "0.81",
        "0.5",
    ]
    assert model["pedigree"]["ancestors"][0]["name"] == "base#0123456789ab"


def test_a_bill_tells_no_host_user_or_words_of_somebody():
    told = json.dumps(version_bom(version(), FILES, []))
    for secret in (socket.gethostname(), "alice", "reason", "made up"):
        assert secret not in told


@pytest.mark.parametrize("tags", [{Tag.BASE: ""}, {Tag.BASE: "org/hub-model"}, {Tag.METRIC: "f1\x1b[31m"}])
def test_a_bill_of_few_or_odd_facts_is_valid(tags):
    assert_valid(version_bom(version(**tags), {}, ["not a requirement"]))


def test_doctor_writes_the_bill(installed, tmp_path):
    out = tmp_path / "installed.cdx.json"
    assert "other packages" in doctor._sbom(out)
    assert json.loads(out.read_text()) == installed
