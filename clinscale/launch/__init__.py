"""A cluster from its launch file to its jobs: write and check the file, start it, look at its nodes, submit to it."""

from clinscale.launch.answers import KINDS
from clinscale.launch.check import check
from clinscale.launch.preflight import Finding, Limits, preflight
from clinscale.launch.problem import Problem
from clinscale.launch.render import answers, render, write
from clinscale.launch.submit import Job, Jobs, Shipment, pack
from clinscale.launch.up import down, up
from clinscale.runtime import make_token, read_token

__all__ = [
    "KINDS",
    "Finding",
    "Job",
    "Jobs",
    "Limits",
    "Problem",
    "Shipment",
    "answers",
    "check",
    "down",
    "make_token",
    "pack",
    "preflight",
    "read_token",
    "render",
    "up",
    "write",
]
