"""Signatures of versions: ed25519 over name, number and the digest of every file, so that none can be exchanged.

The number is covered so that an older version cannot be shown as the newest. Versions and signatures of before are
still read, with a word about what they do not cover. The keys are OpenSSL's PEM files. The signature is in the
version's tags; its checker brings the public key.
"""

import base64
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.errors import ConfigError, RegistryError
from clinscale.permissions import read_secret
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import ModelVersion, resolve, set_version_tags

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

log = logging.getLogger(__name__)

NO_MANIFEST = (
    "was registered before manifests listed every file: its code and requirements are in no digest and no signature; "
    "register it again to cover them"
)
_OLD_SIGNATURE = (
    "has a signature of the old kind, over name and digest alone: its number, code and requirements are not covered; "
    "ask its owner to sign it again"
)
HOW_TO_MAKE_KEYS = (
    "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub.pem"
)


def sign(
    tracking: Tracking, reference: str, key: str | Path, *, passphrase: Callable[[], str] = lambda: ""
) -> ModelVersion:
    """Sign the version that `reference` names with the private key in the PEM file `key`; the version as it then is.

    Args:
        tracking: where the version is.
        reference: `NAME`, `NAME@alias` or `NAME/3`.
        key: PEM file of an ed25519 private key.
        passphrase: asked for only when the key is encrypted.

    Raises:
        ConfigError: the file is no ed25519 private key, or the passphrase is wrong.
        RegistryError: the version was not registered by clinscale, or the server fails.
    """
    private = _private_key(Path(key), passphrase)
    version = resolve(tracking, reference)
    if not version.digest:
        raise RegistryError(
            f"{version.label} was not registered by clinscale and has no digest to sign; pull it and register it again"
        )
    if not version.manifest:
        log.warning(f"{version.label} {NO_MANIFEST}")
    signature = private.sign(_message(version.name, version.version, version.digest, version.manifest))
    tags = {
        Tag.SIGNATURE: base64.b64encode(signature).decode(),
        Tag.SIGNED_BY: _fingerprint(private.public_key()),
    }
    set_version_tags(tracking, version, tags)
    return resolve(tracking, version.label)


@dataclass(frozen=True)
class Signed:
    """The signed values and the signature; empty or None where it is missing."""

    name: str
    version: int
    digest: str
    """Digest of the HF folder."""
    manifest: str | None
    """Manifest of all files."""
    signature: str | None
    signed_by: str | None

    @property
    def label(self) -> str:
        """`NAME/VERSION`."""
        return f"{self.name}/{self.version}"


def check_signature(signed: Signed, *, trusted: Sequence[str | Path]) -> None:
    """Pass only a valid signature over this name, number and manifest by one of the public keys in files `trusted`.

    One that clinscale made before it signed number and manifest passes with a warning.

    Raises:
        ConfigError: a file is no ed25519 public key.
        RegistryError: there is no signature, it is another key's, or it was made for something else.
    """
    from cryptography.exceptions import InvalidSignature

    label, signature, signed_by = signed.label, signed.signature, signed.signed_by
    keys = {_fingerprint(key): key for key in map(_public_key, map(Path, trusted))}
    named = ", ".join(fingerprint[:12] for fingerprint in keys)
    if not signature or not signed_by:
        raise RegistryError(
            f"{label} is not signed, and a signature by {named} is demanded; ask its owner to sign it: "
            f"clinscale models sign {label} --key KEY.pem"
        )
    if signed_by not in keys:
        raise RegistryError(
            f"{label} is signed by key {signed_by[:12]}, trusted is {named}; ask its owner who signed it, "
            "or trust that key too"
        )
    messages = {
        _message(signed.name, signed.version, signed.digest, signed.manifest): "",
        f"clinscale-model-1\n{signed.name}\n{signed.digest}\n".encode(): _OLD_SIGNATURE,
    }
    for message, lacking in messages.items():
        with contextlib.suppress(InvalidSignature, ValueError):
            keys[signed_by].verify(base64.b64decode(signature, validate=True), message)
            if lacking:
                log.warning(f"{label} {lacking}")
            return
    raise RegistryError(
        f"{label}: its signature was not made for this name, number and digest "
        f"{(signed.manifest or signed.digest)[:12]}; the version was changed after it was signed, or the signature is "
        "of another one: do not use it"
    )


def _message(name: str, version: int, digest: str, manifest: str | None) -> bytes:
    # the digest too, which is in the manifest's: by it alone a folder is found in a cache
    return f"clinscale-model-2\n{name}\n{version}\n{digest}\n{manifest or ''}\n".encode()


def _fingerprint(key: "Ed25519PublicKey") -> str:
    """SHA-256 of the key in DER, as `openssl pkey -pubin -outform DER | sha256sum` prints it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _private_key(path: Path, passphrase: Callable[[], str]) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem, key = read_secret(path, "private key"), None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(pem, passphrase().encode())
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} holds no ed25519 private key in PEM, or the passphrase is wrong; make one: {HOW_TO_MAKE_KEYS}"
        )
    return key


def _public_key(path: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem, key = _read(path), None
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} holds no ed25519 public key in PEM; make one: {HOW_TO_MAKE_KEYS}")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"key {path} cannot be read ({type(error).__name__}); give the path of a PEM file"
        ) from None
