import json
import shutil

import pandas
import pytest

from clinscale import registry
from clinscale.errors import ConfigError, RegistryError
from clinscale.registry import Tag


def changed(folder, note):
    """The same model with another digest."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": note}))
    return folder


def test_mlflow_loads_a_version_without_network(tracking, register, hf_folder, monkeypatch):
    import mlflow.pyfunc

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    version = register(hf_folder, alias="champion")
    uri = tracking.client.get_model_version_download_uri(version.name, str(version.version))
    [scores] = mlflow.pyfunc.load_model(uri).predict(pandas.DataFrame({"text": ["chest pain"]}))
    assert len(scores) == 2


def test_a_version_holds_no_pickle_and_no_word_on_the_makers_folders(tracking, register, hf_folder, tmp_path):
    register(hf_folder)
    stored = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert {path.suffix for path in stored} <= {"", ".json", ".safetensors", ".txt", ".yaml", ".py"}
    assert not [path for path in stored if str(hf_folder).encode() in path.read_bytes()]


def test_a_version_remembers_who_made_it(register, run, hf_folder):
    version = register(hf_folder, tags={Tag.TASK: "demo", Tag.VALUE: "0.5"}, alias="champion")
    assert (version.label, version.aliases, version.run_id) == ("radiology/1", ("champion",), run.id)
    assert version.tags[Tag.TASK] == "demo"
    assert version.digest == version.tags[Tag.DIGEST] == registry.folder_digest(hf_folder)


def test_the_same_folder_is_registered_once_under_a_name(tracking, register, hf_folder):
    first, again = register(hf_folder), register(hf_folder, alias="champion")
    other_name = register(hf_folder, name="pathology")
    assert (first.label, again.label, other_name.label) == ("radiology/1", "radiology/1", "pathology/1")
    assert again.aliases == ("champion",)
    assert [version.label for version in registry.list_versions(tracking)] == ["pathology/1", "radiology/1"]


def test_a_base_model_needs_no_code_to_be_pulled(tracking, run, hf_folder, tmp_path):
    version = registry.register(tracking, run.id, hf_folder, name="base", tags={Tag.KIND: "base"})
    pulled = registry.pull(tracking, "base", tmp_path / "out")
    assert registry.folder_digest(pulled.path) == version.digest
    assert not list((tmp_path / "mlartifacts").rglob("*.py"))


def test_an_unsafe_folder_makes_no_version(tracking, register, hf_folder):
    (hf_folder / "optimizer.pt").write_bytes(b"state")
    with pytest.raises(RegistryError, match=r"optimizer\.pt is not allowed"):
        register(hf_folder)
    assert registry.list_versions(tracking) == []


@pytest.mark.parametrize("name", ["a/b", "a@b", "", "../a", "a b", ".a"])
def test_a_name_that_no_reference_could_tell_is_refused(register, hf_folder, name):
    with pytest.raises(ConfigError, match="model name"):
        register(hf_folder, name=name)


@pytest.mark.parametrize("name", ["lf-1.5", "A_b", "9", "a" * 200])
def test_every_name_that_a_run_may_have_can_be_registered(tracking, run, hf_folder, name):
    """MLflow takes no dot in the name of a LoggedModel, which is found out after the training."""
    version = registry.register(tracking, run.id, hf_folder, name=name, tags={}, alias="champion")
    assert registry.resolve(tracking, f"{name}@champion").label == version.label == f"{name}/1"


def test_references(tracking, register, hf_folder):
    versions = [register(changed(hf_folder, number)) for number in range(3)]
    assert registry.resolve(tracking, "radiology").version == 3, "without a champion the latest"
    registry.set_alias(tracking, versions[0])
    registry.set_alias(tracking, versions[1], "challenger")

    found = {text: registry.resolve(tracking, text).version for text in REFERENCES}
    assert found == REFERENCES
    moved = registry.set_alias(tracking, versions[2])
    assert moved.aliases == ("champion",)
    assert registry.resolve(tracking, "radiology/1").aliases == ()


REFERENCES = {"radiology": 1, "radiology@champion": 1, "radiology@challenger": 2, "radiology/3": 3}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("radiolgy", "did you mean radiology?"),
        ("radiology/9", r"has no /9; its versions: 1 @champion"),
        ("radiology@best", r"has no @best; its versions: 1 @champion"),
        ("radiology/latest", "must read NAME, NAME@alias or NAME/3"),
        ("radiology'--", "must read"),
    ],
)
def test_an_unknown_reference_names_what_is_there(tracking, register, hf_folder, reference, message):
    register(hf_folder, alias="champion")
    with pytest.raises(RegistryError, match=message.replace("?", r"\?")):
        registry.resolve(tracking, reference)


def test_a_champion_that_is_missing_says_how_to_make_one(tracking, register, hf_folder):
    register(hf_folder)
    promote = r"its versions: 1; name one of these, or make one champion: clinscale models promote radiology/1$"
    with pytest.raises(RegistryError, match=promote):
        registry.resolve(tracking, "radiology@champion")


def test_a_name_whose_champion_was_deleted_in_mlflow_means_no_other_version(tracking, register, hf_folder):
    """The latest may be one that was refused or rolled back."""
    for note, decision in (("1", "promote: better"), ("2", "rollback: back"), ("3", "refused: no gain")):
        version = register(changed(hf_folder, note), tags={Tag.DECISION: decision})
        if note == "2":
            registry.set_alias(tracking, version)
    tracking.client.delete_model_version("radiology", "2")
    with pytest.raises(RegistryError, match="radiology has no champion, though radiology/1 once was"):
        registry.resolve(tracking, "radiology")
    assert registry.resolve(tracking, "radiology/3").version == 3


def test_a_first_champion_may_be_missing(tracking, register, hf_folder):
    assert registry.find_version(tracking, "radiology@champion") is None
    register(hf_folder)
    assert registry.find_version(tracking, "radiology@champion") is None
    assert registry.find_version(tracking, "radiology").version == 1


def test_a_folder_that_changes_while_it_is_registered_is_refused(tracking, register, hf_folder, monkeypatch):
    import mlflow.pyfunc

    save = mlflow.pyfunc.save_model

    def slow_save(*arguments, artifacts, **options):
        from pathlib import Path

        changed(Path(artifacts["hf"]), "late")
        save(*arguments, artifacts=artifacts, **options)

    monkeypatch.setattr(mlflow.pyfunc, "save_model", slow_save)
    with pytest.raises(RegistryError, match="changed while it was registered"):
        register(hf_folder)
    assert registry.list_versions(tracking) == []


def test_a_name_that_differs_by_case_alone_is_refused(register_base, hf_folder):
    register_base(hf_folder, name="tumour_board")
    with pytest.raises(RegistryError, match="Tumour_Board and tumour_board differ by case alone"):
        register_base(hf_folder, name="Tumour_Board")
    assert register_base(hf_folder, name="tumour-board").version == 1


def test_what_is_registered_again_takes_the_alias_from_no_newer_one_and_from_no_decision(
    tracking, register_base, hf_folder, tmp_path
):
    """A pretraining that has finished is asked again, after somebody has promoted another version."""
    first = shutil.copytree(hf_folder, tmp_path / "first")
    register_base(first, alias="champion")
    (hf_folder / "README.md").write_text("second")
    register_base(hf_folder, alias="champion")
    assert register_base(first, alias="champion").aliases == ()
    assert register_base(hf_folder, alias="champion").aliases == ("champion",)
    rolled_back = registry.set_alias(tracking, registry.resolve(tracking, "radiology/1"))
    assert register_base(hf_folder, alias="champion").aliases == ("champion",), "nobody has decided that"
    registry.set_alias(tracking, rolled_back)
    registry.set_alias(tracking, registry.resolve(tracking, "radiology/1"))
    registry.set_version_tags(tracking, rolled_back, {Tag.DECISION: "rollback: worse"})
    assert register_base(hf_folder, alias="champion").aliases == ()
