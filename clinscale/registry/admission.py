"""Access control of our MLflow server: one table of its routes and the roles that may use each.

What the table does not name is refused, so that a route which a later MLflow adds stays shut until somebody has
looked at it. MLflow calls `authenticate` at every request, because the server's `auth.ini` names it, and checks after
it what the role may do with the one model or experiment that is asked for (`rights.py`).
"""

import functools
import re
import secrets
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

from clinscale.registry.ownership import ACCOUNT_TAG, WORKSPACE, may_change, note_owner

UserRole = Literal["reader", "trainer", "promoter"]
Role = Literal["reader", "trainer", "promoter", "admin", "anybody"]
"""`admin` is the server's own account; `anybody` needs no login."""

_ALL: tuple[Role, ...] = ("reader", "trainer", "promoter", "admin")
_WRITERS: tuple[Role, ...] = ("trainer", "promoter", "admin")
_TABLE: tuple[tuple[tuple[Role, ...], str], ...] = (
    (
        ("anybody", *_ALL),
        "GET /health  GET /static-files/**  GET mlflow/server-info",
    ),
    (  # pages, and what reads; MLflow asks for the right to read each experiment and model
        _ALL,
        """
        GET /  GET /build/**  GET /version  POST /graphql
        GET /get-artifact  GET mlflow/artifacts/list
        GET mlflow-artifacts/artifacts  GET mlflow-artifacts/artifacts/**
        GET mlflow/experiments/get  GET mlflow/experiments/get-by-name
        GET mlflow/experiments/search  POST mlflow/experiments/search
        GET mlflow/runs/get  POST mlflow/runs/search
        GET mlflow/metrics/get-history  GET mlflow/metrics/get-history-bulk
        GET mlflow/metrics/get-history-bulk-interval
        GET mlflow/logged-models/*  POST mlflow/logged-models/search
        GET mlflow/logged-models/*/artifacts/directories  GET mlflow/logged-models/*/artifacts/files
        GET mlflow/registered-models/get  GET mlflow/registered-models/search  GET mlflow/registered-models/alias
        GET mlflow/registered-models/get-latest-versions  POST mlflow/registered-models/get-latest-versions
        GET mlflow/model-versions/get  GET mlflow/model-versions/search  GET mlflow/model-versions/get-download-uri
        GET mlflow/users/current  GET mlflow/users/current/permissions  PATCH mlflow/users/update-password
        GET mlflow/workspaces  GET mlflow/workspaces/*
        """,
    ),
    (  # the first asks for the right to read a model alone, and would give a reader what is not released
        _WRITERS,
        """
        GET /model-versions/get-artifact
        POST mlflow/traces/search  GET mlflow/traces/get  GET mlflow/traces/*
        POST mlflow/experiments/create  POST mlflow/experiments/set-experiment-tag
        POST mlflow/experiments/search-datasets
        POST mlflow/runs/create  POST mlflow/runs/update  POST mlflow/runs/delete  POST mlflow/runs/restore
        POST mlflow/runs/log-batch  POST mlflow/runs/log-metric  POST mlflow/runs/log-parameter
        POST mlflow/runs/log-inputs  POST mlflow/runs/log-model  POST mlflow/runs/outputs
        POST mlflow/runs/set-tag  POST mlflow/runs/delete-tag
        PUT mlflow-artifacts/artifacts/**  DELETE mlflow-artifacts/artifacts/**
        POST mlflow-artifacts/mpu/create/**  POST mlflow-artifacts/mpu/complete/**
        POST mlflow-artifacts/mpu/abort/**
        POST mlflow/logged-models  PATCH mlflow/logged-models/*  DELETE mlflow/logged-models/*
        POST mlflow/logged-models/*/params  PATCH mlflow/logged-models/*/tags  DELETE mlflow/logged-models/*/tags/*
        POST mlflow/registered-models/create  PATCH mlflow/registered-models/update
        POST mlflow/registered-models/set-tag  DELETE mlflow/registered-models/delete-tag
        POST mlflow/registered-models/alias  DELETE mlflow/registered-models/alias
        POST mlflow/model-versions/create  PATCH mlflow/model-versions/update  DELETE mlflow/model-versions/delete
        POST mlflow/model-versions/set-tag  DELETE mlflow/model-versions/delete-tag
        """,
    ),
    (
        ("admin",),
        """
        GET /signup  POST mlflow/users/create-ui
        POST mlflow/users/create  GET mlflow/users/get  GET mlflow/users/list  PATCH mlflow/users/update-admin
        DELETE mlflow/users/delete  GET mlflow/users/roles/list
        GET mlflow/users/permissions/get  GET mlflow/users/permissions/list
        POST mlflow/users/permissions/grant  POST mlflow/users/permissions/revoke
        POST mlflow/roles/**  GET mlflow/roles/**  PATCH mlflow/roles/**  DELETE mlflow/roles/**
        POST mlflow/experiments/delete  POST mlflow/experiments/restore  POST mlflow/experiments/update
        POST mlflow/experiments/delete-experiment-tag
        POST mlflow/registered-models/rename  DELETE mlflow/registered-models/delete
        """,
    ),
    (  # shut for everyone: what calls out, starts something, reaches files beside the artifacts, or is not used here
        (),
        """
        GET /graphql  POST mlflow/upload-artifact  POST mlflow/runs/create-promptlab-run
        GET mlflow-artifacts/presigned/**  POST mlflow/artifacts/presigned-download-url
        POST mlflow/artifacts/presigned-upload-url  POST mlflow/model-versions/transition-stage
        * mlflow/assistant/**  * mlflow/demo/*  * mlflow/gateway-proxy  * mlflow/gateway/**  * /gateway/**
        * mlflow/genai/**  * mlflow/scorer/invoke  * mlflow/scorers/**  * mlflow/prompt-optimization/**
        * mlflow/jobs/**  * jobs  * jobs/  * jobs/**  * mlflow/webhooks  * mlflow/webhooks/**
        * mlflow/mcp-servers  * mlflow/mcp-servers/**  * /v1/traces  * /v1/metrics  * mlflow/ui-telemetry
        * mlflow/datasets/**  * mlflow/issues  * mlflow/issues/**  * mlflow/label-schemas/**
        * mlflow/review-queues/**  * mlflow/traces  * mlflow/traces/**  * mlflow/unified-traces
        * mlflow/get-trace-artifact  * mlflow/get-online-trace-details
        POST mlflow/workspaces  PATCH mlflow/workspaces/*  DELETE mlflow/workspaces/*
        POST /api/2.0mlflow/experiments/search-datasets  POST /ajax-api/2.0mlflow/experiments/search-datasets
        """,
    ),
)
"""Roles, and the methods and routes that they may use: `*` is one part of a path, `**` the rest, and a route without a
slash at its beginning is below `/api/N.0/` and `/ajax-api/N.0/`. The first that fits holds."""

