"""An MLflow server for a team: PostgreSQL or SQLite, logins, artifacts by proxy, closed to everything else.

All that it needs is in one folder that only its owner may open: secrets made on the first start, the files of
SQLite and of the artifacts where no other place is given. No secret is ever on a command line.
"""

import contextlib
import importlib.util
import ipaddress
import os
import re
import secrets
import shlex
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale.errors import CapacityError, ConfigError, RegistryError
from clinscale.permissions import make_folder, read_secret
from clinscale.storage import is_remote
from clinscale.telemetry import TELEMETRY_OFF
from clinscale.visible import start_visibly

if TYPE_CHECKING:
    from sqlalchemy import URL

ADMIN = "admin"
"""The one account that a new server has."""
ADMIN_PASSWORD_FILE = "admin-password"
MIN_PASSWORD_CHARACTERS = 12
"""MLflow's own rule."""
PROOF, PROOF_HEADER = "CLINSCALE_SERVER_PROOF", "x-clinscale-proof"
"""The variable and the header of `/health` by which the starter of the server knows that its own one answers."""
START_PAGE = "/start"
"""Path of a page that opens MLflow's at runs and models."""

_APPLICATION = "clinscale.registry.application"
_INSTALL = "install it with: pip install 'clinscale[server]'"
_NAME = re.compile(r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?P<port>:[0-9]+)?")
_IMPLIED = {"http": 80, "https": 443}
"""Ports that a browser leaves out."""
_START_S, _END_S = 300.0, 15.0
_TRUST_S = 30
"""A login is checked again after it; a check costs a tenth of a second, and every request brings one."""
_CLOSED = {
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(mlflow-artifacts|models|runs):/",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_WORKSPACES": "true",  # only with them may MLflow forbid a reader to create things
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
_SINGLE_USER = {"MLFLOW_ENABLE_WORKSPACES": "false", "PYTHONWARNINGS": "ignore"}
_AUTH_INI = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
admin_username = {admin}
authorization_function = clinscale.registry.admission:authenticate
grant_default_workspace_access = false
auth_cache_ttl_seconds = {trust_s}
"""


@dataclass(frozen=True)
class Account:
    """Address and administrator's login of the server, for work on its machine."""

    url: str
    user: str
    password: str


class ServerFolder:
    """The server's folder: secrets, and whatever has no other place."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    @property
    def admin_password(self) -> Path:
        """The file that holds it."""
        return self.path / ADMIN_PASSWORD_FILE

    def claim(self) -> None:
        """Make the folder, for its owner only; ConfigError when others may open it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"server folder {self.path} cannot be made ({type(error).__name__}); choose another --home"
            ) from None
        if mode := stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            raise ConfigError(
                f"server folder {self.path} holds secrets and is open to others (mode {mode:03o}); chmod 700 it"
            )

    def secret(self, name: str, environment: str, *, min_characters: int = 1) -> str:
        """A secret kept in file `name`; made on first use, from variable `environment` where that is set."""
        path = self.path / name
        if path.exists():
            return read_secret(path, "secret").decode().strip()
        value = os.environ.get(environment) or secrets.token_urlsafe(24)
        if len(value) < min_characters:
            raise ConfigError(
                f"{environment} must have at least {min_characters} characters, as MLflow wants, got {len(value)}; "
                "choose a longer one"
            )
        self.write(name, value)
        return value

    def write(self, name: str, text: str) -> Path:
        """Put `text` into file `name`, which only its owner may read; the file."""
        path = self.path / name
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(text + "\n")
        return path

    def account(self) -> Account | None:
        """The administrator's account of the server that was started from here; None where none was."""
        url = self.path / "url"
        if not (url.is_file() and self.admin_password.is_file()):
            return None
        password = read_secret(self.admin_password, "password").decode().strip()
        return Account(url.read_text(encoding="utf-8").strip(), ADMIN, password)


