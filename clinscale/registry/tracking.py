"""The connection to MLflow: where it is, whether it answers, and how its failures are reported.

Only `MlflowClient` with explicit ids is used, never the fluent API: its run stack is thread-local, and
`set_experiment` exports variables that redirect the runs of child processes.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clinscale import stores
from clinscale.errors import AccessError, ConfigError, RegistryError
from clinscale.patience import Patience
from clinscale.permissions import make_folder, open_private
from clinscale.registry.answers import IMPATIENT, MOVING_FILES, Waiting, answered, once, waiting, why_away
from clinscale.registry.database import Database, uninterrupted
from clinscale.registry.tags import Experiment
from clinscale.storage import how_to_install

_STRAY = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
_DENIED = (401, 403)
_OTHER_DATABASES = ("postgresql", "mysql", "mssql")
"""Beginnings of the URIs of databases that MLflow knows beside SQLite."""

_EXPERIMENTS = (*Experiment.TRAINING, Experiment.RELEASES)

DATABASE_FILE, ARTIFACTS_FOLDER = "mlflow.db", "mlartifacts"
"""Names in a home of the default database and of the folder of its files."""


@dataclass(frozen=True)
class Tracking:
    """A tracking server that answered once. Small and picklable: the client is made anew in each process."""

    uri: str
    """Absolute, so that a change of folder or process does not change what it names."""
    artifact_root: str | None
    """Place where new experiments keep their files; None lets the server decide."""

    @property
    def client(self) -> "PatientClient":
        """The process's `MlflowClient` for this server; it waits for one behind HTTP, or a file, that is away."""
        return _client(self)

    @property
    def _is_http(self) -> bool:
        return self.uri.startswith("http")

    @property
    def place(self) -> str:
        """Name of the server in messages: its URI without a password."""
        return _without_password(self.uri)

    @property
    def shared_place(self) -> str:
        """The URI without user and password, for files that several people read."""
        return re.sub(r"//[^/\s]*@", "//", self.uri)

    @contextlib.contextmanager
    def faults(self, action: str) -> Iterator[None]:
        """Turn what MLflow raises while it does `action` into one RegistryError that names the server.

        ConfigError where the server's files are in an object store whose library is not installed here.
        """
        from mlflow.exceptions import MlflowException

        try:
            with uninterrupted() if self.uri.startswith("sqlite") else contextlib.nullcontext():
                yield
        except ModuleNotFoundError as error:  # MLflow imports the library of an object store when it first asks it
            if not (install := how_to_install(error.name or "")):
                raise
            raise ConfigError(
                f"tracking server {self.place} could not {action}: its files are in an object store, and {install}"
            ) from None
        except MlflowException as error:
            reason = why_away(error) or f"{error.error_code}: {_first_line(error)}"
            denied = error.get_http_status_code() in _DENIED
        except _failures() as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            kind = f"HTTP {status}" if status else getattr(error, "strerror", None) or type(error).__name__
            reason = why_away(error) or kind
            if self.uri.startswith("sqlite") and (own := getattr(error, "orig", None)):
                reason = str(own)  # `database or disk is full`, `attempt to write a readonly database`
            denied = status in _DENIED
        except Exception as error:
            if not (said := stores.refusal(error)):
                raise
            raise RegistryError(
                f"tracking server {self.place} could not {action}: its files are in an object store, whose answer is "
                f"{said}; check the network, the store's address and this account's rights and credentials there, then "
                "run the same command again"
            ) from None
        else:
            return
        if denied:
            raise AccessError(
                f"tracking server {self.place}: this account may not {action} ({reason}); check "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and this user's rights on the model and on its "
                "experiment"
            )
        fix = "check that it runs and that --tracking-uri or MLFLOW_TRACKING_URI names it"
        if self.uri.startswith("sqlite"):
            fix = "check the room on its disk and its permissions, or name another one with --tracking-uri"
        raise RegistryError(f"tracking server {self.place} could not {action} ({reason}); {fix}")

    def impatient(self) -> contextlib.AbstractContextManager[None]:
        """Give up on a server that does not answer after seconds; otherwise a restart is waited for, for minutes."""
        return waiting(IMPATIENT)

    def answer(self, call: Callable[..., Any], *args: Any, moves_files: bool = False, **named: Any) -> Any:
        """The answer to a call of MLflow's that is not one of the `client`'s, waited for as those are."""
        if database := _database(self.uri):
            return database.ask(call, *args, moves_files=moves_files, **named)
        if not self._is_http:
            return call(*args, **named)
        return answered(self.place, call, *args, moves_files=moves_files, **named)

    def once(
        self, make: Callable[[Any], Any], find: Callable[[], list[Any]], discard: Callable[[Any], object]
    ) -> Any:
        """The one thing that `make` makes with a client, though the answer may be lost: see `answers.once`."""
        client = self.client
        return once(self.place, lambda: make(client.plain), find, discard) if self._is_http else make(client)

    def every(self, action: str, search: Callable[[str | None], Any]) -> Iterator[Any]:
        """All items of a paged MLflow search; `search` gets the page token, faults are reported as of `action`."""
        token: str | None = None
        while True:
            with self.faults(action):
                page = search(token)
            yield from page
            token = page.token
            if not token:
                return

    def experiment_id(self, name: str) -> str:
        """Id of the experiment called `name`, made on first use.

        Raises:
            RegistryError: it was deleted in MLflow, or the server fails.
        """
        from mlflow.exceptions import MlflowException

        with self.faults(f"open experiment {name}"):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                location = f"{self.artifact_root}/{name}" if self.artifact_root else None
                try:
                    return str(self.client.create_experiment(name, artifact_location=location))
                except MlflowException:  # another process was first
                    found = self.client.get_experiment_by_name(name)
                    if found is None:
                        raise
        if found.lifecycle_stage != "active":
            raise RegistryError(
                f"experiment {name} on {self.place} is deleted; bring it back with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return str(found.experiment_id)


def connect(
    tracking_uri: str | None = None, *, home: str | Path = ".", patience_s: float = IMPATIENT.total_s
) -> Tracking:
    """Open the tracking server and ask it one question.

    Args:
        tracking_uri: else `MLFLOW_TRACKING_URI`, else SQLite in `home` with artifacts in `home/mlartifacts`.
        home: folder of the default database.
        patience_s: time that a server behind HTTP which is away, or starts, is given beyond its first ten seconds.

    Raises:
        ConfigError: MLFLOW_REGISTRY_URI names another place.
        RegistryError: nothing answers within that time, or what answers is no MLflow; or a SQLite database was moved
            or copied away from its files.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # MLflow reads it at import
    for name in _STRAY:  # a stray id would beat the experiment's name
        os.environ.pop(name, None)
    home = Path(home).absolute()
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / DATABASE_FILE}"
    try:
        urlsplit(uri)
    except ValueError as error:
        raise ConfigError(
            f"tracking URI {_without_password(uri)} is none ({error}); correct --tracking-uri or MLFLOW_TRACKING_URI"
        ) from None
    _refuse_other_registry(uri)
    tracking = _at_database(uri, home) if "://" in uri and not uri.startswith("http") else Tracking(uri, None)
    if uri.startswith(_OTHER_DATABASES):
        _try_database(uri, patience_s)
    if database := _database(tracking.uri):
        database.begin()
    patience = Waiting(IMPATIENT.answer_s, patience_s)
    with _one_at_a_time(tracking.uri), waiting(patience), tracking.faults("be reached"):
        known = tracking.client.search_experiments(max_results=1000 if tracking.artifact_root else 1)
    if tracking.uri.startswith("sqlite"):
        _refuse_moved(tracking, [(one.name, one.artifact_location) for one in known])
    return tracking


def _try_database(uri: str, patience_s: float) -> None:
    """Open one connection to a database that is no file; MLflow, where it cannot, goes on trying for an hour.

    Raises:
        ConfigError: its driver is not installed, or the URI is none of its kind.
        RegistryError: it does not answer for `patience_s`.
    """
    import sqlalchemy

    patience, place = Patience(patience_s), _without_password(uri)
    while True:
        try:
            with contextlib.closing(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect()):
                return
        except ImportError as error:
            raise ConfigError(
                f"tracking database {place} needs the Python package {error.name}, which is not installed here; "
                "install it, name another driver (postgresql+psycopg://), or a server's URL with --tracking-uri"
            ) from None
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise ConfigError(
                f"tracking database {place} is no URI of a database; write postgresql://USER@HOST/NAME"
            ) from None
        except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            reason = _first_line(getattr(error, "orig", None) or error)
            if not patience.pause():
                raise RegistryError(
                    f"tracking database {place} cannot be used ({reason}); check that it runs and that --tracking-uri "
                    "or MLFLOW_TRACKING_URI names it"
                ) from None


def _refuse_other_registry(uri: str) -> None:
    """ConfigError where MLflow's own variable names another place for versions: they are kept beside their runs."""
    named = os.environ.get("MLFLOW_REGISTRY_URI", "")
    if named and _comparable(named) != _comparable(uri):
        raise ConfigError(
            f"MLFLOW_REGISTRY_URI must name the tracking server {_without_password(uri)}, got "
            f"{_without_password(named)}: clinscale keeps versions where their runs are; unset it, or name that server "
            "with --tracking-uri"
        )


def _comparable(uri: str) -> str:
    return f"sqlite:///{_file_of(uri)}" if uri.startswith("sqlite:///") else uri.rstrip("/")


def _file_of(uri: str) -> Path:
    """The absolute path of a SQLite file."""
    path = os.path.expanduser(uri.removeprefix("sqlite:///"))  # noqa: PTH111  pathlib raises for a home nobody has
    return Path(path).absolute()


def _refuse_moved(tracking: Tracking, experiments: list[tuple[str, str]]) -> None:
    """RegistryError where the database names another place for the files of our experiments than the one beside it.

    MLflow keeps absolute paths: it would read and write the files of the home that this one was copied from, or make
    the place anew that this one was moved from.
    """
    ours = Path(str(tracking.artifact_root))
    for name, location in experiments:
        place = Path(location)
        if name not in _EXPERIMENTS or place.parts[-2:] != (ours.name, name):  # whose files somebody put elsewhere
            continue
        if place.parent.resolve() != ours.resolve():
            was, now = place.parent.parent, ours.parent
            how, fix = "moved", f"move it back, or make {was} a link to {now}"
            if was.exists():
                how, fix = "copied", "use the original, or begin a new home"
            raise RegistryError(
                f"tracking database {tracking.place} keeps its files below {was}, and is in {now}: it was {how}; {fix}"
            )


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Processes, on any host, that open a SQLite database wait for one another.

    The first makes its tables; MLflow lets a second one begin to make them, too, and both fail.
    """
    with contextlib.ExitStack() as held:
        if uri.startswith("sqlite:///"):
            with contextlib.suppress(OSError):  # a file system without locks
                folder = os.open(Path(uri.removeprefix("sqlite:///")).parent, os.O_RDONLY)
                held.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _at_database(uri: str, home: Path) -> Tracking:
    """A database URI made absolute, with a place for artifacts; checked here because MLflow retries for hours."""
    if find_spec("sqlalchemy") is None:
        raise RegistryError(
            f"tracking database {_without_password(uri)} needs all of MLflow, and only mlflow-skinny is installed; "
            "name a server's URL with --tracking-uri, or `pip install mlflow`"
        )
    if not uri.startswith("sqlite:///"):
        return Tracking(uri, str(home / ARTIFACTS_FOLDER))
    path = _file_of(uri)
    artifacts = path.parent / ARTIFACTS_FOLDER
    tracking = Tracking(f"sqlite:///{path}", str(artifacts))
    try:
        make_folder(path.parent)
        if not path.exists():
            make_folder(artifacts)  # MLflow makes what is below, for all
        open_private(path, "ab").close()  # and SQLite its journals with the rights of the database
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except (sqlite3.Error, OSError) as error:
        raise RegistryError(
            f"tracking database {path} cannot be used ({type(error).__name__}: {error}); "
            "name another one with --tracking-uri, or fix its permissions"
        ) from None
    return tracking


def _failures() -> tuple[type[Exception], ...]:
    """Exceptions of a failing server or database; an installation that only pulls has no SQLAlchemy."""
    import requests
    from google.protobuf.json_format import ParseError

    of_http = (requests.RequestException, json.JSONDecodeError, ParseError, OSError)
    if find_spec("sqlalchemy") is None:
        return of_http
    from sqlalchemy.exc import SQLAlchemyError

    return (*of_http, SQLAlchemyError)


@functools.lru_cache
def _database(uri: str) -> Database | None:
    """The SQLite file that a URI names; None where it names something else."""
    return Database(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:////") else None


class PatientClient:
    """An `MlflowClient` whose calls wait for a server or a database that is away, as `Tracking.answer` does."""

    def __init__(self, plain: Any, answer: Callable[..., Any]) -> None:
        self.plain, self._answer = plain, answer

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if not callable(found):
            return found
        return functools.partial(self._answer, found, moves_files=name in MOVING_FILES)


@functools.lru_cache
def _client(tracking: Tracking) -> PatientClient:
    import mlflow

    # it would print the URI's password, too
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Ctrl-C in the middle of a query ends it, and a full disk a write: they would log a traceback of how; what HTTP
    # tries again is said by `answers`
    for name in ("sqlalchemy.pool", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    made = functools.partial(mlflow.MlflowClient, tracking_uri=tracking.uri, registry_uri=tracking.uri)
    database = _database(tracking.uri)
    return PatientClient(database.ask(made) if database else made(), tracking.answer)


def _without_password(text: str) -> str:
    text = re.sub(r"(//[^:@/\s]*):\S*@", r"\1:***@", text)  # a slash in it, too, which belongs written as %2F
    return re.sub(r"([?&]\w*password=)[^&\s]+", r"\1***", text)


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].partition(" Response body:")[0]  # which may be anything
    text = _without_password(text)
    return text if len(text) <= 200 else f"{text[:200]}..."