_API = re.compile(r"/(?:ajax-)?api/[0-9]\.[0-9]/(.+)")
_SNAKE = re.compile(r"[^A-Z]*")
_CREATE_EXPERIMENT = "mlflow/experiments/create"
_GET_ADDRESS = "mlflow/model-versions/get-download-uri"
_ADDRESS = re.compile(rf"mlflow-artifacts:/+(?:[^/]+/+)??(?:workspaces/{WORKSPACE}/)?([0-9]+)/.*")
_WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"


def roles_of(method: str, path: str) -> frozenset[Role] | None:
    """Roles that may call a route of MLflow; None for a route that is not in the table, which is refused."""
    below_api = _API.fullmatch(path)
    name = below_api[1] if below_api else path
    method = "GET" if method == "HEAD" else method
    return next(
        (roles for verb, pattern, roles in _rows() if verb in ("*", method) and pattern.fullmatch(name)), None
    )


def rights_table() -> list[tuple[str, str, frozenset[Role]]]:
    """The rows: method, route, roles."""
    return [
        (words[at], words[at + 1], frozenset(roles))
        for roles, text in _TABLE
        for words in (text.split(),)
        for at in range(0, len(words), 2)
    ]


@functools.cache
def _rows() -> list[tuple[str, re.Pattern[str], frozenset[Role]]]:
    parts = {"**": ".+", "*": "[^/]+"}
    return [
        (verb, re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*+)", route))), roles)
        for verb, route, roles in rights_table()
    ]


