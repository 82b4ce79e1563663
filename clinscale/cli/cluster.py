"""`clinscale cluster`: what a team shares: Ray clusters and their launch files, an MLflow server and its users."""

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clinscale.cli.options import DEFAULT_HOME, Address, Home, Json, TrackingUri, finite, local_only
from clinscale.cli.output import console, emit, table
from clinscale.cli.outputs import check_place
from clinscale.errors import ConfigError
from clinscale.visible import visible

if TYPE_CHECKING:
    from clinscale.registry import Server, ServerFolder

app = typer.Typer(
    no_args_is_help=True, help="What a team shares: Ray clusters, an MLflow server with logins, its users."
)


@app.command()
def mlflow(
    home: Home = DEFAULT_HOME,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="CLINSCALE_DATABASE",
            help="`postgresql://USER@HOST/NAME`, or `sqlite:///FILE`; the default is SQLite in HOME/server.",
        ),
    ] = None,
    database_password_file: Annotated[
        Path | None, typer.Option(help="File that holds the database's password and nothing else.")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Folder or `s3://`, `gs://` prefix that the server alone opens; default in HOME/server."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    allowed_hosts: Annotated[
        str, typer.Option(help="Names by which users call the server, exact, split by commas.")
    ] = "",
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate and its chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 2,
) -> None:
    """Serve MLflow to a team: logins, rights, artifacts by proxy; secrets are made in HOME/server on the first start.

    A password for the database comes from a file, or in the address from CLINSCALE_DATABASE.

    Example: `clinscale cluster mlflow --database postgresql://mlflow@db/mlflow --database-password-file db-password
    --host 0.0.0.0 --allowed-hosts mlflow.lab.example`
    """
    from clinscale import registry

    if database and database != os.environ.get("CLINSCALE_DATABASE") and _has_password(database):
        raise ConfigError(
            "--database holds a password, and everybody on this machine may read command lines; "
            "leave it out and name its file with --database-password-file, or set CLINSCALE_DATABASE"
        )
    config = registry.ServerConfig(
        database=database,
        database_password_file=database_password_file,
        artifacts=artifacts,
        host=host,
        port=port,
        allowed_hosts=[name.strip() for name in allowed_hosts.split(",") if name.strip()],
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        workers=workers,
    )
    server = registry.Server(_folder(home), config)
    console.print(f"MLflow starts on {server.database} ...", soft_wrap=True, markup=False)
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        server.run(on_ready=_print_ready)
    console.print("MLflow has ended", soft_wrap=True)


Shared = Annotated[Path | None, typer.Option(help="Folder that all nodes must see as one: HOME, or one above.")]


@app.command()
def up(
    file: Annotated[Path, typer.Argument(help="Ray launch file, as `clinscale cluster render` writes it.")],
    shared: Shared = None,
    wait: Annotated[float, typer.Option(min=0, callback=finite, help="Seconds to wait for all nodes.")] = 900.0,
    restart: Annotated[bool, typer.Option("--restart", help="Start it anew if it runs; ends its jobs.")] = False,
) -> None:
    """Start a cluster: check its file, make its token, `ray up`, count its nodes and look at each.

    Example: `clinscale cluster up on-prem.yaml --shared /shared`
    """
    from clinscale import launch

    launch.up(file, restart=restart, shared=str(shared) if shared else None, wait_s=wait, on_progress=_say)
    _say(f"the cluster of {file} is up; its dashboard: ray dashboard {file}")
    _say("then, in another terminal: clinscale submit http://127.0.0.1:8265 -- tune ...")


@app.command()
def down(file: Annotated[Path, typer.Argument(help="Ray launch file that it was started with.")]) -> None:
    """End a cluster and its jobs, on every node.

    Example: `clinscale cluster down on-prem.yaml`
    """
    from clinscale import launch

    launch.down(file, on_progress=_say)
    _say(f"the cluster of {file} has ended")


@app.command()
def preflight(
    nodes: Annotated[int | None, typer.Option(min=1, help="How many there must be, the head included.")] = None,
    shared: Shared = None,
    tracking_uri: TrackingUri = None,
    wait: Annotated[float, typer.Option(min=0, callback=finite, help="Seconds to wait for the nodes.")] = 60.0,
    least_free_gib: Annotated[
        float, typer.Option(min=0, callback=finite, help="Space that each disk must have.")
    ] = 5.0,
    address: Address = None,
    json: Json = False,
) -> None:
    """Look at every node of a running cluster before anything expensive starts; exit 1 names the node and the fix.

    Versions, GPUs, disk, clock, shared storage, the network between nodes, the MLflow server, Ray's State API, and that
    strangers are refused. A job of `clinscale submit` begins with this.

    Example: `clinscale cluster preflight --address 10.0.0.1:6379 --nodes 3 --shared /shared/home`
    """
    from clinscale.launch import Limits
    from clinscale.launch import preflight as look
    from clinscale.runtime import ray_session

    if not address:
        raise ConfigError("there is no cluster to look at; name its head with --address or RAY_ADDRESS")
    limits = Limits(free_bytes=int(least_free_gib * 2**30))
    with ray_session(address) as cluster:
        findings = look(
            cluster,
            nodes=nodes,
            shared=shared,
            tracking_uri=tracking_uri,
            limits=limits,
            wait_s=wait,
            on_progress=lambda node: _say(f"looking at {node} ..."),
        )
    fit = all(finding.ok for finding in findings)
    rows = [dataclasses.asdict(finding) for finding in findings]
    shown = [row | {"ok": "ok" if row["ok"] else "UNFIT"} for row in rows]
    emit({"fit": fit, "findings": rows}, as_json=json, people=table("Preflight", shown))
    if not fit:
        raise typer.Exit(1)


