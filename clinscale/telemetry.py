"""Switches that turn off calling home: a process that reads patients' notes reports its use to nobody unless asked."""

import os

TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""The switch of each library that would."""


def switch_off() -> None:
    """Set the switches that the user has not set; MLflow and HF read theirs when they are imported."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
