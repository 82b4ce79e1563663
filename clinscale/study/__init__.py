"""A study: models by tasks by seeds under one protocol, from published weights to a league table.

protocol ──▶ bases: converted, pretrained further ──▶ one sweep over tasks x models ──▶ league table

It only arranges what the other verbs do; each of its steps resumes by its name.
"""

from clinscale.study.bases import Watch
from clinscale.study.plan import ProtocolPlan, plan_study
from clinscale.study.protocol import ArmConfig, BaseConfig, Protocol, TaskEntry, protocols
from clinscale.study.run import StudyOutcome, StudyOutline, outline, run_study

__all__ = [
    "ArmConfig",
    "BaseConfig",
    "Protocol",
    "ProtocolPlan",
    "StudyOutcome",
    "StudyOutline",
    "TaskEntry",
    "Watch",
    "outline",
    "plan_study",
    "protocols",
    "run_study",
]
