"""`clinscale ui`: MLflow's pages of a home, for the one who started them alone."""

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json
from clinscale.cli.output import console, emit

if TYPE_CHECKING:
    from clinscale.registry import Server


def ui(
    home: Home = DEFAULT_HOME,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on; the default is a free one.")
    ] = None,
    json: Json = False,
) -> None:
    """Look at the runs and models of HOME in a browser, behind a login that is made for this start.

    The server listens on this machine alone and keeps its other users out; Ctrl-C ends it. The database stays as it is
    until you change something on a page. From elsewhere: `ssh -L PORT:127.0.0.1:PORT MACHINE`.

    Example: `clinscale ui --home demo`
    """
    from clinscale import registry

    with registry.own_server(home, port) as server:
        console.print(f"MLflow starts on {server.database} ...", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(on_ready=lambda ready: _print_ready(ready, as_json=json))
    console.print("MLflow has ended")


def _print_ready(server: "Server", *, as_json: bool) -> None:
    account = server.folder.account()
    if account is None:
        return
    lines = [
        f"open       {server.start_page}",
        f"user name  {account.user}",
        f"password   {account.password}",
        "Ctrl-C ends it",
    ]
    values = {"url": account.url, "user": account.user, "password_file": str(server.folder.admin_password)}
    emit(values, as_json=as_json, people=lines)
