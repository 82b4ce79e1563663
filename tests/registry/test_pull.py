import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clinscale import registry
from clinscale.errors import CapacityError, ConfigError, RegistryError
from clinscale.registry import Tag
from clinscale.registry.folders import digest_of
from clinscale.storage import sha256


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


def test_an_empty_folder_is_free(tracking, version, tmp_path):
    (tmp_path / "out").mkdir()
    assert registry.pull(tracking, "radiology", tmp_path / "out").path == tmp_path / "out"
    assert (tmp_path / "out" / "config.json").exists()


def test_a_link_to_a_folder_stays_one(tracking, version, tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large")
    assert registry.pull(tracking, "radiology", tmp_path / "out").path == tmp_path / "large"
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "large" / "config.json").exists()


def somebodys_folder(out, model):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def somebodys_file(out, model):
    out.write_text("mine")


def link_to_nowhere(out, model):
    out.symlink_to(out.with_name("gone"))


def damaged_model(out, model):
    shutil.copytree(model, out)
    (out / "model.safetensors").write_text("mine")


def other_model(out, model):
    shutil.copytree(model, out)
    (out / "config.json").write_text("{}")


@pytest.mark.parametrize("take", [somebodys_folder, somebodys_file, link_to_nowhere, damaged_model, other_model])
def test_what_is_taken_is_refused_before_anything_is_fetched_and_stays(
    tracking, version, store, hf_folder, tmp_path, take
):
    taken = tmp_path / "out"
    take(taken, hf_folder)
    before = os.lstat(taken)
    shutil.rmtree(store / "artifacts/hf")  # whatever is fetched is missed
    fetched = []
    with pytest.raises(RegistryError, match=r"out exists and is not radiology/1; remove it, or give another"):
        registry.pull(
            tracking,
            "radiology",
            taken,
            home=tmp_path,
            lock=tmp_path / "models.lock",
            on_progress=lambda *progress: fetched.append(progress),
        )
    assert (fetched, os.lstat(taken).st_ino) == ([], before.st_ino)
    assert not (tmp_path / "models.lock").exists(), "a version that was not given is not locked"


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


def truncated_file(store):
    weights = store / "artifacts/hf/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def bomb(store):
    """A file that holds nothing and says that it is a terabyte."""
    with (store / "artifacts/hf/model.safetensors").open("r+b") as weights:
        weights.truncate(2**40)


def bottomless_manifest(store):
    with (store / "manifest.json").open("r+b") as manifest:
        manifest.truncate(2**40)


def no_manifest(store):
    (store / "manifest.json").unlink()


def broken_manifest(store):
    (store / "manifest.json").write_text('{"files": ["config.json"]}')


def changed_code(store):
    code = store / "tiny_pyfunc.py"
    code.write_text(code.read_text().replace("Tiny", "Tini"))


def longer_requirements(store):
    with (store / "requirements.txt").open("a") as requirements:
        requirements.write("a-package-of-mine\n")


def changed_mlmodel(store):
    """Another way for MLflow to load the model, in as many bytes."""
    model = store / "MLmodel"
    model.write_text(model.read_text().replace("mlflow.pyfunc", "mlflow.pyfunk"))


def unlisted_code(store):
    (store / "code").mkdir()
    (store / "code/sitecustomize.py").write_text("")


def rewritten_manifest(store):
    rewrite_manifest(store, {"config.json": {"sha256": "0" * 64, "bytes": 9}})


def rewrite_manifest(store, more):
    files = json.loads((store / "manifest.json").read_text())["files"]
    (store / "manifest.json").write_text(json.dumps({"files": {**files, **more}}))


HOSTILE = [
    (changed_code, r"tiny_pyfunc\.py differ from what was registered"),
    (longer_requirements, r"requirements\.txt differ from what was registered"),
    (changed_mlmodel, "MLmodel differ from what was registered"),
    (unlisted_code, r"unlisted files 'code/sitecustomize\.py'"),
    (flipped_byte, r"model\.safetensors differ from what was registered"),
    (truncated_file, r"model\.safetensors differ from what was registered"),
    (bomb, r"model\.safetensors differ from what was registered"),
    (bottomless_manifest, r"manifest\.json does not match the version's digest"),
    (unlisted_file, r"unlisted files 'README\.md'"),
    (unlisted_pickle, r"unlisted files 'pytorch_model\.bin'"),
    (unlisted_folder, "unlisted files 'more'"),
    (missing_file, r"missing files 'tokenizer\.json'"),
    (link, r"config\.json is a link"),
    (link_to_equal_content, r"config\.json is a link"),
    (remote_code, r"config\.json differ from what was registered"),
    (rewritten_manifest, r"manifest\.json does not match the version's digest"),
    (no_manifest, "could not download radiology/1"),
    (broken_manifest, r"manifest\.json does not match"),
]


