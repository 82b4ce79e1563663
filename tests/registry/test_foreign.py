"""Versions that clinscale did not register: what MLflow's own flavours and people with plain folders leave."""

import json
import pickle
import shutil

import pytest

from clinscale import registry
from clinscale.errors import CapacityError, RegistryError


@pytest.fixture
def log_folder(tracking, run):
    """`log_folder(folder)` makes a version `foreign/1` of a folder's files, as `log_artifacts` does."""

    def log_folder(folder):
        tracking.client.log_artifacts(run.id, str(folder), "given")
        tracking.client.create_registered_model("foreign")
        source = f"{tracking.client.get_run(run.id).info.artifact_uri}/given"
        tracking.client.create_model_version("foreign", source, run_id=run.id)

    return log_folder


def transformers_layout(folder):
    """What `mlflow.transformers.log_model` writes, made of a flat HF folder."""
    made = folder.with_name("logged")
    (made / "components/tokenizer").mkdir(parents=True)
    (made / "model").mkdir()
    for file in folder.iterdir():
        place = "components/tokenizer" if file.name.startswith("tokenizer") else "model"
        shutil.move(file, made / place / file.name)
    for name in ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "LICENSE.txt"):
        (made / name).write_text("of MLflow\n")
    return made


def plain(folder):
    return folder


def plain_with_metadata(folder):
    made = shutil.copytree(folder, folder.with_name("described"))
    for name in ("MLmodel", "requirements.txt"):
        (made / name).write_text("of MLflow\n")
    return made


@pytest.mark.parametrize("layout", [plain, plain_with_metadata, transformers_layout], ids=lambda it: it.__name__)
def test_it_is_pulled_with_a_warning_and_locked(
    tracking, log_folder, hf_folder, saved_model, tmp_path, caplog, layout
):
    log_folder(layout(hf_folder))
    places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
    pulled = registry.pull(tracking, "foreign", tmp_path / "out", **places)
    assert pulled.digest == registry.folder_digest(pulled.path) == registry.folder_digest(saved_model)
    assert "foreign/1 was not registered by clinscale" in caplog.text
    assert registry.read_lock(tmp_path / "models.lock")["foreign"].digest == pulled.digest
    [cached] = (tmp_path / "home/models/cache").iterdir()
    assert cached.name == pulled.digest
    [config] = (tmp_path / "mlartifacts").rglob("config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": "changed"}))
    registry.pull(tracking, "foreign", tmp_path / "again", **places)  # the locked one, from the cache
    shutil.rmtree(cached)
    with pytest.raises(RegistryError, match=f"locked is {pulled.digest[:12]}"):
        registry.pull(tracking, "foreign", tmp_path / "third", **places)
    with pytest.raises(RegistryError, match=f"locked is {pulled.digest[:12]}"):
        registry.pull(tracking, "foreign", tmp_path / "third", update=True, **places)
    assert not (tmp_path / "third").exists()


def test_what_mlflow_itself_logs_is_pulled(tracking, hf_folder, tmp_path, monkeypatch):
    import mlflow.transformers
    import transformers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(hf_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf_folder)
    path = tmp_path / "logged"
    mlflow.transformers.save_model(
        {"model": model, "tokenizer": tokenizer}, str(path), task="text-classification", pip_requirements=["torch"]
    )
    tracking.client.create_registered_model("foreign")
    tracking.client.create_model_version("foreign", str(path))
    pulled = registry.pull(tracking, "foreign", tmp_path / "out")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(pulled.path, local_files_only=True)
    assert all((a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert transformers.AutoTokenizer.from_pretrained(pulled.path, local_files_only=True)("pain")["input_ids"]


def test_it_is_no_choice_where_a_signature_is_demanded(tracking, log_folder, hf_folder, tmp_path):
    log_folder(hf_folder)
    with pytest.raises(RegistryError, match="has no digest that could be signed"):
        registry.pull(tracking, "foreign", tmp_path / "out", trust=[tmp_path / "key.pub.pem"])
    key = made_key(tmp_path / "key.pem")
    with pytest.raises(RegistryError, match="has no digest to sign"):
        registry.sign(tracking, "foreign", key)


def made_key(path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*pem))
    path.chmod(0o600)
    return path


def pickled(folder):
    (folder / "model.pkl").write_bytes(pickle.dumps({}))


def torch_weights(folder):
    (folder / "pytorch_model.bin").write_bytes(b"weights")


def remote_code(folder):
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "own.Model"}}))


def code(folder):
    (folder / "own.py").write_text("print('run me')")


def odd_name(folder):
    (folder / "..\\..\\stolen.json").write_text("{}")


def subfolder(folder):
    (folder / "more").mkdir()
    (folder / "more/config.json").write_text("{}")


def no_model(folder):
    (folder / "model.safetensors").unlink()


HOSTILE = [
    (pickled, r"model\.pkl is not allowed"),
    (torch_weights, r"pytorch_model\.bin is not allowed"),
    (remote_code, r"config\.json names code to run \(auto_map\)"),
    (code, r"own\.py is not allowed"),
    (odd_name, "is not plain"),
    (subfolder, "more is a folder"),
    (no_model, "no HF folder with safetensors"),
]


@pytest.mark.parametrize("layout", [plain, transformers_layout], ids=lambda it: it.__name__)
@pytest.mark.parametrize(("spoil", "message"), HOSTILE, ids=[spoil.__name__ for spoil, _ in HOSTILE])
def test_an_unsafe_one_is_refused(tracking, log_folder, hf_folder, tmp_path, layout, spoil, message):
    spoil(hf_folder)
    log_folder(layout(hf_folder))
    with pytest.raises(RegistryError, match=message):
        registry.pull(tracking, "foreign", tmp_path / "out", home=tmp_path, lock=tmp_path / "models.lock")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "models.lock").exists()
    assert list((tmp_path / "models/cache").iterdir()) == []


def test_more_than_the_disk_holds_is_refused_before_it_is_downloaded(tracking, log_folder, hf_folder, tmp_path):
    log_folder(hf_folder)
    [weights] = (tmp_path / "mlartifacts").rglob("model.safetensors")
    with weights.open("r+b") as stream:
        stream.truncate(2**40)
    with pytest.raises(CapacityError, match="foreign/1 needs"):
        registry.pull(tracking, "foreign", tmp_path / "out", home=tmp_path)
    assert list((tmp_path / "models/cache").iterdir()) == []


def test_a_link_is_refused(tracking, log_folder, hf_folder, tmp_path):
    log_folder(hf_folder)
    [config] = (tmp_path / "mlartifacts").rglob("config.json")
    config.rename(config.with_name("other.json"))
    config.symlink_to(config.with_name("other.json"))
    with pytest.raises(RegistryError, match=r"config\.json is a link"):
        registry.pull(tracking, "foreign", tmp_path / "out")
