"""Pull a version from the registry to a local HF folder, trusting nothing but the digest.

A registered version of MLflow is not immutable, and loading a hostile one runs its code. So a pull never loads
anything: it compares names and sizes before it downloads and hashes after it, keeps what is right in the cache, and
shows a copy. The meaning of a reference is written to `models.lock`, and is kept from then on.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinscale.errors import ConfigError, RegistryError
from clinscale.permissions import adopt, make_folder
from clinscale.registry.cache import Cache, clear_scratch, digest_or_none, scratch
from clinscale.registry.download import Progress, download, download_foreign
from clinscale.registry.folders import FileFacts, digest_of
from clinscale.registry.lock import LOCK_FILE, LockedModel, read_lock, write_lock
from clinscale.registry.signing import NO_MANIFEST, Signed, check_signature
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import CHAMPION, ModelVersion, find_version, resolve
from clinscale.storage import copy_hashed

_OTHER_PLACES = "; a folder is named by its path, which is not here, and a model of the hub as ORG/NAME"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """A verified local copy of a version."""

    name: str
    version: int
    path: Path
    digest: str
    signed_by: str | None = None
    """Fingerprint of the trusted key that signed it, where a signature was or is demanded."""


@dataclass(frozen=True)
class FetchedModel:
    """A model that a config names, ready to load."""

    path: str
    """Local HF folder, or a hub name for `from_pretrained`."""
    label: str
    """Label that lineage records: `NAME/VERSION` from the registry, path and digest of a folder, a hub's name."""
    digest: str = ""
    """Digest of a version or of a folder that is safe to register; empty for a hub's name."""
    model_id: str = ""
    """Id of a version's LoggedModel."""


def pull(
    tracking: Tracking,
    reference: str,
    out: str | Path,
    *,
    home: str | Path | None = None,
    lock: str | Path | None = None,
    update: bool = False,
    allow_older: bool = False,
    trust: Sequence[str | Path] = (),
    on_progress: Progress = lambda done, total: None,
) -> Pulled:
    """Copy the version that `reference` names to folder `out`, verified; nothing half-written is ever seen there.

    Args:
        tracking: where from.
        reference: `NAME`, `NAME@alias` or `NAME/3`.
        out: the folder to make. An equal one is left as it is.
        home: keeps what was downloaded in `home/models/cache`, also of a pull that is cut; None keeps nothing.
        lock: the lock file. A reference that it holds gives that version and digest; another one is added.
        update: take what the registry says now and move the lock on; an unchanged copy of what it held is replaced.
        allow_older: let an update go back to an older version, as after a rollback.
        trust: PEM files of ed25519 public keys, one of which must have signed name, number and manifest.
        on_progress: called with the number of bytes that have arrived.

    Raises:
        RegistryError: unknown reference, another digest than locked, an update that goes back, no trusted signature,
            files that are unsafe, unlisted, missing or changed, or `out` holds something else.
        CapacityError: the disk does not hold what the manifest says.
        ConfigError: the lock file or a key is broken, or a folder cannot be written.
    """
    out = _place_of(out)
    entry = read_lock(lock).get(reference) if lock else None
    version, digest = _choose(tracking, reference, entry, update=update)
    if entry and version.version < entry.version and not allow_older:
        raise RegistryError(
            f"{reference} is {version.label} by now, older than {entry.label}, which is locked; where its owner rolled "
            "it back, give --allow-older, else ask them who moved the alias"
        )
    if version.digest and not version.manifest:
        log.warning(f"{version.label} {NO_MANIFEST}")
    replaced = entry.digest if entry and update else None
    signed = _demand_signature(version, trust, entry if update else None)
    with _os_errors_explained(out), _cache(home or out.parent, keep=bool(home)) as cache:
        if digest:  # before anything is downloaded
            _refuse_taken(out, version.label, {digest, replaced})
        folder, digest = _obtain(tracking, version, digest, cache, on_progress)
        _place(folder, out, digest, version.label, replaced)
        if lock:  # last: a pull that is cut before knows what it may replace when it is asked again
            made = LockedModel(
                registry=tracking.shared_place,
                name=version.name,
                version=version.version,
                digest=digest,
                manifest=version.manifest or None,
            )
            locked = (entry if entry and not update else made).model_copy(update=signed)
            if locked != entry:
                write_lock(lock, reference, locked, replacing=entry)
    return Pulled(version.name, version.version, out, digest, signed.get("signed_by"))