def authenticate() -> Any:
    """The login of the present Flask request; else the answer: 401, or 403 for what this account may not do."""
    from flask import g, request
    from mlflow.server.auth import make_basic_auth_response, make_forbidden_response

    if "clinscale_admitted" not in g:  # MLflow asks several times in one request
        login = request.authorization
        user = _user(login.username, login.password) if login and login.type == "basic" else None
        if user is None:
            g.clinscale_admitted = make_basic_auth_response()
        elif _is_refused(request, user):
            g.clinscale_admitted = make_forbidden_response()
        else:
            g.clinscale_admitted = login
            note_owner(request, user.username)
            _hide_address(request, user)
    return g.clinscale_admitted


def _user(name: str | None, password: str | None) -> Any:
    """MLflow's user of this login, or None; an unknown name takes as long as a known one."""
    from mlflow.server import auth
    from werkzeug.security import check_password_hash

    dummy = dummy_hash()
    if not isinstance(name, str) or not isinstance(password, str):
        return None
    user = auth._authenticate_cached(name, password)
    if user is None and not auth.store.has_user(name):
        check_password_hash(dummy, password)
    return user


@functools.cache
def dummy_hash() -> str:
    """A hash that no password has, made as MLflow makes those of its users."""
    from werkzeug.security import generate_password_hash

    return generate_password_hash(secrets.token_urlsafe(32))


def _is_refused(request: Any, user: Any) -> bool:
    roles = _roles(user)
    if not roles & (roles_of(request.method, request.path) or frozenset()):
        return True
    if (request.headers.get(_WORKSPACE_HEADER) or WORKSPACE) != WORKSPACE:  # MLflow's own pages send it empty
        return True
    body = request.get_json(force=True, silent=True) if request.content_length else None
    if not _is_plain(request, body):
        return True
    if request.path.endswith(_CREATE_EXPERIMENT) and "artifact_location" in (body or {}):
        return True  # files outside the one place for artifacts
    return "admin" not in roles and (_writes_owner(body, request.path) or not may_change(request, user.username))


def _hide_address(request: Any, user: Any) -> None:
    """Keep the address of a version's files from a reader who may not read them; MLflow checks the model alone.

    The answer is judged, not the request: what was asked for can be written in several ways.
    """
    from flask import after_this_request
    from mlflow.server.auth import make_forbidden_response

    if not request.path.endswith(_GET_ADDRESS) or _roles(user) - {"reader"}:
        return

    def judge(response: Any) -> Any:
        is_hidden = response.status_code == 200 and not _may_read(response.get_json(), user.username)
        return make_forbidden_response() if is_hidden else response

    after_this_request(judge)


def _may_read(answer: Any, account: str) -> bool:
    """Whether the address in an answer is of artifacts of an experiment that the account may read."""
    from mlflow.server import auth
    from mlflow.utils.workspace_context import ServerWorkspaceContext

    address = _ADDRESS.fullmatch(answer.get("artifact_uri", ""))
    with ServerWorkspaceContext(WORKSPACE):
        return bool(address and auth._get_experiment_permission(address[1], account).can_read)


def _roles(user: Any) -> frozenset[Role]:
    if user.is_admin:
        return frozenset({"admin"})
    from mlflow.server import auth

    held = {role.name for role in auth.store.list_user_roles(user.id)}
    return frozenset(cast("Role", role) for role in get_args(UserRole) if f"clinscale-{role}" in held)


def _is_plain(request: Any, body: Any) -> bool:
    """Whether fields are spelt as MLflow's clients spell them.

    MLflow's handlers also read `runId` for `run_id`, and JSON within a JSON string, where its checks of rights read
    neither: a request that is spelt so asks for something else than what was checked.
    """
    if request.path.endswith("/graphql"):  # checked field by field, by MLflow
        return True
    if request.is_json and isinstance(body, str):
        return False
    fields = [*request.args, *(body if isinstance(body, dict) else ())]
    return all(isinstance(field, str) and _SNAKE.fullmatch(field) for field in fields)


def _writes_owner(body: Any, path: str) -> bool:
    return path.endswith(f"/{ACCOUNT_TAG}") or any(text == ACCOUNT_TAG for text in _strings(body))


def _strings(value: Any) -> Iterator[str]:
    """All strings that a JSON value holds, and whose own tag names them."""
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, dict):
            left += [*inner.values(), *inner.keys()]
        elif isinstance(inner, list):
            left += inner
        elif isinstance(inner, str):
            yield inner