@pytest.mark.parametrize(("spoil", "message"), HOSTILE, ids=[spoil.__name__ for spoil, _ in HOSTILE])
def test_a_version_changed_in_the_store_is_refused(tracking, store, tmp_path, spoil, message):
    spoil(store)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RegistryError, match=message):
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path, lock=tmp_path / "models.lock")
    assert {path.name for path in tmp_path.iterdir()} - {*before} == {"models"}, "nothing half-written stays"
    assert cached(tmp_path) == []


def pickled(store):
    (store / "artifacts/hf/model.pkl").write_bytes(pickle.dumps({}))


def disguised_pickle(store):
    (store / "artifacts/hf/model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))


def path_trick(store):
    rewrite_manifest(store, {"../../stolen.json": {"sha256": "0" * 64, "bytes": 9}})


def negative_size(store):
    rewrite_manifest(store, {"config.json": {"sha256": "0" * 64, "bytes": -(2**40)}})


FORGED = [
    (pickled, r"model\.pkl is not allowed"),
    (unlisted_pickle, r"pytorch_model\.bin is not allowed"),
    (disguised_pickle, r"model\.safetensors is not a safetensors file"),
    (remote_code, r"config\.json names code to run \(auto_map\)"),
    (link, r"config\.json is a link"),
    (path_trick, r"'\.\./\.\./stolen\.json' is not plain"),
    (negative_size, r"manifest\.json does not match"),
]


@pytest.mark.parametrize(("spoil", "message"), FORGED, ids=[spoil.__name__ for spoil, _ in FORGED])
def test_an_intruder_who_rewrites_the_digest_too_gets_no_unsafe_file_through(
    tracking, store, tmp_path, spoil, message
):
    spoil(store)
    forge(tracking, store, keep_manifest=spoil in (path_trick, negative_size))
    with pytest.raises(RegistryError, match=message):
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path)
    assert not (tmp_path / "out").exists()
    assert cached(tmp_path) == []


def test_more_than_the_disk_holds_is_refused_before_it_is_downloaded(tracking, store, tmp_path):
    bomb(store)
    rewrite_manifest(store, {"model.safetensors": {"sha256": "0" * 64, "bytes": 2**40}})
    forge(tracking, store, keep_manifest=True)
    with pytest.raises(CapacityError, match=r"radiology/1 needs 1,099,\d{3},\d{3},\d{3} bytes"):
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("digest", ["../../somewhere", "abc"])
def test_a_digest_that_is_none_names_no_folder(tracking, version, tmp_path, digest):
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, digest)
    with pytest.raises(RegistryError, match="must be 64 hex digits"):
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path)


def forge(tracking, store, *, keep_manifest):
    """What an intruder with all rights on the server can do: manifest and digest agree with the files again."""
    if not keep_manifest:
        found = {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in (store / "artifacts/hf").iterdir()
        }
        (store / "manifest.json").write_text(json.dumps({"files": found}))
    manifest = json.loads((store / "manifest.json").read_text())
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, digest_of(manifest["files"]))
    if "around" not in manifest:  # as of versions from before it was kept
        tracking.client.delete_model_version_tag("radiology", "1", Tag.MANIFEST)


def cached(home):
    return sorted(path.name for path in (home / "models/cache").iterdir())


def cut_pull(home, digest, store, name, content):
    """What a pull leaves that was killed after all files but one, of which `content` has come."""
    partial = shutil.copytree(store / "artifacts/hf", home / "models/cache" / f"{digest}.partial")
    (partial / name).write_bytes(content)
    (partial.parent / f"{digest}.lock").touch()


