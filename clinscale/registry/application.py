"""MLflow's application as our server runs it: behind a check of logins and of requests from other pages.

`python -m clinscale.registry.application server ...` is `mlflow server ...` with this application.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from clinscale.registry.server import PROOF, PROOF_HEADER, START_PAGE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
_FORGET_S = 900.0
_MOST_REMEMBERED = 10_000
_APPLICATION = "clinscale.registry.application:create_app"
_ORIGINS = "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"

FIRST_CHOICES = {"mlflow.workflowType": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad": True}
"""MLflow's settings in a browser's local storage.

By default its pages show what agents and their traces need in the place of runs and models, beside an assistant that
our server refuses.
"""
_FIRST_CHOICES_VERSION = 1


def create_app() -> App:
    """MLflow's application with logins, inside `AuthMiddleware`; settings come from the environment, as MLflow's do."""
    from mlflow.server.auth import create_app as create_mlflow

    from clinscale.registry.admission import dummy_hash

    dummy_hash()
    origins = [origin for origin in os.environ.get(_ORIGINS, "").split(",") if origin]
    return AuthMiddleware(create_mlflow(), origins, proof=os.environ.get(PROOF, ""))


class Failures:
    """Recent failed logins by account and address; each failure doubles the wait for the next try."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[int, float, float]] = OrderedDict()

    def wait_s(self, who: tuple[str, str]) -> float:
        """Seconds until the next try is looked at."""
        _, _, until = self._known.get(who, (0, 0.0, 0.0))
        return max(0.0, until - self._clock())

    def failed(self, who: tuple[str, str]) -> float:
        """Record a failed login, and return the seconds by which its answer is delayed."""
        now = self._clock()
        count, last, _ = self._known.pop(who, (0, now, 0.0))
        count = 0 if now - last > _FORGET_S else count
        delay_s: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**count)
        self._known[who] = count + 1, now, now + delay_s
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return delay_s

    def succeeded(self, who: tuple[str, str]) -> None:
        """Forget the failures."""
        self._known.pop(who, None)


class AuthMiddleware:
    """Lets through the server's own pages and programs, and makes guessing passwords slow.

    A request of another page, which a browser marks with its `Origin`, is refused whatever it asks: MLflow lets every
    page of the same machine in, with the user's login. The answer to a wrong password waits, longer each time, and
    meanwhile other tries for that account from that address are answered 429; what was proven right lately passes.
    """

    def __init__(
        self,
        app: App,
        origins: list[str],
        *,
        failures: Failures | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        proof: str = "",
    ) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins}
        self._failures = failures or Failures()
        self._sleep = sleep
        self._proof = proof.encode()
        self._key = secrets.token_bytes(32)
        self._proven: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._origins:
            await _answer(send, 403, "Cross-origin request blocked")
            return
        if scope["path"] == "/health" and self._proof:
            await _answer(send, 200, "OK", (PROOF_HEADER.encode(), self._proof))
            return
        if scope["path"] == START_PAGE:
            await _answer(send, 200, _start_page(), kind=b"text/html")
            return
        login = headers.get(b"authorization")
        if login is None:
            await self._app(scope, receive, send)
            return
        who = _account(login), (scope.get("client") or ("",))[0]
        proof = hashlib.blake2b(login, key=self._key).digest()
        if proof not in self._proven and (wait_s := self._failures.wait_s(who)):
            await _answer(send, 429, "Too many wrong passwords; wait", (b"retry-after", b"%d" % (wait_s + 1)))
            return
        # what needs no login and what is answered before it says nothing of the password
        asks_login = scope["method"] != "OPTIONS" and not _is_public(scope["path"])

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and asks_login:
                if message["status"] == 401:
                    self._proven.pop(proof, None)
                    await self._sleep(self._failures.failed(who))
                elif message["status"] < 400:
                    self._failures.succeeded(who)
                    self._proven[proof] = None
                    while len(self._proven) > _MOST_REMEMBERED:
                        self._proven.popitem(last=False)
            await send(message)

        await self._app(scope, receive, answer)


def _account(login: bytes) -> str:
    """The user name of an `Authorization` header; empty where there is none."""
    scheme, _, credentials = login.partition(b" ")
    try:
        decoded = base64.b64decode(credentials) if scheme.lower() == b"basic" else b""
    except binascii.Error:
        decoded = b""
    return decoded.partition(b":")[0].decode("utf-8", "replace")[:256]


def _is_public(path: str) -> bool:
    from mlflow.server.auth import is_unprotected_route

    return bool(is_unprotected_route(path))


def _start_page() -> str:
    choices = json.dumps(
        {f"{key}_v{_FIRST_CHOICES_VERSION}": json.dumps(value) for key, value in FIRST_CHOICES.items()}
    )
    return (
        "<!doctype html><title>MLflow</title><script>"
        f"for (const [key, value] of Object.entries({choices}))"
        " if (localStorage.getItem(key) === null) localStorage.setItem(key, value);"
        'location.replace("./#/experiments")</script>'
    )


async def _answer(
    send: Send, status: int, text: str, *headers: tuple[bytes, bytes], kind: bytes = b"text/plain"
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]})
    await send({"type": "http.response.body", "body": text.encode()})


def end_with(starter: int) -> None:
    """End this process and all of its group as soon as the pipe from its starter closes, as it does at a SIGKILL.

    Nobody would be left to end the server, and its port would stay open. `starter` is the pipe's descriptor, because
    the lock of a file that a thread reads aborts Python at its end.
    """

    def wait() -> None:
        while os.read(starter, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """MLflow's command line, whose server runs our application."""
    if PROOF in os.environ:  # of `Server.run`, which gave it a group and the pipe
        end_with(sys.stdin.fileno())
    import mlflow.cli
    import mlflow.server

    # MLflow finds applications by entry points of installed packages; ours needs no second installation to be found
    mlflow.server._find_app = lambda name: _APPLICATION
    mlflow.cli.cli()


if __name__ == "__main__":
    main()
