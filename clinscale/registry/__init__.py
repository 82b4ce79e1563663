"""MLflow runs and model versions: start, log, register, promote, resolve, pull.

What a version holds is safe to load: a flat HF folder of safetensors, configs and tokenizer files with a manifest
of hashes, and a pyfunc written as *model from code*. No pickle, no remote code. Importing this room does not load
MLflow.
"""

from clinscale.registry.admission import UserRole, rights_table
from clinscale.registry.cache import remove_stale_lock, stale_locks
from clinscale.registry.card import CARD, Section, write_card
from clinscale.registry.contents import Files, Text, artifacts, contents, local_artifact
from clinscale.registry.download import stored_files
from clinscale.registry.folders import FileFacts, folder_digest
from clinscale.registry.leftovers import CutUpload, cut_uploads, remove_upload
from clinscale.registry.lineage import Link, find_base, lineage, lineage_among
from clinscale.registry.lock import LOCK_FILE, read_lock
from clinscale.registry.mlflow_model import Pyfunc
from clinscale.registry.own_server import own_server
from clinscale.registry.pull import FetchedModel, Pulled, fetch_model, is_reference, pull, pull_offline
from clinscale.registry.rights import set_user
from clinscale.registry.runs import (
    Run,
    RunRecord,
    Status,
    UsedData,
    close_orphans,
    find_run,
    gone_from_here,
    is_orphan,
    metric_history,
    open_run,
    orphans,
    read_json_artifact,
    read_run,
    read_runs,
    reopen_run,
    resume_or_start_run,
    start_run,
)
from clinscale.registry.server import Account, Server, ServerConfig, ServerFolder
from clinscale.registry.signing import sign
from clinscale.registry.tags import Experiment, Tag
from clinscale.registry.tracking import Tracking, connect
from clinscale.registry.versions import (
    CHAMPION,
    ModelVersion,
    check_kind,
    experiment_of,
    find_version,
    list_versions,
    register,
    remove_alias,
    resolve,
    set_alias,
    set_version_tags,
)

__all__ = [
    "CARD",
    "CHAMPION",
    "LOCK_FILE",
    "Account",
    "CutUpload",
    "Experiment",
    "FetchedModel",
    "FileFacts",
    "Files",
    "Link",
    "ModelVersion",
    "Pulled",
    "Pyfunc",
    "Run",
    "RunRecord",
    "Section",
    "Server",
    "ServerConfig",
    "ServerFolder",
    "Status",
    "Tag",
    "Text",
    "Tracking",
    "UsedData",
    "UserRole",
    "artifacts",
    "check_kind",
    "close_orphans",
    "connect",
    "contents",
    "cut_uploads",
    "experiment_of",
    "fetch_model",
    "find_base",
    "find_run",
    "find_version",
    "folder_digest",
    "gone_from_here",
    "is_orphan",
    "is_reference",
    "lineage",
    "lineage_among",
    "list_versions",
    "local_artifact",
    "metric_history",
    "open_run",
    "orphans",
    "own_server",
    "pull",
    "pull_offline",
    "read_json_artifact",
    "read_lock",
    "read_run",
    "read_runs",
    "register",
    "remove_alias",
    "remove_stale_lock",
    "remove_upload",
    "reopen_run",
    "resolve",
    "resume_or_start_run",
    "rights_table",
    "set_alias",
    "set_user",
    "set_version_tags",
    "sign",
    "stale_locks",
    "start_run",
    "stored_files",
    "write_card",
]
