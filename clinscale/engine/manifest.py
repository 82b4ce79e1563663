"""The manifest of a checkpoint: what it holds, and what each of its files must be."""

import hashlib
import json
from pathlib import Path
from typing import Any

from clinscale.config import Config
from clinscale.storage import read_json

MANIFEST = "manifest.json"


class Manifest(Config):
    """Description of a whole checkpoint, and what each of its files must be."""

    format: str = "clinscale-checkpoint-1"
    step: int
    """Steps done."""
    updates: int
    """Updates among them: steps that a guard or an overflow left out are none."""
    schedule_steps: int
    """Number of steps that the learning-rate schedule had taken."""
    world_size: int
    stage: int
    precision: str
    metric: float | None
    """Validation loss, where one was measured at this step."""
    parameters: tuple[str, ...]
    """Names of the trained parameters in the order of the optimiser."""
    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 by path inside the checkpoint."""
    taken_at_s: float
    """Seconds since 1970."""
    signature: str = ""
    """Signature of the other fields, by the run's key; checkpoints of an earlier clinscale have none."""
    digest: str = ""
    """SHA-256 of all other fields, which needs no key; checkpoints of an earlier clinscale have none."""

    def signed_text(self) -> bytes:
        """The bytes that are signed."""
        return self._text(signature="")

    def sealed(self, signature: str) -> dict[str, Any]:
        """The values to write, with a signature of `signed_text` and the digest."""
        return {**self.plain(), "signature": signature, "digest": _sha256(self._text(signature=signature))}

    @property
    def is_as_written(self) -> bool:
        """Whether no value has changed since it was sealed, as far as it was.

        An earlier clinscale left the signature out of the digest.
        """
        return self.digest in ("", _sha256(self._text(signature=self.signature)), _sha256(self.signed_text()))

    def _text(self, *, signature: str) -> bytes:
        values = self.plain()
        del values["digest"]
        return json.dumps({**values, "signature": signature}, sort_keys=True).encode()


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest in a checkpoint's folder; ConfigError where it is none."""
    return Manifest.parse(read_json(checkpoint / MANIFEST), source=str(checkpoint / MANIFEST))
