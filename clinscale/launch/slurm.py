"""Checks a Slurm batch script."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from clinscale.launch import rules
from clinscale.launch.problem import Problem

_WAIT_S = 20


def check_slurm(file: str, text: str, path: Path) -> Iterator[Problem]:
    """Every fault of a batch script; where a Slurm controller answers, it is asked as well, and starts nothing."""
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    parsed = _run("bash", "-n", str(path))
    if parsed and parsed.returncode:
        yield Problem(file, "syntax", _last_line(parsed.stderr), "fix the script there; bash cannot read it")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", " ", code)
    if re.search(r"\bray\b.*\b(start|symmetric-run)\b", joined):
        if not re.search(r"\bRAY_AUTH_MODE=[\"']?token\b", joined):
            yield Problem(
                file,
                "token",
                "Ray starts without RAY_AUTH_MODE=token",
                "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH: all accounts of the node reach its ports",
            )
        if "RAY_USAGE_STATS_ENABLED=0" not in joined and "--disable-usage-stats" not in joined:
            yield Problem(file, "telemetry", "Ray reports its use", "export RAY_USAGE_STATS_ENABLED=0")
    if match := re.search(r"--dashboard-host[= ](0\.0\.0\.0|::)", joined):
        yield Problem(file, "public dashboard", match[0], "write --dashboard-host=127.0.0.1")
    if not re.search(r"^#SBATCH\s+(--time\b|-t\b)", text, re.MULTILINE):
        yield Problem(
            file, "spend cap", "no #SBATCH --time", "give it: without one the partition's longest time is reserved"
        )
    if re.search(r"--home[= ][\"']?/tmp/", joined):
        yield Problem(
            file, "shared storage", "--home is in /tmp", "name a folder that all nodes see: a node's own is lost"
        )
    if shutil.which("sbatch") and shutil.which("scontrol"):
        answered = _run("scontrol", "ping")
        if answered and answered.returncode == 0:
            tested = _run("sbatch", "--test-only", str(path))
            if tested and tested.returncode:
                yield Problem(file, "slurm", _last_line(tested.stderr), "this cluster's Slurm refuses the script")


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else "no reason given"