def pull_offline(
    reference: str, out: str | Path, *, home: str | Path, lock: str | Path, trust: Sequence[str | Path] = ()
) -> Pulled:
    """Pull from the lock file and the cache alone, without asking a server.

    Raises:
        RegistryError: the lock does not hold the reference, the cache has no intact copy of what it says, no trusted
            signature is recorded with it, or `out` holds something else.
        ConfigError: the lock file or a key is broken, or a folder cannot be written.
    """
    out = _place_of(out)
    entry = read_lock(lock).get(reference)
    if entry is None:
        raise RegistryError(
            f"{lock} does not hold {reference}, and --offline asks nobody else; pull it without --offline"
        )
    if trust:
        signed = Signed(entry.name, entry.version, entry.digest, entry.manifest, entry.signature, entry.signed_by)
        check_signature(signed, trusted=trust)
    with _os_errors_explained(out), _cache(home) as cache:
        folder = cache.find(entry.digest)
        if folder is None:
            raise RegistryError(
                f"{cache.root} holds no intact copy of {entry.label} (digest {entry.digest[:12]}), and --offline asks "
                "nobody else; pull it without --offline"
            )
        _place(folder, out, entry.digest, entry.label)
    return Pulled(entry.name, entry.version, out, entry.digest, entry.signed_by if trust else None)


def _place_of(out: str | Path) -> Path:
    """The folder that `out` names: where it is a link, the one that it leads to, so that it stays a link."""
    return Path(out).resolve() if Path(out).is_symlink() and Path(out).is_dir() else Path(out).absolute()


def is_reference(model: str) -> bool:
    """Whether what is no folder names a version of the registry, as `NAME`, `NAME@alias`, `NAME/3`; else the hub's."""
    _, slash, last = model.partition("/")
    return not slash or last.isdigit()


def fetch_model(
    tracking: Tracking, model: str, *, home: str | Path, lock: str | Path | None = LOCK_FILE
) -> FetchedModel:
    """Fetch the model that a config names: a folder, a registry reference or a hub's `ORG/NAME`.

    A reference is fetched to the cache below `home`. What `lock`, by default `models.lock` in the current folder,
    holds of it is kept to, as a package that a program imports is the locked one; nothing is added to it.

    Raises:
        RegistryError: a name without a slash that the registry does not hold, or a failing pull.
    """
    if not model.strip():
        raise ConfigError(
            "a model must be a folder, NAME, NAME@alias, NAME/3 or a hub's ORG/NAME, got nothing; is a variable of the "
            "shell empty?"
        )
    if Path(model).is_dir():
        digest = digest_or_none(Path(model))
        label = f"{model}#{digest[:12]}" if digest else model
        return FetchedModel(str(Path(model).absolute()), label, digest or "")
    if not is_reference(model):
        return FetchedModel(model, model)
    entry = read_lock(lock).get(model) if lock else None
    version, digest = _choose(tracking, model, entry, hint=_OTHER_PLACES)
    with _os_errors_explained(Path(home)), _cache(home) as cache:
        folder, digest = _obtain(tracking, version, digest, cache)
    return FetchedModel(str(folder), version.label, digest, version.model_id)


def _choose(
    tracking: Tracking, reference: str, entry: LockedModel | None, *, update: bool = False, hint: str = ""
) -> tuple[ModelVersion, str]:
    """The version that is meant and the digest that it must have, empty where only its files can show it."""
    if entry is None or update:
        version = resolve(tracking, reference, hint=hint)
        if reference == version.name and CHAMPION not in version.aliases and version.tags.get(Tag.KIND) == "task":
            decision = version.tags.get(Tag.DECISION, "not judged by the gate")
            log.warning(f"{reference} has no champion: its latest version, {version.label}, is taken ({decision})")
        same = entry and (entry.registry, entry.label) == (tracking.shared_place, version.label)
        if entry is None or not same:
            return version, version.digest
    else:
        now = find_version(tracking, reference)
        if now and now.version != entry.version:
            log.warning(
                f"{reference} is {now.label} by now, and locked to {entry.label}, which is used; "
                f"clinscale pull {reference} --out FOLDER --update moves on"
            )
        found = find_version(tracking, entry.label)
        if found is None:
            raise RegistryError(
                f"{reference} is locked to {entry.label}, which {tracking.place} does not hold (any more); pull with "
                "--update to move on, with --offline for the copy that was pulled, or remove it from the lock file"
            )
        version = found
    if version.digest not in ("", entry.digest):
        raise _changed(version, version.digest, entry.digest)
    if entry.manifest and version.manifest != entry.manifest:
        raise _changed(version, version.manifest or "none", entry.manifest, of="manifest")
    return version, entry.digest


def _changed(version: ModelVersion, found: str, locked: str, *, of: str = "digest") -> RegistryError:
    return RegistryError(
        f"{version.label} has {of} {found[:12]}, locked is {locked[:12]}; somebody changed the version, or this is "
        "another registry: ask its owner, and remove the entry from the lock file if the change is meant"
    )


