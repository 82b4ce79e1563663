"""An OpenSSF statement of a version's files, which `model_signing verify` checks where clinscale is not installed."""

import os
from pathlib import Path

from clinscale.errors import ConfigError
from clinscale.permissions import read_secret

STATEMENT = "model.sig"
"""Name of the statement in the root of a registered model: over every file but itself and the manifest."""
KEY_VARIABLE = "CLINSCALE_OPENSSF_KEY"
"""Variable that names the PEM file of a private key; where it is set, each registration writes a statement."""
_HOW_TO_MAKE_A_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out ec.pem; chmod 600 ec.pem"


def write_statement(saved: Path, *, ignored: str) -> None:
    """Sign the files of the saved model with the key that the environment names; nothing where it names none.

    Args:
        saved: the folder.
        ignored: the file in it that is written afterwards.

    Raises:
        ConfigError: `model-signing` is not installed, or the key is no elliptic one in PEM without a passphrase.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        return
    try:
        from model_signing import hashing, signing
    except ImportError:
        raise ConfigError(
            f"{KEY_VARIABLE} is set, and its statements need the package model-signing, which is not installed; "
            f"pip install 'clinscale[openssf]', or unset {KEY_VARIABLE}"
        ) from None
    read_secret(key, "private key")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"{KEY_VARIABLE} must name an elliptic private key (P-256, P-384 or P-521) in PEM without a passphrase, "
            f"got {key}; make one: {_HOW_TO_MAKE_A_KEY}"
        ) from None
    left_out = [saved / ignored, saved / STATEMENT]
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=left_out)).sign(saved, saved / STATEMENT)
