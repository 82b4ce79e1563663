"""The secret that a Ray cluster asks every node, driver and job for.

Ray reads it from RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH or `~/.ray/auth_token`, and asks for it where
RAY_AUTH_MODE is `token`. Ray's own `get-auth-token --generate` leaves the file readable for everybody.
"""

import os
import secrets
from pathlib import Path

from clinscale.errors import ConfigError

TOKEN_FILE = "auth_token"
"""Name of the token's file in the folder that launch files mount as `~/.ray`."""
_USERS_FILE = Path("~/.ray") / TOKEN_FILE


def make_token(folder: str | Path) -> tuple[Path, bool]:
    """The token file in `folder`, for its owner alone, and whether it is new; what is there is kept.

    Raises:
        ConfigError: the token that is there is open to others.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        file.chmod(0o600)  # a local Ray made it, readable for everybody
    return file.read_text(encoding="ascii").strip()


def _check_private(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(
            f"the token {path} may be read by others (mode {mode:04o}), and whoever reads it owns the cluster; "
            f"make a new one, or where nobody else is on this machine: chmod 600 {path}"
        )
