"""The key by which a run knows its own checkpoints: a user who may write into their folder must not run code by them.

A key is made for each folder of checkpoints and is in the user's own `~/.clinscale/run-keys`, never beside what it
signs. It is HMAC's (RFC 2104): who goes on with a run is who may sign for it.
"""

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from clinscale.permissions import make_folder, open_private, read_secret

RUN_KEYS = "CLINSCALE_RUN_KEYS"
"""The variable that names another folder for them, which all nodes see where a user's own folder is on one alone."""

_FOLDER = "~/.clinscale/run-keys"


def key_file(folder: Path) -> Path:
    """File of this user's key for the checkpoints in `folder`."""
    keys = Path(os.environ.get(RUN_KEYS) or _FOLDER).expanduser()
    return keys / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def sign(folder: Path, message: bytes) -> str:
    """The signature of `message` with the key of `folder`, as hex; the key is made on first use."""
    file = key_file(folder)
    if not file.exists():
        make_folder(file.parent)
        try:
            with open_private(file, "x", follow=False, encoding="ascii") as stream:
                stream.write(secrets.token_hex(32))
        except FileExistsError:  # another process of the run was faster
            pass
    return hmac.new(read_secret(file, "key"), message, hashlib.sha256).hexdigest()


def is_signed(folder: Path, message: bytes, signature: str) -> bool:
    """Whether the key of `folder` has signed `message`; False without that key."""
    return key_file(folder).exists() and hmac.compare_digest(sign(folder, message), signature)


def others_may_write(folder: Path) -> bool:
    """Whether somebody else than this user and root may change what is in `folder`, or has put something there."""
    below = (Path(where, name) for where, folders, names in os.walk(folder) for name in (*folders, *names))
    return any(map(_is_open, (folder.parent, folder, *below)))


def _is_open(path: Path) -> bool:
    found = path.lstat()
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode))
