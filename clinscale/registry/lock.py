"""`models.lock`: which version and digest each pulled reference is locked to, kept outside the registry.

A registry's aliases move and its tags can be rewritten; this file is with the user's code and says what was
pulled, so that the next pull gives the same bytes or says that it cannot.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError, RegistryError
from clinscale.permissions import make_folder
from clinscale.registry.cache import exclusive
from clinscale.registry.versions import names_version
from clinscale.runfolder import PLAIN_NAME
from clinscale.storage import atomic_path
from clinscale.strict_yaml import write_yaml

LOCK_FILE = "models.lock"

_HEAD = "# What `clinscale pull` gave for each reference. Keep it with your code; `pull --update` moves one on.\n"

Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class LockedModel(Config):
    """The version that a reference is locked to."""

    registry: str
    """Registry from which it was pulled first, without user and password."""
    name: Annotated[str, Field(pattern=f"^{PLAIN_NAME}$")]
    version: Annotated[int, Field(ge=1)]
    digest: Hex
    manifest: Hex | None = None
    """Digest of all files of the version; None in entries and of versions from before it was kept."""
    signed_by: Hex | None = None
    """Fingerprint of the key whose signature was demanded and found."""
    signature: str | None = None

    @property
    def label(self) -> str:
        """`NAME/VERSION`."""
        return f"{self.name}/{self.version}"


class _Lock(Config):
    format: Literal[1] = 1
    models: dict[str, LockedModel] = Field(default_factory=dict)

    def check(self) -> None:
        """ConfigError where an entry is of another model than its reference names, or two references look alike."""
        alike: dict[str, str] = {}
        for reference, entry in self.models.items():
            if not names_version(reference, entry.name, entry.version):
                raise ConfigError(
                    f"models.{reference} must be a version that {reference} can name, got {entry.label}; "
                    "somebody changed the lock file: restore it, or remove the entry and pull again"
                )
            other = alike.setdefault(reference.casefold(), reference)
            if other != reference:
                raise ConfigError(
                    f"models.{other} and models.{reference} must not differ by case alone; remove one of them"
                )


def read_lock(path: str | Path) -> dict[str, LockedModel]:
    """The entries by reference; none where there is no file. ConfigError for a file that is broken or not its own."""
    return _Lock.load(path).models if Path(path).exists() else {}


def write_lock(path: str | Path, reference: str, entry: LockedModel, *, replacing: LockedModel | None) -> None:
    """Set one entry and leave the others as they are by now.

    Raises:
        RegistryError: the entry is no longer `replacing`, since another pull has set it to something else.
    """
    path = Path(path).resolve()  # a link stays one
    make_folder(path.parent)
    with exclusive(path.with_name(f".{path.name}.lock"), patience_s=60):
        models = read_lock(path)
        if models.get(reference) not in (replacing, entry):
            raise RegistryError(
                f"{path.name} holds {models[reference].label} for {reference} by now, from another pull; pull it again"
            )
        models[reference] = entry
        _Lock(models=models).check()
        with atomic_path(path) as temporary:
            temporary.write_text(_HEAD + _dump(models), encoding="utf-8")


def _dump(models: dict[str, LockedModel]) -> str:
    values: dict[str, Any] = {key: models[key].model_dump(exclude_none=True) for key in sorted(models)}
    return write_yaml({"format": 1, "models": values})
