"""MLflow's pages of a database on this machine, for the one who started them alone.

The team's server with one account and nobody else: it listens on loopback, its login is made anew at each start and
is in a folder that only its owner may open, and the logins' tables are there too: the database stays as it is.
"""

import contextlib
import secrets
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clinscale.errors import ConfigError, RegistryError
from clinscale.permissions import own_temporary_folder
from clinscale.registry.server import ADMIN_PASSWORD_FILE, Server, ServerConfig, ServerFolder
from clinscale.registry.tracking import ARTIFACTS_FOLDER, DATABASE_FILE


@contextlib.contextmanager
def own_server(home: str | Path, port: int | None = None) -> Iterator[Server]:
    """A server of the runs of `home` that its `run` starts; None is a free port. Its secrets go when it is done with.

    Raises:
        ConfigError: `home` has no database of MLflow.
        RegistryError: the database is of another version of MLflow, and looking at it must not change it.
        CapacityError: the port is taken.
    """
    home = Path(home).absolute()
    _check_schema(home)
    with tempfile.TemporaryDirectory(dir=own_temporary_folder("clinscale-ui")) as path:
        folder = ServerFolder(path)
        # of this start alone: a browser may send it to another process that listens here after its end
        folder.write(ADMIN_PASSWORD_FILE, secrets.token_urlsafe(24))
        config = ServerConfig(
            database=f"sqlite:///{home / DATABASE_FILE}",
            accounts_database=f"sqlite:///{folder.path / 'accounts.db'}",
            artifacts=str(home / ARTIFACTS_FOLDER),
            port=port or _free_port(),
            workers=1,
            single_user=True,
        )
        yield Server(folder, config)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _check_schema(home: Path) -> None:
    """Refuse what MLflow would change on opening: no database, an empty one, one of an older MLflow."""
    path = home / DATABASE_FILE
    if not path.is_file():
        raise ConfigError(f"--home must be a folder with runs, and {path} does not exist; name the right one")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(
            f"{path} must be a database of MLflow that this user may read ({error}); name the right --home"
        ) from None
    from mlflow.store.db.utils import _get_latest_schema_revision

    wanted = _get_latest_schema_revision()
    if found is None or found[0] != wanted:
        raise RegistryError(
            f"{path} must be of the schema of the installed MLflow ({wanted}), got {found[0] if found else 'none'}; "
            f"use the MLflow that wrote it, or copy it and run: mlflow db upgrade sqlite:///{path}"
        )
