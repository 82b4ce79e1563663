"""MLflow runs and model versions: start, log, register, promote, resolve, pull.

What a version holds is safe to load: a flat HF folder of safetensors, configs and tokenizer files with a manifest
of hashes, and a pyfunc written as *model from code*. No pickle, no remote code. Importing this room does not load
MLflow.
"""

from clinscale.registry.contents import Files, Text, artifact_names, contents, local_artifact
from clinscale.registry.folders import folder_digest
from clinscale.registry.pull import FetchedModel, Pulled, fetch_model, pull
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
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking, connect
from clinscale.registry.versions import ModelVersion, find_version, list_versions, promote, register, resolve

__all__ = [
    "FetchedModel",
    "Files",
    "ModelVersion",
    "Pulled",
    "Run",
    "RunRecord",
    "Status",
    "Tag",
    "Text",
    "Tracking",
    "artifact_names",
    "close_orphans",
    "connect",
    "contents",
    "fetch_model",
    "find_run",
    "find_version",
    "folder_digest",
    "list_versions",
    "local_artifact",
    "metric_history",
    "open_run",
    "promote",
    "pull",
    "read_json_artifact",
    "read_runs",
    "register",
    "reopen_run",
    "resolve",
    "resume_or_start_run",
    "start_run",
]