@dataclass(frozen=True)
class ServerConfig:
    """Address of the server and places of its files."""

    database: str | None = None
    """`postgresql://USER@HOST/NAME` or `sqlite:///FILE`; None is SQLite in the folder."""
    database_password_file: Path | None = None
    accounts_database: str | None = None
    """The place of MLflow's users and their rights, `sqlite:///FILE`; None is in the database."""
    artifacts: str | None = None
    """Place of the artifacts, which the server alone reads and writes: a folder or an object store.

    None is in the folder.
    """
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: Sequence[str] = ()
    """Names by which clients call the server; the machine itself may always."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    workers: int = 2
    single_user: bool = False
    """A server for its one account on this machine has no workspaces, and no log of each request."""


class Server:
    """A server whose settings were checked; `run` serves until it is asked to end."""

    def __init__(self, folder: ServerFolder, config: ServerConfig) -> None:
        """Check all that can be checked before anything starts, and make the secrets.

        Raises:
            ConfigError: a setting is wrong or a package is missing.
            RegistryError: the database does not answer.
            CapacityError: the port is taken.
        """
        if importlib.util.find_spec("flask_wtf") is None:
            raise ConfigError(f"the MLflow server's logins need mlflow[auth]; {_INSTALL}")
        self.folder = folder
        self._config = config
        self._hosts = _allowed_hosts(config)
        _check_tls(config.tls_certificate, config.tls_key)
        self._scheme = "https" if config.tls_certificate else "http"
        self.url = f"{self._scheme}://{self._hosts[0]}"
        self.start_page = self.url + START_PAGE
        folder.claim()
        self._admin_password = folder.secret(
            ADMIN_PASSWORD_FILE, "MLFLOW_AUTH_ADMIN_PASSWORD", min_characters=MIN_PASSWORD_CHARACTERS
        )
        self._secret_key = folder.secret("secret-key", "MLFLOW_FLASK_SERVER_SECRET_KEY")
        self._database = _database(config, folder.path)
        _check_database(self._database)
        _check_port(config.host, config.port)

    @property
    def database(self) -> str:
        """Address of the database, without the password."""
        return self._database.render_as_string(hide_password=True)

    def run(self, on_ready: Callable[["Server"], None]) -> None:
        """Serve in the foreground; `on_ready` is called when the server answers. Ends its children however it ends.

        Raises:
            RegistryError: MLflow ended by itself, or did not answer in time.
        """
        # a certificate knows the server's name only, and without one the name may be a proxy's
        own = self.url if self._scheme == "https" else f"http://{_own_host(self._config)}:{self._config.port}"
        self.folder.write("url", own)
        # a group of its own, so that Ctrl-C reaches the children once, from us, and none outlives us
        proof = secrets.token_urlsafe(24)
        environment = self._environment() | {PROOF: proof}
        # what anybody asks of the server may be in its log; by its stdin it knows when we were killed
        options = {"stdin": subprocess.PIPE, "start_new_session": True, "umask": 0o077}
        child, _ = start_visibly(self._command(), env=environment, cwd=self.folder.path, **options)
        try:
            self._wait_until_ready(child, proof)
            on_ready(self)
            raise RegistryError(
                f"mlflow server ended by itself with exit code {child.wait()}; its lines above say why"
            )
        finally:
            _end(child)

    def _command(self) -> list[str]:
        config = self._config
        command = [sys.executable, "-m", _APPLICATION, "server", "--app-name", "basic-auth", "--serve-artifacts"]
        return [*command, "--host", config.host, "--port", str(config.port), "--workers", str(config.workers)]

    def _environment(self) -> dict[str, str]:
        """Environment that MLflow reads instead of a command line, which everyone on the machine may see."""
        settings = {
            "MLFLOW_ARTIFACTS_DESTINATION": self._artifacts(),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._admin_password,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._auth_config()),
            "MLFLOW_BACKEND_STORE_URI": self._database.render_as_string(hide_password=False),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secret_key,
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(self._hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(self._origins()),
            "MLFLOW_UVICORN_OPTS": shlex.join(self._uvicorn_options()),
            # MLflow makes locks of names that anybody can work out
            "TMPDIR": str(make_folder(self.folder.path / "tmp")),
        }
        # a stray setting of the caller's own MLflow could open what is closed here
        kept = {key: value for key, value in os.environ.items() if not _is_of_mlflow(key)}
        alone = _SINGLE_USER if self._config.single_user else {}
        return {**kept, **TELEMETRY_OFF, **_CLOSED, **alone, **settings}

    def _origins(self) -> list[str]:
        """The pages that may call with a user's login: the server's own, on this machine by its own port alone.

        A proxy may speak TLS for us, on the port that https implies, for the names that users know.
        """
        local = (_own_host(self._config), "127.0.0.1", "localhost")
        schemes = sorted({self._scheme, "https"})
        return [
            f"{scheme}://{host}"
            for host in self._hosts
            for scheme in schemes
            if host not in local or self._config.port == _IMPLIED[scheme]
        ]

    def _artifacts(self) -> str:
        place = self._config.artifacts or str(self.folder.path / "artifacts")
        return place if is_remote(place) else str(Path(place).absolute())

    def _auth_config(self) -> Path:
        database = self._config.accounts_database or self._database.render_as_string(hide_password=False)
        database = database.replace("%", "%%")  # as .ini files want it
        return self.folder.write("auth.ini", _AUTH_INI.format(database=database, admin=ADMIN, trust_s=_TRUST_S))

    def _uvicorn_options(self) -> list[str]:
        options = ["--timeout-graceful-shutdown", f"{_END_S / 2:.0f}"]
        if self._config.single_user:
            options += ["--no-access-log", "--log-level", "warning"]
        if self._config.tls_certificate and self._config.tls_key:
            options += ["--ssl-certfile", str(self._config.tls_certificate.absolute())]
            options += ["--ssl-keyfile", str(self._config.tls_key.absolute())]
        return options

    def _wait_until_ready(self, child: "subprocess.Popen[str]", proof: str) -> None:
        """Wait for our own server's answer; another user's, who was faster at the port, lacks the proof."""
        health = f"{self._scheme}://{_own_host(self._config)}:{self._config.port}/health"
        unverified = ssl.create_default_context()  # our own child, and nothing secret is sent
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
        )
        end = time.monotonic() + _START_S
        while time.monotonic() < end and child.poll() is None:
            with contextlib.suppress(OSError), direct.open(health, timeout=2) as answer:
                if answer.headers.get(PROOF_HEADER) == proof:
                    return
            time.sleep(0.2)
        state = f"ended with exit code {child.returncode}" if child.returncode is not None else "hangs"
        raise RegistryError(f"mlflow server did not answer at {health}: it {state}; its lines above say why")


def _own_host(config: ServerConfig) -> str:
    """Name by which the machine itself reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"[{host}]" if ":" in host else host


