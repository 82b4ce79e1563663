import json
import shutil
import threading

import pytest
import yaml

from clinscale import registry
from clinscale.errors import ConfigError, RegistryError
from clinscale.registry import Tag
from clinscale.registry.lock import LockedModel, write_lock


@pytest.fixture
def versions(tracking, register_base, hf_folder):
    """Two versions of one model; the first is the champion."""
    first = register_base(hf_folder, alias="champion")
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, "note": "better"}))
    return first, register_base(hf_folder)


@pytest.fixture
def pull(tracking, tmp_path):
    """`pull(reference, out=..., update=...)` with the test's own home and lock file."""

    def pull(reference="radiology@champion", out="out", **options):
        places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
        return registry.pull(tracking, reference, tmp_path / out, **{**places, **options})

    return pull


@pytest.fixture
def offline(tmp_path):
    def offline(reference="radiology@champion", out="out"):
        return registry.pull_offline(
            reference, tmp_path / out, home=tmp_path / "home", lock=tmp_path / "models.lock"
        )

    return offline


def test_the_first_pull_writes_an_entry_that_people_can_read(tracking, versions, pull, tmp_path):
    pull("radiology@champion")
    pull("radiology/2", "other")
    text = (tmp_path / "models.lock").read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text) == {
        "format": 1,
        "models": {
            f"radiology{which}": {
                "registry": tracking.uri,
                "name": "radiology",
                "version": version.version,
                "digest": version.digest,
                "manifest": version.manifest,
            }
            for which, version in zip(("/2", "@champion"), reversed(versions), strict=True)
        },
    }
    pull("radiology@champion")
    assert (tmp_path / "models.lock").read_text() == text, "nothing new, nothing to show in a diff"


def test_a_lock_outlives_the_alias_until_it_is_updated(tracking, versions, pull, caplog):
    pull()
    registry.set_alias(tracking, versions[1])
    assert pull(out="again").version == 1
    assert "radiology@champion is radiology/2 by now, and locked to radiology/1" in caplog.text
    assert "--update" in caplog.text
    assert pull(update=True).digest == versions[1].digest, "an unchanged copy of what was locked is replaced"
    assert pull().version == 2


def test_an_update_leaves_a_folder_alone_that_somebody_edited(tracking, versions, pull, tmp_path):
    pull()
    (tmp_path / "out/README.md").write_text("mine")
    registry.set_alias(tracking, versions[1])
    with pytest.raises(RegistryError, match="exists and is not radiology/2"):
        pull(update=True)
    assert (tmp_path / "out/README.md").read_text() == "mine"
    assert registry.read_lock(tmp_path / "models.lock")["radiology@champion"].version == 1


@pytest.mark.parametrize("update", [False, True])
def test_a_version_with_another_digest_than_locked_is_refused(tracking, versions, pull, tmp_path, update):
    pull()
    before = (tmp_path / "models.lock").read_text()
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, versions[1].digest)
    with pytest.raises(
        RegistryError, match=f"digest {versions[1].digest[:12]}, locked is {versions[0].digest[:12]}"
    ):
        pull(out="again", update=update)
    assert not (tmp_path / "again").exists()
    assert (tmp_path / "models.lock").read_text() == before


def test_another_name_of_the_same_server_is_no_change(tracking, versions, pull, tmp_path):
    pull()
    lock = tmp_path / "models.lock"
    lock.write_text(lock.read_text().replace(tracking.uri, "https://mlflow.example.org"))
    assert pull(out="again").version == 1
    assert "https://mlflow.example.org" in lock.read_text()


def test_what_a_config_names_is_the_locked_version(tracking, versions, pull, tmp_path, monkeypatch):
    pull()
    registry.set_alias(tracking, versions[1])
    monkeypatch.chdir(tmp_path)  # where its models.lock lies
    assert registry.fetch_model(tracking, "radiology@champion", home=tmp_path).label == "radiology/1"
    assert registry.fetch_model(tracking, "radiology", home=tmp_path).label == "radiology/2", "not in the lock"
    assert registry.fetch_model(tracking, "radiology@champion", home=tmp_path, lock=None).label == "radiology/2"


def test_offline_needs_lock_and_cache_alone(tracking, versions, pull, offline, tmp_path):
    with pytest.raises(
        RegistryError, match=r"models\.lock does not hold radiology@champion, and --offline asks nobody"
    ):
        offline()
    pull()
    shutil.rmtree(tmp_path / "mlartifacts")
    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(tmp_path / "out")
    assert registry.folder_digest(offline().path) == versions[0].digest
    [folder] = (tmp_path / "home/models/cache").iterdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match="no intact copy of radiology/1"):
        offline(out="again")
    assert not (tmp_path / "again").exists()


