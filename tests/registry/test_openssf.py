import json
import subprocess

import pytest

from clinscale import registry
from clinscale.errors import ConfigError
from clinscale.registry import openssf
from clinscale.registry.mlflow_model import MANIFEST, saved_model


def make_key(folder, *kind):
    key = folder / "key.pem"
    subprocess.run(["openssl", "genpkey", *kind, "-out", key], check=True, capture_output=True)
    key.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", folder / "key.pub.pem"], check=True)
    return key


P256 = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def verify(folder, public):
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(folder, folder / openssf.STATEMENT)


def test_a_version_carries_a_statement_that_openssfs_own_verifier_takes(hf_folder, tmp_path, monkeypatch):
    monkeypatch.setenv(openssf.KEY_VARIABLE, str(make_key(tmp_path, *P256)))
    files = registry_files(hf_folder)
    with saved_model(hf_folder, files, None) as (saved, _):
        verify(saved, tmp_path / "key.pub.pem")
        assert openssf.STATEMENT in json.loads((saved / MANIFEST).read_text())["around"]
        for change in ("artifacts/hf/config.json", "artifacts/hf/added.py"):
            before = (saved / change).read_bytes() if (saved / change).exists() else None
            (saved / change).write_text("{}")
            with pytest.raises(ValueError, match="Signature mismatch"):
                verify(saved, tmp_path / "key.pub.pem")
            (saved / change).unlink() if before is None else (saved / change).write_bytes(before)


def registry_files(folder):
    from clinscale.registry.folders import hash_folder

    return hash_folder(folder, source="test")


def test_a_version_with_a_statement_is_pulled_like_any_other(
    tracking, register_base, hf_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv(openssf.KEY_VARIABLE, str(make_key(tmp_path, *P256)))
    version = register_base(hf_folder)
    assert registry.pull(tracking, version.label, tmp_path / "out").digest == version.digest


@pytest.mark.parametrize(
    "kind", [("-algorithm", "ed25519"), ("-algorithm", "RSA"), (*P256, "-aes256", "-pass", "pass:x")]
)
def test_another_key_is_refused(tmp_path, monkeypatch, kind):
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", *kind, "-out", key], check=True, capture_output=True)
    key.chmod(0o600)
    monkeypatch.setenv(openssf.KEY_VARIABLE, str(key))
    with pytest.raises(ConfigError, match="must name an elliptic private key"):
        openssf.write_statement(tmp_path, ignored=MANIFEST)


def test_without_a_key_there_is_no_statement(tmp_path, monkeypatch):
    monkeypatch.delenv(openssf.KEY_VARIABLE, raising=False)
    openssf.write_statement(tmp_path, ignored=MANIFEST)
    assert list(tmp_path.iterdir()) == []
