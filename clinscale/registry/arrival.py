"""Uploads of files that are looked for in the store afterwards: a proxy that answers 200 in its place keeps nothing."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from clinscale.errors import RegistryError
from clinscale.patience import Patience
from clinscale.registry.contents import Files, entries, local_artifact
from clinscale.registry.tracking import Tracking
from clinscale.storage import sha256

_ARRIVAL_S = 60.0
_MAX_FETCHED_BYTES = 16 * 2**20

log = logging.getLogger(__name__)


def upload_whole(tracking: Tracking, files: Files, sent: Mapping[str, Path], send: Callable[[], object]) -> None:
    """Upload files until the store has each of them, as far as it tells.

    A file is compared by its name and size. Where a store tells no size, one of at most 16 MiB is brought back and
    compared by its hash; a larger one is compared by its name alone, which is said.

    Args:
        tracking: the server.
        files: the folder of artifacts that they go to.
        sent: local files by their path in it.
        send: uploads all of them.

    Raises:
        RegistryError: the server said that it has stored them, and has not.
    """
    patience = Patience(_ARRIVAL_S)
    while True:
        send()
        missing = _missing(tracking, files, sent)
        if not missing:
            return
        if not patience.pause():
            raise RegistryError(
                f"tracking server {tracking.place} said that it stored {len(sent)} files of {files.owner}, and "
                f"{len(missing)} are not there as sent ({missing[0]}); see what answers in its place, and its disk, "
                "and run the same again"
            )


def _missing(tracking: Tracking, files: Files, sent: Mapping[str, Path]) -> list[str]:
    """Paths of the files that the store does not have as they were sent."""
    folders = {str(PurePosixPath(name).parent).removeprefix(".") for name in sent}
    listed = {
        name: item.file_size
        for folder in sorted(folders)
        for name, item in entries(tracking, files, folder)
        if not item.is_dir
    }
    tells_sizes = any(listed.values())
    found, unsure = [], []
    for name, path in sorted(sent.items()):
        size_bytes = path.stat().st_size
        if name not in listed:
            found.append(name)
        elif tells_sizes or not size_bytes:  # zero is left out by MLflow
            found += [name] * ((listed[name] or 0) != size_bytes)
        elif size_bytes > _MAX_FETCHED_BYTES:
            unsure.append(name)
        else:
            with local_artifact(tracking, files, name) as copy:
                found += [name] * (sha256(copy) != sha256(path))
    if unsure and not found:
        log.warning(
            f"the store of {files.owner} tells no size of {', '.join(unsure)}: it is there by its name, and is "
            "compared by its hash when it is pulled"
        )
    return found
