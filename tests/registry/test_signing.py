import json
import subprocess

import pytest

from clinscale import registry
from clinscale.errors import ConfigError, RegistryError
from clinscale.registry import Tag


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Key files as people make them: `owner` and `other`, each private and public."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("owner", "other"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.pem")
        openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub.pem")
    return folder


def openssl(*arguments):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture
def version(register_base, hf_folder):
    return register_base(hf_folder, alias="champion")


@pytest.fixture
def pull(tracking, keys, tmp_path):
    """`pull(reference, trust=["owner"])` into `out`."""

    def pull(reference="radiology", *, trust=("owner",), out="out", **options):
        places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
        named = [keys / f"{name}.pub.pem" for name in trust]
        return registry.pull(tracking, reference, tmp_path / out, trust=named, **places, **options)

    return pull


def test_a_signed_version_is_given_to_those_who_trust_its_key(tracking, version, pull, keys, tmp_path):
    signed = registry.sign(tracking, "radiology@champion", keys / "owner.pem")
    fingerprint = signed.tags[Tag.SIGNED_BY]
    der = openssl("pkey", "-pubin", "-in", keys / "owner.pub.pem", "-outform", "DER")
    (tmp_path / "key.der").write_bytes(der)
    assert openssl("dgst", "-sha256", tmp_path / "key.der").decode().strip().endswith(fingerprint)
    assert pull(trust=["other", "owner"]).signed_by == fingerprint
    assert registry.read_lock(tmp_path / "models.lock")["radiology"].signed_by == fingerprint


def test_openssl_itself_finds_the_signature_valid(tracking, version, keys, tmp_path):
    import base64

    tags = registry.sign(tracking, "radiology", keys / "owner.pem").tags
    (tmp_path / "signature").write_bytes(base64.b64decode(tags[Tag.SIGNATURE]))
    (tmp_path / "message").write_text(f"clinscale-model-2\nradiology\n1\n{version.digest}\n{version.manifest}\n")
    options = ["-verify", "-pubin", "-inkey", keys / "owner.pub.pem", "-rawin"]
    told = openssl("pkeyutl", *options, "-in", tmp_path / "message", "-sigfile", tmp_path / "signature")
    assert b"Verified Successfully" in told


def unsigned(tracking, keys, other):
    pass


def another_key(tracking, keys, other):
    registry.sign(tracking, "radiology", keys / "other.pem")


def moved_from_another_model(tracking, keys, other):
    move(tracking, registry.sign(tracking, other.label, keys / "owner.pem"))


def named_for_the_trusted_key(tracking, keys, other):
    """Another key's signature under the trusted one's fingerprint."""
    owner = registry.sign(tracking, other.label, keys / "owner.pem").tags[Tag.SIGNED_BY]
    signed = registry.sign(tracking, "radiology", keys / "other.pem")
    tracking.client.set_model_version_tag("radiology", str(signed.version), Tag.SIGNED_BY, owner)


def garbled(tracking, keys, other):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    tracking.client.set_model_version_tag("radiology", "1", Tag.SIGNATURE, "no base64 é")


def changed_after_it_was_signed(tracking, keys, other):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, "0" * 64)


def with_other_code(tracking, keys, other):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    tracking.client.set_model_version_tag("radiology", "1", Tag.MANIFEST, "0" * 64)


def without_its_manifest(tracking, keys, other):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    tracking.client.delete_model_version_tag("radiology", "1", Tag.MANIFEST)


def move(tracking, signed):
    for tag in (Tag.SIGNATURE, Tag.SIGNED_BY):
        tracking.client.set_model_version_tag("radiology", "1", tag, signed.tags[tag])


UNTRUSTED = [
    (unsigned, r"radiology/1 is not signed.*clinscale models sign radiology/1 --key"),
    (another_key, "radiology/1 is signed by key .*, trusted is"),
    (moved_from_another_model, "its signature was not made for this name, number and digest"),
    (named_for_the_trusted_key, "its signature was not made for this name, number and digest"),
    (garbled, "its signature was not made for this name, number and digest"),
    (with_other_code, "its signature was not made for this name, number and digest"),
    (without_its_manifest, "its signature was not made for this name, number and digest"),
    (changed_after_it_was_signed, "its signature was not made for this name, number and digest"),
]


@pytest.mark.parametrize(("prepare", "message"), UNTRUSTED, ids=[prepare.__name__ for prepare, _ in UNTRUSTED])
def test_no_other_version_is_given(
    tracking, version, register_base, hf_folder, pull, keys, tmp_path, prepare, message
):
    prepare(tracking, keys, register_base(hf_folder, name="pathology"))  # the same files under another name
    with pytest.raises(RegistryError, match=message):
        pull()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "models.lock").exists()