def _is_of_mlflow(variable: str) -> bool:
    # the artifacts' object store gets its endpoint this way
    return variable.startswith(("MLFLOW_", "_MLFLOW_")) and not variable.startswith("MLFLOW_S3_")


def _allowed_hosts(config: ServerConfig) -> list[str]:
    """The exact values of the Host header that pass; MLflow's own default lets `10.evil.example` pass too."""
    own = [_own_host(config), "127.0.0.1", "localhost"]
    if not config.allowed_hosts and not _is_loopback(config.host):
        raise ConfigError(
            f"--host {config.host} lets other machines in, and --allowed-hosts is empty; "
            "name the server as its users write it in the URL, e.g. --allowed-hosts mlflow.lab.example"
        )
    hosts: list[str] = []
    for name in [*config.allowed_hosts, *own]:
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"--allowed-hosts takes exact host names, got {name!r}; no wildcards and no URLs")
        # browsers and clients leave out only the port that their scheme implies, as behind a TLS proxy
        hosts += [name] if match["port"] else [f"{name}:{config.port}", name]
    return list(dict.fromkeys(hosts))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ConfigError("--tls-certificate and --tls-key belong together; give both or neither")
    read_secret(key, "--tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"TLS certificate {certificate} and key {key} cannot be used ({error.strerror or type(error).__name__}); "
            "both must be PEM files that belong together"
        ) from None


def _database(config: ServerConfig, folder: Path) -> "URL":
    """The database's address for SQLAlchemy, with the password from its file."""
    import sqlalchemy
    import sqlalchemy.exc

    try:
        url = sqlalchemy.make_url(config.database or f"sqlite:///{folder / 'mlflow.db'}")
    except sqlalchemy.exc.ArgumentError:
        raise ConfigError("the database's address is no URI; write postgresql://USER@HOST/NAME") from None
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgres", "postgresql"):
        raise ConfigError(f"database {backend!r} is not known; use postgresql:// or sqlite:///")
    if backend == "sqlite":
        return url.set(database=str(Path(url.database or "mlflow.db").absolute()))
    if config.database_password_file:
        secret = read_secret(config.database_password_file, "--database-password-file")
        url = url.set(password=secret.decode().strip())
    return url.set(drivername="postgresql+psycopg")


def _check_database(url: "URL") -> None:
    import sqlalchemy
    import sqlalchemy.exc

    place = url.render_as_string(hide_password=True)
    try:
        timeout = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}
        engine = sqlalchemy.create_engine(url, connect_args=timeout)
        with engine.connect():
            engine.dispose()
    except ImportError:
        raise ConfigError(f"database {place} needs the driver psycopg; {_INSTALL}") from None
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", error)).partition("\n")[0]
        raise RegistryError(
            f"database {place} does not answer ({reason}); check its address, user and password, and that it runs"
        ) from None


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
    except OSError as error:
        raise CapacityError(
            f"{host}:{port} cannot be listened on ({error.strerror}); stop what listens there, or choose another "
            "--host or --port"
        ) from None


def _end(child: "subprocess.Popen[str]") -> None:
    """Ask the server to finish its requests, then end whatever is left of its group."""
    child.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_END_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
