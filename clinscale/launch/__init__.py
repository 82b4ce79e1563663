"""A cluster from its launch file to its jobs: start and end it, look whether it is fit, submit to it."""

from clinscale.launch.preflight import Finding, Limits, preflight
from clinscale.launch.submit import VERBS, Job, Jobs, Shipment, pack
from clinscale.launch.token import make_token, read_token

__all__ = [
    "VERBS",
    "Finding",
    "Job",
    "Jobs",
    "Limits",
    "Shipment",
    "make_token",
    "pack",
    "preflight",
    "read_token",
]
