"""The secret that a Ray cluster asks every node, driver and job for.

Ray reads it from RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH or `~/.ray/auth_token`, and asks for it where
RAY_AUTH_MODE is `token`. Ray's own `get-auth-token --generate` leaves the file readable for everybody.
"""

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clinscale.errors import ConfigError
from clinscale.permissions import make_folder
from clinscale.storage import atomic_path

TOKEN_FILE = "auth_token"
"""Name of the token's file in the folder that launch files mount as `~/.ray`."""
_USERS_FILE = Path("~/.ray") / TOKEN_FILE
_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

log = logging.getLogger(__name__)


def make_token(folder: str | Path) -> tuple[Path, bool]:
    """The token file in `folder`, for its owner alone, and whether it is new; what is there is kept.

    Raises:
        ConfigError: the token that is there is open to others.
    """
    folder = make_folder(Path(folder).expanduser())
    path = folder / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _check_private(path)
        return path, False
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return path, True


def read_token(path: str | Path | None = None) -> str | None:
    """The token of this user: from `path`, else where Ray looks for it; None where there is none.

    Raises:
        ConfigError: `path` is not there or open to others.
    """
    if path is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token
    named = path or os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named or _USERS_FILE).expanduser()
    if not file.is_file():
        if named:
            raise ConfigError(f"there is no token at {file}; name the cluster's token file")
        return None
    if named:
        _check_private(file)
    else:
        replace_open_token()
    return file.read_text(encoding="ascii").strip()


def replace_open_token() -> None:
    """Put a new token in the place of one at `~/.ray` that others may have read, as Ray leaves its own."""
    file = _USERS_FILE.expanduser()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not file.stat().st_mode & 0o077:
            return
        with atomic_path(file) as temporary:
            temporary.write_text(secrets.token_hex(32), encoding="ascii")
        file.chmod(0o600)
        log.warning(
            f"the token {file} could be read by every user of this machine, and was replaced; a cluster that knows the "
            "old one must be started anew"
        )


@contextlib.contextmanager
def session_token(folder: Path) -> Iterator[None]:
    """A new token, in a file below `folder` for this user alone, which Ray asks everybody for while the block runs."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=f"{TOKEN_FILE}-")  # 0600
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    before = {key: os.environ.pop(key, None) for key in _VARIABLES}
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=name)
    _read_again()
    try:
        yield
    finally:
        for key in _VARIABLES:
            os.environ.pop(key, None)
        os.environ.update({key: value for key, value in before.items() if value is not None})
        _read_again()
        Path(name).unlink(missing_ok=True)


def _read_again() -> None:
    """Let Ray, which reads mode and token once in a process, read them anew."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_private(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(
            f"the token {path} may be read by others (mode {mode:04o}), and every reader of it owns the cluster; "
            f"make a new one, or where nobody else is on this machine: chmod 600 {path}"
        )