def test_a_pull_that_was_cut_goes_on_where_it_ended(tracking, version, store, hf_folder, tmp_path):
    weights = (hf_folder / "model.safetensors").read_bytes()
    half = len(weights) // 2
    cut_pull(tmp_path, version.digest, store, "model.safetensors", weights[:half])
    # what is there already is not asked for again, or the pull would fail
    spoilt = store / "artifacts/hf/model.safetensors"
    spoilt.write_bytes(bytes(half) + weights[half:])
    (store / "artifacts/hf/config.json").write_bytes(bytes((hf_folder / "config.json").stat().st_size))
    told = []
    registry.pull(
        tracking, "radiology", tmp_path / "out", home=tmp_path, on_progress=lambda *counts: told.append(counts)
    )
    assert registry.folder_digest(tmp_path / "out") == version.digest
    assert cached(tmp_path) == [version.digest]
    total_bytes = sum(path.stat().st_size for path in hf_folder.iterdir())
    assert told[-1] == (total_bytes, total_bytes)


@pytest.mark.parametrize("left", [b"not its beginning", b"", bytes(10**6)], ids=["other", "nothing", "too much"])
def test_what_a_cut_pull_left_damaged_is_fetched_again(tracking, version, store, tmp_path, left):
    cut_pull(tmp_path, version.digest, store, "model.safetensors", left)
    registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path)
    assert registry.folder_digest(tmp_path / "out") == version.digest


def test_the_cache_serves_every_name_of_a_content_and_mends_itself(tracking, version, store, tmp_path):
    first = registry.fetch_model(tracking, "radiology", home=tmp_path).path
    kept = store.rename(store.parent / "away")
    registry.pull(tracking, "radiology@champion", tmp_path / "out", home=tmp_path)  # needs no download
    assert registry.fetch_model(tracking, "radiology/1", home=tmp_path).path == first
    (tmp_path / "out/config.json").write_text("{}")
    assert registry.folder_digest(first) == version.digest, "an edited copy does not reach the cache"
    (Path(first) / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match="could not download"):
        registry.fetch_model(tracking, "radiology", home=tmp_path)
    kept.rename(store)
    assert (
        registry.folder_digest(registry.fetch_model(tracking, "radiology", home=tmp_path).path) == version.digest
    )


def test_what_somebody_put_into_the_cache_is_not_lost_when_it_mends_itself(tracking, version, tmp_path):
    folder = Path(registry.fetch_model(tracking, "radiology", home=tmp_path).path)
    (folder / "mine.ipynb").write_text("mine")
    assert Path(registry.fetch_model(tracking, "radiology", home=tmp_path).path) == folder
    assert registry.folder_digest(folder) == version.digest
    [kept] = folder.parent.glob(f"{version.digest}-before-*")
    assert (kept / "mine.ipynb").read_text() == "mine"


