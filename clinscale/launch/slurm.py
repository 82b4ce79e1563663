"""Checks a Slurm batch script."""

import contextlib
import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from clinscale.launch import rules
from clinscale.launch.problem import Problem

_WAIT_S = 20
_TIME = r"(\d+-)?\d+(:\d+){0,2}"
"""Minutes, minutes:seconds, hours:minutes:seconds, and days- before hours."""


def check_slurm(file: str, text: str, path: Path) -> Iterator[Problem]:
    """Every fault of a batch script; where a Slurm controller answers, it is asked as well, and starts nothing."""
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    if not path.read_bytes().startswith(b"#!"):
        yield Problem(
            file,
            "syntax",
            "its first characters are not #!",
            "begin it with #!/bin/bash: sbatch refuses it otherwise",
        )
    if "\r\n" in text:
        yield Problem(
            file,
            "syntax",
            "lines end as in DOS",
            "save it with Unix line ends (dos2unix): sbatch refuses it otherwise",
        )
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
    yield from _time_limit(file, text)
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


def _time_limit(file: str, text: str) -> Iterator[Problem]:
    """The job ends by itself: sbatch hears its last --time before the first command, and no time at all of 0."""
    heard, late = _options(text)
    times = _times(heard)
    if not times:
        found = "#SBATCH --time comes after the first command" if _times(late) else "no #SBATCH --time"
        yield Problem(
            file,
            "spend cap",
            found,
            "give it above the first command: without one the partition's longest time is reserved",
        )
    elif not re.fullmatch(_TIME, times[-1]) or not re.search("[1-9]", times[-1]):
        yield Problem(
            file,
            "spend cap",
            f"#SBATCH --time is {times[-1]}, which is no limit",
            "write hours as 24:00:00 and days as 2-00:00:00; 0 and UNLIMITED end nothing",
        )


def _options(text: str) -> tuple[list[str], list[str]]:
    """Words of the #SBATCH lines that sbatch reads, and of those that it passes over, behind the first command."""
    heard, late, begun = list[str](), list[str](), False
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            with contextlib.suppress(ValueError):  # a quotation mark that nothing ends
                (late if begun else heard).extend(shlex.split(line.removeprefix("#SBATCH"), comments=True))
        elif line.strip() and not line.lstrip().startswith("#"):
            begun = True
    return heard, late


def _times(words: list[str]) -> list[str]:
    """The values of --time and -t."""
    found = []
    for word, following in itertools.pairwise([*words, ""]):
        if word in ("--time", "-t"):
            found.append(following)
        elif match := re.match(r"(?:--time=|-t=?)(?=\S)(.*)", word):
            found.append(match[1])
    return found


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else "no reason given"