BROKEN = [
    ("<<<<<<< HEAD\nmodels: {}\n", "models.lock"),
    ("models: [radiology]\n", "models: Input should be a valid dictionary"),
    ("models:\n  m: {registry: x, name: ../m, version: 1, digest: " + "0" * 64 + "}\n", "models.m.name"),
    ("models:\n  m: {registry: x, name: m, version: 1, digest: ../../m}\n", "models.m.digest"),
    (
        "models:\n  organs: {registry: r, name: pathology, version: 1, digest: " + "0" * 64 + "}\n",
        r"models\.organs must be a version that organs can name, got pathology/1",
    ),
    (
        "models:\n  organs/2: {registry: r, name: organs, version: 1, digest: " + "0" * 64 + "}\n",
        r"models\.organs/2 must be a version that organs/2 can name, got organs/1",
    ),
    (
        "models:\n"
        + "".join(
            f"  {name}: {{registry: r, name: {name}, version: 1, digest: {'0' * 64}}}\n" for name in ("m", "M")
        ),
        r"models\.m and models\.M must not differ by case alone",
    ),
    ("format: 2\nmodels: {}\n", "format: Input should be 1"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_lock_is_refused_and_left_as_it_is(versions, pull, tmp_path, text, message):
    (tmp_path / "models.lock").write_text(text)
    with pytest.raises(ConfigError, match=message):
        pull()
    assert (tmp_path / "models.lock").read_text() == text
    assert not (tmp_path / "out").exists()


def entry(version, **changes):
    values = {"registry": "r", "name": "m", "version": version, "digest": f"{version:064x}"}
    return LockedModel.parse({**values, **changes}, source="test")


def test_writers_at_once_lose_nothing(tmp_path):
    names = [f"m@alias-{number}" for number in range(16)]
    path = tmp_path / "deep" / "models.lock"
    start = threading.Barrier(len(names))

    def write(number):
        start.wait()
        write_lock(path, names[number], entry(number + 1), replacing=None)

    writers = [threading.Thread(target=write, args=[number]) for number in range(len(names))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert registry.read_lock(path) == {name: entry(number + 1) for number, name in enumerate(names)}
    assert [file.name for file in path.parent.iterdir()] == ["models.lock"]


def test_a_pull_that_lost_a_race_says_so(tmp_path):
    write_lock(tmp_path / "models.lock", "m", entry(1), replacing=None)
    write_lock(tmp_path / "models.lock", "m", entry(1), replacing=None)  # the same is no quarrel
    with pytest.raises(RegistryError, match="holds m/1 for m by now"):
        write_lock(tmp_path / "models.lock", "m", entry(2), replacing=None)
    write_lock(tmp_path / "models.lock", "m", entry(2), replacing=entry(1))


@pytest.mark.parametrize("action", ["pull", "offline", "fetch"])
def test_no_door_takes_an_entry_of_another_model(tracking, versions, pull, offline, tmp_path, action):
    pull()
    lock = tmp_path / "models.lock"
    lock.write_text(lock.read_text().replace("name: radiology", "name: pathology"))
    doors = {
        "pull": lambda: pull(out="again"),
        "offline": lambda: offline(out="again"),
        "fetch": lambda: registry.fetch_model(tracking, "radiology@champion", home=tmp_path, lock=lock),
    }
    with pytest.raises(ConfigError, match="got pathology/1"):
        doors[action]()


def test_an_update_goes_back_only_where_that_is_said(tracking, versions, pull, tmp_path):
    registry.set_alias(tracking, versions[1])
    pull()
    registry.set_alias(tracking, registry.resolve(tracking, "radiology/1"))
    with pytest.raises(RegistryError, match=r"is radiology/1 by now, older than radiology/2.*--allow-older"):
        pull(update=True)
    assert registry.read_lock(tmp_path / "models.lock")["radiology@champion"].version == 2
    assert pull(update=True, allow_older=True).version == 1


def test_an_entry_without_a_manifest_still_reads_and_one_with_it_holds_it(tracking, versions, pull, tmp_path):
    pull()
    lock = tmp_path / "models.lock"
    held = lock.read_text()
    lock.write_text("".join(line for line in held.splitlines(keepends=True) if "manifest" not in line))
    assert pull(out="again").version == 1
    lock.write_text(held)
    tracking.client.set_model_version_tag("radiology", "1", Tag.MANIFEST, "0" * 64)
    with pytest.raises(RegistryError, match="has manifest 000000000000, locked is"):
        pull(out="third")