def _demand_signature(
    version: ModelVersion, trust: Sequence[str | Path], left: LockedModel | None
) -> dict[str, str | None]:
    """The signature's entries in the lock; `left` is the entry that an update moves on from."""
    if not trust:
        if left and left.signed_by:
            raise RegistryError(
                f"{left.label} was locked with the signature of key {left.signed_by[:12]}, and its successor needs one "
                "too; give --trust KEY.pem"
            )
        return {}
    if not version.digest:
        raise RegistryError(
            f"{version.label} was not registered by clinscale and has no digest that could be signed; "
            "pull it without --trust, or register it with clinscale and sign it"
        )
    signature, signed_by = (version.tags.get(tag) for tag in (Tag.SIGNATURE, Tag.SIGNED_BY))
    signed = Signed(version.name, version.version, version.digest, version.manifest, signature, signed_by)
    check_signature(signed, trusted=trust)
    # an entry of before has no manifest, which the signature is over
    return {"signature": str(signature), "signed_by": str(signed_by), "manifest": version.manifest or None}


def _obtain(
    tracking: Tracking,
    version: ModelVersion,
    digest: str,
    cache: Cache,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Path, str]:
    """The verified folder in the cache, and its digest; `digest` is what it must be, where that is known."""
    if version.digest:
        if not re.fullmatch("[0-9a-f]{64}", version.digest):  # it names a folder of the cache
            raise RegistryError(
                f"{version.label}: its digest must be 64 hex digits, got {version.digest!r:.80}; register the model "
                "again"
            )
        return cache.obtain(digest, lambda partial: download(tracking, version, partial, on_progress)), digest
    if digest and (found := cache.find(digest)):
        return found, digest
    log.warning(
        f"{version.label} was not registered by clinscale: no manifest says what it should hold; its files are checked "
        "for code and pickles, and only a lock file shows when they change"
    )
    clear_scratch(cache.root / "foreign")
    with scratch(cache.root / "foreign") as temporary:
        folder = temporary / "hf"
        found_digest = download_foreign(tracking, version, folder, on_progress)
        if digest and found_digest != digest:
            raise _changed(version, found_digest, digest)

        def keep(partial: Path) -> None:
            folder.replace(partial)

        return cache.obtain(found_digest, keep), found_digest


def _refuse_taken(out: Path, label: str, welcome: set[str | None]) -> None:
    """RegistryError where `out` is there and neither empty nor a model of a welcome digest: it is somebody's work."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    held = digest_or_none(out)
    if held is None or held not in welcome:
        raise RegistryError(f"{out} exists and is not {label}; remove it, or give another folder")


def _place(folder: Path, out: Path, digest: str, label: str, replaced: str | None = None) -> None:
    """Make `out` a copy of `folder`, whole or not at all; a link would let a user's edit reach the cache."""
    clear_scratch(out)
    if digest_or_none(out) == digest:
        return
    _refuse_taken(out, label, {replaced})
    with scratch(out) as temporary:
        copy = make_folder(temporary / "copy")
        copied: dict[str, FileFacts] = {}
        for file in folder.iterdir():
            content, size_bytes = copy_hashed(file, copy / file.name)
            copied[file.name] = {"sha256": content, "bytes": size_bytes}
        if digest_of(copied) != digest:  # the source was checked, and may have been changed since
            raise RegistryError(f"{label}: {folder} was changed while it was copied; pull it again")
        if digest_or_none(out) == digest:  # another pull has made it, for the copy took a while
            return
        _refuse_taken(out, label, {replaced})
        before = temporary / "replaced"
        if out.is_symlink() or (out.is_dir() and any(out.iterdir())):
            out.replace(before)
        try:
            copy.replace(out)  # an empty folder gives way, and what another pull has made meanwhile does not
            adopt(out)  # in a folder that was shared it is for the group
        except OSError:
            if digest_or_none(out) != digest:  # that pull has made another one, or the disk takes none
                _refuse_taken(out, label, {digest})
                raise
        finally:
            if os.path.lexists(before) and not os.path.lexists(out):  # interrupted between the two
                before.replace(out)


@contextlib.contextmanager
def _cache(home: str | Path, *, keep: bool = True) -> Iterator[Cache]:
    """The cache below `home`, or one for this pull alone."""
    if keep:
        yield Cache(Path(home) / "models" / "cache")
        return
    clear_scratch(Path(home) / "pull")
    with scratch(Path(home) / "pull") as temporary:
        yield Cache(temporary)


@contextlib.contextmanager
def _os_errors_explained(place: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and their like into one sentence."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or place} cannot be written or read ({error.strerror or type(error).__name__}); fix its "
            "permissions or make room, or give another folder with --out or --home"
        ) from None