def test_two_processes_pull_the_same_model_at_once(tracking, version, tmp_path):
    code = "import sys; from clinscale import registry; place, uri = sys.argv[1:]; "
    code += "registry.pull(registry.connect(uri), 'radiology', place + '/out', home=place, lock=place + '/models.lock')"
    arguments = [sys.executable, "-c", code, str(tmp_path), tracking.uri]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [one.communicate()[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], ended
    assert registry.folder_digest(tmp_path / "out") == version.digest
    assert cached(tmp_path) == [version.digest]
    assert registry.read_lock(tmp_path / "models.lock")["radiology"].digest == version.digest


def test_a_folder_that_cannot_be_written_is_named(tracking, version, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        registry.pull(tracking, "radiology", tmp_path / "file/out", home=tmp_path)


def test_a_model_is_a_folder_a_registered_name_or_a_hub_name(tracking, version, hf_folder, tmp_path):
    by_name = registry.fetch_model(tracking, "radiology", home=tmp_path)
    assert by_name.label == "radiology/1"
    assert registry.folder_digest(by_name.path) == version.digest
    assert registry.fetch_model(tracking, "radiology@champion", home=tmp_path) == by_name
    assert registry.fetch_model(tracking, str(hf_folder), home=tmp_path).path == str(hf_folder)
    assert registry.fetch_model(tracking, "org/name", home=tmp_path).path == "org/name"
    with pytest.raises(RegistryError, match="did you mean radiology"):
        registry.fetch_model(tracking, "radiologi", home=tmp_path)
    with pytest.raises(ConfigError, match="got nothing; is a variable of the shell empty"):
        registry.fetch_model(tracking, "", home=tmp_path)  # which is also the current folder


def test_a_pull_into_a_folder_with_a_missing_parent_makes_it(tracking, version, tmp_path):
    assert registry.pull(tracking, "radiology", tmp_path / "a/b/out").path.is_dir()
    shutil.rmtree(tmp_path / "a")


def test_a_version_from_before_manifests_were_whole_is_given_with_a_word(
    tracking, version, store, tmp_path, caplog
):
    files = json.loads((store / "manifest.json").read_text())["files"]
    (store / "manifest.json").write_text(json.dumps({"files": files}))
    with pytest.raises(RegistryError, match="manifest"):
        registry.pull(tracking, "radiology", tmp_path / "out")
    tracking.client.delete_model_version_tag("radiology", "1", Tag.MANIFEST)
    assert registry.pull(tracking, "radiology", tmp_path / "out").digest == version.digest
    assert "its code and requirements are in no digest and no signature" in caplog.text


@pytest.fixture
def two_versions(register_base, hf_folder):
    """Versions 1 and 2 of `radiology`, which differ."""
    first = register_base(hf_folder)
    (hf_folder / "README.md").write_text("second")
    return first, register_base(hf_folder)


def test_of_two_pulls_of_different_versions_into_one_folder_at_once_the_second_is_refused(
    tracking, two_versions, tmp_path, monkeypatch
):
    module = sys.modules[registry.pull.__module__]
    copied = module.copy_hashed

    def slowly(source, target):
        monkeypatch.setattr(module, "copy_hashed", copied)
        registry.pull(tracking, "radiology/2", tmp_path / "out", home=tmp_path)
        return copied(source, target)

    monkeypatch.setattr(module, "copy_hashed", slowly)
    with pytest.raises(RegistryError, match="out exists and is not radiology/1"):
        registry.pull(tracking, "radiology/1", tmp_path / "out", home=tmp_path)
    assert registry.folder_digest(tmp_path / "out") == two_versions[1].digest


def test_an_update_that_is_interrupted_leaves_the_model_that_was_there(
    tracking, two_versions, tmp_path, monkeypatch
):
    first, second = two_versions
    places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
    registry.set_alias(tracking, first)
    registry.pull(tracking, "radiology@champion", tmp_path / "out", **places)
    registry.set_alias(tracking, second)
    replace = Path.replace

    def interrupted(self, target):
        if self.name == "copy":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.pull(tracking, "radiology@champion", tmp_path / "out", update=True, **places)
    assert registry.folder_digest(tmp_path / "out") == first.digest
    registry.pull(tracking, "radiology@champion", tmp_path / "out", update=True, **places)
    assert registry.folder_digest(tmp_path / "out") == second.digest
    assert registry.read_lock(tmp_path / "models.lock")["radiology@champion"].digest == second.digest


def test_a_disk_that_does_not_take_the_folder_is_said(tracking, version, tmp_path, monkeypatch):
    replace = Path.replace

    def full(self, target):
        if self.name == "copy":
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"out cannot be written or read \(No space left on device\)"):
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_pull_left_goes_with_the_next_to_its_name(tracking, version, tmp_path):
    """Also where the killed one had moved its copy already, and only its folder was to be removed."""
    left = tmp_path / ".out.0123abcd.partial"
    for _ in range(2):
        (left / "copy").mkdir(parents=True)
        (left / "copy" / "model.safetensors").write_text("half")
        left.with_suffix(".lock").touch()
        registry.pull(tracking, "radiology", tmp_path / "out", home=tmp_path / "home")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_a_task_model_without_champion_is_named_where_its_name_alone_is_given(
    tracking, register, hf_folder, tmp_path, caplog
):
    """Its latest version may be one that the gate refused."""
    version = register(hf_folder, tags={Tag.KIND: "task", Tag.DECISION: "refused: worse than chance"})
    for reference, said in (("radiology", 1), (version.label, 0)):
        caplog.clear()
        registry.fetch_model(tracking, reference, home=tmp_path, lock=None)
        assert caplog.text.count("has no champion: its latest version, radiology/1, is taken") == said
    assert registry.pull(tracking, "radiology", tmp_path / "out").version == 1
    assert "refused: worse than chance" in caplog.text
    registry.set_alias(tracking, version)
    caplog.clear()
    registry.fetch_model(tracking, "radiology", home=tmp_path, lock=None)
    assert caplog.text == ""
