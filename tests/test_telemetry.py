"""Nobody is told how patients' notes are used, unless the user wants it."""

import json
import os
import subprocess
import sys

import pytest

from clinscale.telemetry import TELEMETRY_OFF

VERDICTS = """
import json, os, sys
import clinscale.errors
import huggingface_hub.constants, mlflow.telemetry.utils
from ray._common.usage import usage_lib
print(json.dumps({
    "environment": {name: os.environ.get(name) for name in sys.argv[1:]},
    "MLflow": mlflow.telemetry.utils.is_telemetry_disabled(),
    "HF": huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY,
    "Ray": not usage_lib.usage_stats_enabled(),
}))
"""
SIGNS_OF_TESTS = ("PYTEST", "CI", "GITHUB", "GITLAB", "JENKINS", "TRAVIS", "BUILDKITE", *TELEMETRY_OFF)
"""MLflow tells nobody that it is being tested, so that its own verdict would prove nothing."""


def verdicts(**chosen):
    """What each library decides in a process that imports any part of ours first."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SIGNS_OF_TESTS)}
    ran = subprocess.run(
        [sys.executable, "-c", VERDICTS, *TELEMETRY_OFF],
        env={**clean, **chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def test_every_library_finds_its_switch_off():
    found = verdicts()
    assert found.pop("environment") == TELEMETRY_OFF
    assert found == {"MLflow": True, "HF": True, "Ray": True}


def test_the_choice_of_the_user_stands():
    chosen = {"MLFLOW_DISABLE_TELEMETRY": "false", "RAY_USAGE_STATS_ENABLED": "1"}
    found = verdicts(**chosen)
    assert found["environment"] == {**TELEMETRY_OFF, **chosen}
    assert (found["MLflow"], found["HF"], found["Ray"]) == (False, True, False)


@pytest.mark.ray
def test_a_ray_worker_sees_what_its_driver_sees(ray_cluster):
    import ray

    @ray.remote(num_cpus=0)
    def seen(names):
        return {name: os.environ.get(name) for name in names}

    assert ray.get(seen.remote(list(TELEMETRY_OFF))) == {name: os.environ[name] for name in TELEMETRY_OFF}
