"""MLflow's client for a server that may be away: waited for by one policy, and nothing is made twice.

MLflow itself would repeat any request, the one that makes a version too, for up to 20 minutes and without a word.
"""

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from clinscale import stores
from clinscale.errors import with_causes
from clinscale.patience import PATIENCE_S, Patience, ask_again
from clinscale.units import format_seconds

_SILENT_S = 15.0
MOVING_FILES = ("log_artifact", "log_artifacts", "log_model_artifacts", "log_text", "download_artifacts")
"""Methods of `MlflowClient`."""

_AWAY = (408, 429, 500, 502, 503, 504)
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_USERS = "CLINSCALE_USERS_MLFLOW_SETTINGS"
"""The user's settings, as JSON, while ours are set: a process that begins meanwhile inherits ours and must know."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """Patience with a server: for one answer, and for its return."""

    answer_s: float
    """Limit of one request. One that moves files has MLflow's own: 120 s in which nothing moves."""
    total_s: float
    """Time from a call without an answer to the last try; 0 leaves it at MLflow's second request, at once."""


PATIENT = Waiting(answer_s=60, total_s=PATIENCE_S)
"""Rides out a restart of the server."""

IMPATIENT = Waiting(answer_s=4, total_s=0)
"""Suits who has something else to do meanwhile."""

_waiting: ContextVar[Waiting] = ContextVar("waiting", default=PATIENT)


@contextlib.contextmanager
def waiting(how: Waiting) -> Iterator[None]:
    """Wait so for the answers to this thread's calls within the block."""
    token = _waiting.set(how)
    try:
        yield
    finally:
        _waiting.reset(token)


def patience_s() -> float:
    """Time that this thread waits for what is away."""
    return _waiting.get().total_s


def answered(place: str, call: Callable[..., Any], *args: Any, moves_files: bool = False, **named: Any) -> Any:
    """The server's answer to a call that may be repeated; its `place` is named where it has to be waited for.

    A user who sets MLFLOW_HTTP_REQUEST_MAX_RETRIES gets MLflow's own retries, that many, instead.
    """
    how = _how_long()

    def ask() -> Any:
        with _settings(how, moves_files=moves_files), _told_when_silent(place, how, moves_files=moves_files):
            return call(*args, **named)

    return ask_again(ask, why_away, what=f"tracking server {place}", total_s=how.total_s)


def once(
    place: str, make: Callable[[], Any], find: Callable[[], list[Any]], discard: Callable[[Any], object]
) -> Any:
    """The one thing that `make` makes on the server, even where its answer is lost or comes late.

    Args:
        place: names the server where it has to be waited for.
        make: asks for it, by a client that asks once.
        find: what is there of it, the first made first.
        discard: takes back one that a request made that was thought to be lost.
    """
    how = _how_long()
    patience, was_away = Patience(how.total_s), False
    while True:
        try:
            with _settings(how, retries=0), _told_when_silent(place, how):
                made = make()
        except Exception as error:
            if why_away(error) is None or not patience.pause():
                raise
            found, was_away = find(), True  # which waits until the server answers
        else:
            found = (find() if was_away else []) or [made]
        if found:
            for extra in found[1:]:
                discard(extra)
            return found[0]


def why_away(error: BaseException | None) -> str | None:
    """Reason, in words, why a request got no answer of MLflow's; None for an error that is such an answer."""
    import requests
    from google.protobuf.json_format import ParseError

    for one in with_causes(error):
        text = str(one)
        if stores.is_of_certificate(one):
            return None
        if code := re.search(r"too many (\d+) error", text):
            return f"HTTP {code[1]}"
        if isinstance(one, requests.exceptions.Timeout) or "timed out" in text:
            return "no answer in time"
        if isinstance(one, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
            system = re.search(r"\[Errno -?\d+\] ([A-Za-z ]+)", text)
            return system[1].strip().lower() if system else "the connection was closed"
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status in _AWAY:
            return f"HTTP {status}"
        nonsense = json.JSONDecodeError, ParseError, requests.exceptions.ContentDecodingError
        if isinstance(one, nonsense) or "not in a valid JSON format" in text:
            return "what answers is not MLflow"
        if why := stores.why_away_itself(one):  # of one that holds the server's files
            return why
    return None


def _take_back(environment: MutableMapping[str, str]) -> None:
    """Take out what a process that had such settings for the time of a call handed on to one that began then."""
    if users := environment.pop(_USERS, ""):
        for name in (_RETRIES, _TIMEOUT):
            environment.pop(name, None)
        environment.update(json.loads(users))


_take_back(os.environ)

_lock = threading.Lock()
_wanted: dict[object, dict[str, str]] = {}
_of_user: dict[str, str] = {}
"""Settings as they were before the first that is wanted."""


def _how_long() -> Waiting:
    how = _waiting.get()
    with _lock:
        is_set = _RETRIES in (_of_user if _wanted else os.environ)
    return Waiting(how.answer_s, 0) if is_set else how


@contextlib.contextmanager
def _settings(how: Waiting, *, retries: int = 1, moves_files: bool = False) -> Iterator[None]:
    """MLflow's settings for one call, where the user has none.

    They are the process's: a call of another thread may get them, and is tried again all the same.
    """
    wanted = {_RETRIES: str(retries)}
    if not moves_files or how.answer_s < PATIENT.answer_s:
        wanted[_TIMEOUT] = f"{how.answer_s:.0f}"
    key = object()
    with _lock:
        if not _wanted:
            _of_user.clear()
            _of_user.update({name: os.environ[name] for name in (_RETRIES, _TIMEOUT) if name in os.environ})
        _wanted[key] = wanted
        _set()
    try:
        yield
    finally:
        with _lock:
            del _wanted[key]
            _set()


def _set() -> None:
    """Put the latest wanted settings into the environment, below the user's; a request is never repeated unseen."""
    latest = next(reversed(_wanted.values()), {})
    now = latest | _of_user
    if latest.get(_RETRIES) == "0":
        now[_RETRIES] = "0"
    if latest:
        now[_USERS] = json.dumps(_of_user)
    for name in (_RETRIES, _TIMEOUT, _USERS):
        os.environ.pop(name, None)
        if name in now:
            os.environ[name] = now[name]


@contextlib.contextmanager
def _told_when_silent(place: str, how: Waiting, *, moves_files: bool = False) -> Iterator[None]:
    """Say that the server is waited for, where its answer takes long; the transfer of a file may."""
    if moves_files or how.answer_s < _SILENT_S:
        yield
        return
    at_most = format_seconds(how.total_s + 2 * how.answer_s)
    text = f"tracking server {place} has not answered for {_SILENT_S:g} s; waiting for it for at most {at_most}"
    timer = threading.Timer(_SILENT_S, log.warning, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
