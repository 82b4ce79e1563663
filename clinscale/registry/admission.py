"""Who may pass the doors of our MLflow server: its basic auth, and three doors of MLflow that stay shut.

MLflow calls `authenticate` at every request, because the server's `auth.ini` names it. The shut doors let an
ordinary user write or run something on the server's own machine.
"""

from typing import Any

_ASSISTANT = "/mlflow/assistant"
_CREATE_EXPERIMENT = "/mlflow/experiments/create"
_UPLOAD_OF_THE_PAGES = "/mlflow/upload-artifact"


def authenticate() -> Any:
    """The login of the present Flask request; else the answer 401, or 403 at a door that is shut for everyone."""
    from flask import request
    from mlflow.server.auth import authenticate_request_basic_auth, make_forbidden_response

    return make_forbidden_response() if _is_shut(request.path) else authenticate_request_basic_auth()


def _is_shut(path: str) -> bool:
    """Whether the request wants a shell for its assistant, or files outside the one place for artifacts."""
    if _ASSISTANT in path or path.endswith(_UPLOAD_OF_THE_PAGES):
        return True
    if not path.endswith(_CREATE_EXPERIMENT):
        return False
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.handlers import _get_request_message

    return bool(_get_request_message(CreateExperiment()).artifact_location)
