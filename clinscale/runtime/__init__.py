"""Running code: connect to or start Ray, or fork local processes; run one function on N workers."""

from clinscale.runtime.forks import Fork, Forks, fork_session
from clinscale.runtime.group import GroupConfig, check_gpus
from clinscale.runtime.memory import halved, out_of_memory_as, run_halving
from clinscale.runtime.session import (
    PATIENT,
    QUIET,
    Cluster,
    cpu_model,
    current_cluster,
    one_start_at_a_time,
    ray_logs,
    ray_session,
    variables,
)
from clinscale.runtime.several import several_nodes
from clinscale.runtime.streams import stream
from clinscale.runtime.token import make_token, read_token, replace_open_token
from clinscale.runtime.watch import beat, waiting, watched
from clinscale.runtime.workers import WorkerContext, run_once, run_workers

__all__ = [
    "PATIENT",
    "QUIET",
    "Cluster",
    "Fork",
    "Forks",
    "GroupConfig",
    "WorkerContext",
    "beat",
    "check_gpus",
    "cpu_model",
    "current_cluster",
    "fork_session",
    "halved",
    "make_token",
    "one_start_at_a_time",
    "out_of_memory_as",
    "ray_logs",
    "ray_session",
    "read_token",
    "replace_open_token",
    "run_halving",
    "run_once",
    "run_workers",
    "several_nodes",
    "stream",
    "variables",
    "waiting",
    "watched",
]
