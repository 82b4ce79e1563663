"""Ownership of files on our MLflow server: only the account that made a run or logged model writes its files.

MLflow gives rights by experiment, and trainers share experiments. So the server itself notes on each run and logged
model which account made it, and a model's files are closed for good as soon as the model is ready: a version is made
of ready models, and what it was registered with stays what it is.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from clinscale.registry.tags import Tag

ACCOUNT_TAG = Tag.ACCOUNT
WORKSPACE = "default"
"""MLflow's own, which everything is in that names no other."""

_FILES = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/(?:artifacts|mpu/[a-z]+)/(.+)")
_MODEL = re.compile(r"/(?:ajax-)?api/2\.0/mlflow/logged-models/([^/]+)(?:/.*)?")
_MADE = {"mlflow/runs/create": "run", "mlflow/logged-models": "model"}


def may_change(request: Any, account: str) -> bool:
    """Whether the request changes no files or logged models of other accounts, and none that are final."""
    if request.method in ("GET", "HEAD") or request.path.endswith("/logged-models/search"):
        return True
    if files := _FILES.fullmatch(request.path):
        return _may_write_files(files[1], account)
    if model := _MODEL.fullmatch(request.path):
        return _may_write_model(model[1], None, account, ready_too="/tags" in request.path)
    return True


def note_owner(request: Any, account: str) -> None:
    """Have the run or logged model that this request makes tagged with its account."""
    from flask import after_this_request

    made = next((what for path, what in _MADE.items() if request.path.endswith(f"/{path}")), None)
    if made is None or request.method != "POST":
        return

    def note(response: Any) -> Any:
        if response.status_code == 200:
            _tag(made, response.get_json(), account)
        return response

    after_this_request(note)


def _tag(made: str, answer: Any, account: str) -> None:
    from mlflow.entities import LoggedModelTag, RunTag

    with _stores() as (store, _):
        if made == "run":
            store.set_tag(answer["run"]["info"]["run_id"], RunTag(ACCOUNT_TAG, account))
        else:
            model_id = answer["model"]["info"]["model_id"]
            store.set_logged_model_tags(model_id, [LoggedModelTag(ACCOUNT_TAG, account)])


def _may_write_files(path: str, account: str) -> bool:
    """`path` is `EXPERIMENT/RUN/artifacts/...` or `EXPERIMENT/models/MODEL/artifacts/...`; nothing else is written."""
    parts = path.rstrip("/").split("/")
    if "%" in path or "\\" in path or {"", ".", ".."} & set(parts):
        return False
    if parts[:2] == ["workspaces", WORKSPACE]:
        parts = parts[2:]
    if len(parts) >= 4 and parts[1] == "models" and parts[3] == "artifacts":
        return _may_write_model(parts[2], parts[0], account)
    if len(parts) >= 3 and parts[2] == "artifacts":
        return _may_write_run(parts[1], parts[0], "/".join(parts[3:]), account)
    return False


def _may_write_model(model_id: str, experiment_id: str | None, account: str, *, ready_too: bool = False) -> bool:
    from mlflow.exceptions import MlflowException

    with _stores() as (store, _):
        try:
            model = store.get_logged_model(model_id)
        except MlflowException:
            return False
    owner = model.tags.get(ACCOUNT_TAG)
    return (
        experiment_id in (None, str(model.experiment_id))
        and (ready_too or str(model.status) == "PENDING")
        and owner in (None, account)  # None: from before owners were noted
    )


def _may_write_run(run_id: str, experiment_id: str, path: str, account: str) -> bool:
    from mlflow.exceptions import MlflowException

    with _stores() as (store, _):
        try:
            run = store.get_run(run_id)
        except MlflowException:
            return False
    if run.info.experiment_id != experiment_id:
        return False
    owner = run.data.tags.get(ACCOUNT_TAG)
    return owner == account or (owner is None and not _is_of_version(run_id, path))


def _is_of_version(run_id: str, path: str) -> bool:
    """Whether a version was made of these files of a run: other tools than clinscale make them so."""
    with _stores() as (_, registry):
        versions = registry.search_model_versions(f"run_id = '{run_id}'")
    places = [re.sub(r".*?(/artifacts/|runs:/[^/]+/)", "", version.source or "") for version in versions]
    return any(not place or f"{path}/".startswith(f"{place.rstrip('/')}/") for place in places)


@contextlib.contextmanager
def _stores() -> Iterator[tuple[Any, Any]]:
    """MLflow's stores of runs and of versions; a login is checked before MLflow has chosen its one workspace."""
    from mlflow.server.handlers import _get_model_registry_store, _get_tracking_store
    from mlflow.utils.workspace_context import ServerWorkspaceContext

    with ServerWorkspaceContext(WORKSPACE):
        yield _get_tracking_store(), _get_model_registry_store()