@app.command()
def rights(json: Json = False) -> None:
    """Routes of our MLflow server and the roles that may call each; a route that is not listed is refused.

    `*` is one part of a path and `**` the rest; a route without a slash at its beginning is below /api/N.0/ and
    /ajax-api/N.0/.

    Example: `clinscale cluster rights`
    """
    from clinscale import registry

    roles = ("reader", "trainer", "promoter", "admin", "anybody")
    rows = [
        {"method": method, "route": route} | {role: role in allowed for role in roles}
        for method, route, allowed in registry.rights_table()
    ]
    shown = [row | {role: "yes" if row[role] else "" for role in roles} for row in rows]
    emit({"rights": rows}, as_json=json, people=table("Rights", shown))


@app.command()
def user(
    name: Annotated[str, typer.Argument(help="Of a new user, or of one to change.")],
    role: Annotated[Literal["reader", "trainer", "promoter"], typer.Option(help="What the user may do.")],
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Create a user of the MLflow server, or change role and password.

    A reader pulls released models and sees nothing of their training; a trainer also makes runs, models and versions;
    a promoter also writes releases and moves aliases. The password is asked for, or read from stdin or
    CLINSCALE_USER_PASSWORD; empty leaves a known user's as it is. On the server's machine its HOME gives the
    administrator's login, elsewhere MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD do.

    Example: `clinscale cluster user alice --role reader`
    """
    from clinscale import registry

    account = _folder(home).account()
    if account:
        tracking_uri = account.url
        os.environ |= {"MLFLOW_TRACKING_USERNAME": account.user, "MLFLOW_TRACKING_PASSWORD": account.password}
    if not (tracking_uri or "").startswith("http"):
        raise ConfigError(
            f"no server was started from --home {home}, and --tracking-uri or MLFLOW_TRACKING_URI names none; "
            "start one with `clinscale cluster mlflow`"
        )
    tracking = registry.connect(tracking_uri, home=home)
    is_new = registry.set_user(tracking, name, role, _password(name) or None)
    emit(
        {"user": name, "role": role, "new": is_new, "url": tracking.place},
        as_json=json,
        people=f"{'new user' if is_new else 'user'} {name} is {role} on {tracking.place}",
    )


@app.command()
def render(
    kind: Annotated[
        str, typer.Argument(help="`aws`, `gcp`, `azure`, `on-prem`, `kuberay`, `slurm`, `docker` or `mlflow`.")
    ],
    given: Annotated[
        list[str] | None, typer.Argument(help="`key=value` answers.", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path, typer.Option(callback=local_only, help="Folder to write into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")] = False,
    json: Json = False,
) -> None:
    """Write the launch files of a cluster, or of what runs beside it, from a few answers.

    Each file begins with the commands that it is used with and with the one that made it. Without answers, the error
    names those that are needed.

    Example: `clinscale cluster render on-prem head=10.0.0.1 workers=10.0.0.2,10.0.0.3`
    """
    from clinscale import launch

    check_place(out / kind)
    files = launch.render(kind, launch.answers(kind, given or []))
    paths = [str(path) for path in launch.write(files, out, force=force)]
    emit({"files": paths}, as_json=json, people="\n".join(paths))


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="Launcher YAML, Kubernetes manifests, batch script, Dockerfile, compose.")
    ],
    crds: Annotated[
        Path | None,
        typer.Option(help="Folder with KubeRay's definitions: `kubectl get crd rayclusters.ray.io -o yaml`."),
    ] = None,
    json: Json = False,
) -> None:
    """Find what would fail, leak or cost in a launch file, without a cluster, an account or the network.

    Exit code 1 and a table when there is something to fix.

    Example: `clinscale cluster check aws.yaml`
    """
    from clinscale import launch

    problems = launch.check(file, crds)
    rows = [dataclasses.asdict(problem) for problem in problems]
    clean = f"{file}: nothing to fix"
    emit(
        {"file": str(file), "problems": rows},
        as_json=json,
        people=table(f"{len(rows)} to fix", rows) if rows else clean,
    )
    if problems:
        raise typer.Exit(1)


def _say(what: str) -> None:
    console.print(what, soft_wrap=True, markup=False)


def _folder(home: Path) -> "ServerFolder":
    from clinscale import registry

    return registry.ServerFolder(home / "server")


def _has_password(uri: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(uri).password is not None


def _password(name: str) -> str:
    """The password from the environment, else the terminal, else the first line of stdin."""
    if "CLINSCALE_USER_PASSWORD" in os.environ:
        return os.environ["CLINSCALE_USER_PASSWORD"]
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    asked: str = typer.prompt(
        f"Password of {visible(name)}",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    return asked


def _print_ready(server: "Server") -> None:
    lines = (
        f"MLflow answers at {server.url}",
        f"  in a browser: {server.start_page}",
        f"  its administrator is admin; the password is in {server.folder.admin_password}",
        "  add users:    clinscale cluster user NAME --role reader|trainer|promoter  (with the same --home)",
        f"  users set:    MLFLOW_TRACKING_URI={server.url} MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=...",
        "  Ctrl-C ends it",
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