def test_a_lock_that_demanded_a_signature_demands_the_next_one_too(
    tracking, version, register_base, hf_folder, pull, keys, tmp_path
):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    pull()
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, "note": "unsigned"}))
    register_base(hf_folder, alias="champion")
    assert pull(trust=()).version == 1
    with pytest.raises(RegistryError, match="its successor needs one too; give --trust"):
        pull(trust=(), update=True)
    with pytest.raises(RegistryError, match="radiology/2 is not signed"):
        pull(update=True)
    registry.sign(tracking, "radiology", keys / "owner.pem")
    assert pull(update=True).version == 2


def test_offline_checks_the_signature_that_the_lock_recorded(tracking, version, pull, keys, tmp_path):
    places = {"home": tmp_path / "home", "lock": tmp_path / "models.lock"}
    pull(trust=())
    with pytest.raises(RegistryError, match="is not signed"):
        registry.pull_offline("radiology", tmp_path / "again", trust=[keys / "owner.pub.pem"], **places)
    registry.sign(tracking, "radiology", keys / "owner.pem")
    pull()
    registry.pull_offline("radiology", tmp_path / "again", trust=[keys / "owner.pub.pem"], **places)
    with pytest.raises(RegistryError, match="is signed by key"):
        registry.pull_offline("radiology", tmp_path / "third", trust=[keys / "other.pub.pem"], **places)


def test_an_encrypted_key_asks_for_its_passphrase(tracking, version, pull, keys, tmp_path):
    encrypted = tmp_path / "encrypted.pem"
    openssl("pkey", "-in", keys / "owner.pem", "-aes256", "-passout", "pass:sesame", "-out", encrypted)
    registry.sign(tracking, "radiology", encrypted, passphrase=lambda: "sesame")
    assert pull().signed_by
    for wrong in ("open", ""):
        with pytest.raises(ConfigError, match="or the passphrase is wrong"):
            registry.sign(tracking, "radiology", encrypted, passphrase=lambda wrong=wrong: wrong)


@pytest.mark.parametrize("name", ["owner.pub.pem", "rsa.pem", "nowhere.pem"])
def test_a_file_that_is_no_private_key_is_named(tracking, version, keys, name):
    if name == "rsa.pem":
        openssl("genrsa", "-out", keys / name, "2048")
    with pytest.raises(ConfigError, match=name):
        registry.sign(tracking, "radiology", keys / name)
    with pytest.raises(ConfigError, match=r"owner\.pem holds no ed25519 public key"):
        registry.pull(tracking, "radiology", keys / "out", trust=[keys / "owner.pem"])


def old_signature(keys, tmp_path, name, digest):
    """What clinscale signed before it signed number and manifest, in base64."""
    import base64

    (tmp_path / "message").write_text(f"clinscale-model-1\n{name}\n{digest}\n")
    options = ["-sign", "-inkey", keys / "owner.pem", "-rawin", "-in", tmp_path / "message"]
    return base64.b64encode(openssl("pkeyutl", *options)).decode()


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_signature_of_the_old_kind_passes_with_a_word(
    tracking, version, pull, keys, tmp_path, caplog, has_manifest
):
    registry.sign(tracking, "radiology", keys / "owner.pem")
    if not has_manifest:
        tracking.client.delete_model_version_tag("radiology", "1", Tag.MANIFEST)
        [manifest] = (tmp_path / "mlartifacts").rglob("manifest.json")
        manifest.write_text(json.dumps({"files": json.loads(manifest.read_text())["files"]}))
    signature = old_signature(keys, tmp_path, "radiology", version.digest)
    tracking.client.set_model_version_tag("radiology", "1", Tag.SIGNATURE, signature)
    assert pull().version == 1
    assert "its number, code and requirements are not covered" in caplog.text
    assert ("in no digest and no signature" in caplog.text) != has_manifest


def test_a_folder_of_the_cache_is_not_given_under_a_signed_name_that_is_not_its_own(
    tracking, version, register_base, hf_folder, pull, keys
):
    """An owner of the server lets the signed version point at files that were pulled before."""
    registry.sign(tracking, "radiology", keys / "owner.pem")
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, "note": "hostile"}))
    hostile = register_base(hf_folder, name="pathology")
    pull("pathology", trust=(), out="other")
    tracking.client.set_model_version_tag("radiology", "1", Tag.DIGEST, hostile.digest)
    with pytest.raises(RegistryError, match="its signature was not made for this name, number and digest"):
        pull()


def test_a_signed_version_under_another_number_is_refused(tracking, version, register_base, hf_folder, pull, keys):
    """An owner of the server shows the signed first version once more as the newest."""
    signed = registry.sign(tracking, "radiology", keys / "owner.pem")
    source = tracking.client.get_model_version("radiology", "1")
    tracking.client.create_model_version("radiology", source.source, tags=signed.tags)
    with pytest.raises(RegistryError, match="radiology/2: its signature was not made for this name, number"):
        pull("radiology/2")
