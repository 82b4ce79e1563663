"""MLflow runs and model versions: start, log, register, promote, resolve, pull.

What a version holds is safe to load: a flat HF folder of safetensors, configs and tokenizer files with a manifest
of hashes, and a pyfunc written as *model from code*. No pickle, no remote code. Importing this room does not load
MLflow.
"""

from clinscale.registry.folders import folder_digest
from clinscale.registry.lock import LOCK_FILE, read_lock
from clinscale.registry.pull import FetchedModel, Pulled, fetch_model, pull, pull_offline
from clinscale.registry.runs import (
    Run,
    RunRecord,
    Status,
    close_orphans,
    find_run,
    metric_history,
    open_run,
    read_json_artifact,
    read_runs,
    reopen_run,
    resume_or_start_run,
    start_run,
)
from clinscale.registry.signing import sign
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking, connect
from clinscale.registry.versions import ModelVersion, find_version, list_versions, promote, register, resolve

__all__ = [
    "LOCK_FILE",
    "FetchedModel",
    "ModelVersion",
    "Pulled",
    "Run",
    "RunRecord",
    "Status",
    "Tag",
    "Tracking",
    "close_orphans",
    "connect",
    "fetch_model",
    "find_run",
    "find_version",
    "folder_digest",
    "list_versions",
    "metric_history",
    "open_run",
    "promote",
    "pull",
    "pull_offline",
    "read_json_artifact",
    "read_lock",
    "read_runs",
    "register",
    "reopen_run",
    "resolve",
    "resume_or_start_run",
    "sign",
    "start_run",
]
