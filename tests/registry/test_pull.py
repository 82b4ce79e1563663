import json
import shutil

import pytest

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.registry import Tag


@pytest.fixture
def version(register, hf_folder):
    return register(hf_folder, alias="champion")


@pytest.fixture
def store(version, tmp_path):
    """Where the version's files lie: what an intruder on the tracking server can change."""
    [manifest] = (tmp_path / "mlartifacts").rglob("manifest.json")
    return manifest.parent


def test_plain_transformers_loads_a_pulled_folder(tracking, version, hf_folder, tmp_path):
    import transformers

    pulled = registry.pull(tracking, "radiology", tmp_path / "out")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(pulled.path, local_files_only=True)
    made = transformers.AutoModelForSequenceClassification.from_pretrained(hf_folder, local_files_only=True)
    assert all((a == b).all() for a, b in zip(model.parameters(), made.parameters(), strict=True))
    assert transformers.AutoTokenizer.from_pretrained(pulled.path, local_files_only=True)("pain")["input_ids"]
    assert (pulled.name, pulled.version, pulled.digest) == ("radiology", 1, registry.folder_digest(hf_folder))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_equal_folder_is_kept_and_another_is_not_overwritten(tracking, version, tmp_path):
    out = registry.pull(tracking, "radiology", tmp_path / "out").path
    assert registry.pull(tracking, "radiology/1", out).path == out
    (out / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"out exists and is not radiology/1"):
        registry.pull(tracking, "radiology", out)
    assert (out / "config.json").read_text() == "{}"


def flipped_byte(store):
    weights = store / "artifacts/hf/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def unlisted_file(store):
    (store / "artifacts/hf/README.md").write_text("harmless?")


def unlisted_pickle(store):
    (store / "artifacts/hf/pytorch_model.bin").write_bytes(b"payload")


def unlisted_folder(store):
    (store / "artifacts/hf/more").mkdir()
    (store / "artifacts/hf/more/config.json").write_text("{}")


def missing_file(store):
    (store / "artifacts/hf/tokenizer.json").unlink()


def link(store):
    config = store / "artifacts/hf/config.json"
    config.rename(store.parent / "elsewhere.json")
    config.symlink_to("/etc/hostname")


def link_to_equal_content(store):
    config = store / "artifacts/hf/config.json"
    config.rename(store.parent / "elsewhere.json")
    config.symlink_to(store.parent / "elsewhere.json")


def remote_code(store):
    config = store / "artifacts/hf/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "own.Model"}}))


def rewritten_manifest(store):
    rewrite_manifest(store, {"pytorch_model.bin": {"sha256": "0" * 64, "bytes": 9}})


def path_trick(store):
    rewrite_manifest(store, {"../../stolen.json": {"sha256": "0" * 64, "bytes": 9}})


def no_manifest(store):
    (store / "manifest.json").unlink()


def broken_manifest(store):
    (store / "manifest.json").write_text('{"files": ["config.json"]}')


def rewrite_manifest(store, more):
    files = json.loads((store / "manifest.json").read_text())["files"]
    (store / "manifest.json").write_text(json.dumps({"files": {**files, **more}}))


HOSTILE = [
    (flipped_byte, r"model\.safetensors differ from what was registered"),
    (unlisted_file, r"unlisted files 'README\.md'"),
    (unlisted_pickle, r"unlisted files 'pytorch_model\.bin'"),
    (unlisted_folder, "unlisted files 'more'"),
    (missing_file, r"missing files 'tokenizer\.json'"),
    (link, "radiology/1"),
    (link_to_equal_content, "radiology/1"),
    (remote_code, r"names code to run|differ from what was registered"),
    (rewritten_manifest, r"manifest\.json does not match the version's digest"),
    (path_trick, r"manifest\.json does not match the version's digest"),
    (no_manifest, "could not download radiology/1"),
    (broken_manifest, r"manifest\.json does not match"),
]


@pytest.mark.parametrize(("spoil", "message"), HOSTILE, ids=[spoil.__name__ for spoil, _ in HOSTILE])
def test_a_version_changed_in_the_store_is_refused(tracking, store, tmp_path, spoil, message):
    spoil(store)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RegistryError, match=message):
        registry.pull(tracking, "radiology", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing half-written stays"


FORGED = [
    (rewritten_manifest, r"pytorch_model\.bin is not allowed"),
    (path_trick, r"'\.\./\.\./stolen\.json' is not plain"),
]


@pytest.mark.parametrize(("spoil", "message"), FORGED, ids=[spoil.__name__ for spoil, _ in FORGED])
def test_an_intruder_who_rewrites_the_digest_too_gets_no_unsafe_file_through(
    tracking, store, tmp_path, spoil, message
):
    from clinscale.registry.folders import digest_of

    spoil(store)
    forged = digest_of(json.loads((store / "manifest.json").read_text())["files"])
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, forged)
    with pytest.raises(RegistryError, match=message):
        registry.pull(tracking, "radiology", tmp_path / "out")


def xtest_a_pinned(tracking, version, tmp_path):
    registry.pull(tracking, "radiology", tmp_path / "good", expected_digest=version.digest)
    with pytest.raises(RegistryError, match="pinned is 000000000000"):
        registry.pull(tracking, "radiology", tmp_path / "out", expected_digest="0" * 64)
    assert not (tmp_path / "out").exists()


def test_a_version_of_somebody_elses_is_not_pulled(tracking, tmp_path):
    tracking.client.create_registered_model("foreign")
    tracking.client.create_model_version("foreign", str(tmp_path))
    with pytest.raises(RegistryError, match="not registered by clinscale"):
        registry.pull(tracking, "foreign", tmp_path / "out")


def test_a_model_is_a_folder_a_registered_name_or_a_hub_name(tracking, version, hf_folder, tmp_path):
    by_name = registry.fetch_model(tracking, "radiology", home=tmp_path)
    assert by_name.label == "radiology/1"
    assert registry.folder_digest(by_name.path) == version.digest
    assert registry.fetch_model(tracking, "radiology@champion", home=tmp_path) == by_name
    assert registry.fetch_model(tracking, str(hf_folder), home=tmp_path).path == str(hf_folder)
    assert registry.fetch_model(tracking, "org/name", home=tmp_path).path == "org/name"
    with pytest.raises(RegistryError, match="did you mean radiology"):
        registry.fetch_model(tracking, "radiologi", home=tmp_path)


def test_a_pull_into_a_folder_with_a_missing_parent_makes_it(tracking, version, tmp_path):
    assert registry.pull(tracking, "radiology", tmp_path / "a/b/out").path.is_dir()
    shutil.rmtree(tmp_path / "a")
