"""A fit cluster, and each way of being unfit, found from every node of a real one."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import forked_ray
import pytest

pytestmark = pytest.mark.cluster


def look(cluster, *options):
    """What `clinscale cluster preflight` finds: exit code and findings."""
    environment = forked_ray.clean_environment(forks=False)  # a node's own packages and clock come with its Python
    command = [sys.executable, "-m", "clinscale", "cluster", "preflight", "--address", cluster.address, "--json"]
    ran = subprocess.run(
        [*command, *map(str, options)],
        env=environment | cluster.auth,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode in (0, 1), ran.stderr
    return ran.returncode, json.loads(ran.stdout)["findings"]


def test_a_fit_cluster_is_fit(loopback, tmp_path):
    code, findings = look(loopback, "--nodes", 2, "--shared", tmp_path)
    assert [finding for finding in findings if not finding["ok"]] == []
    assert code == 0
    checks = [finding["check"] for finding in findings]
    assert {"nodes", "State API", "token"} <= set(checks)
    for check in ("versions", "GPUs", "disk", "clock", "shared storage", "shared disk"):
        assert checks.count(check) == 2, check
    assert checks.count("bandwidth") == 1
    assert list(tmp_path.iterdir()) == [], "the probes are gone"


def test_what_is_missing_is_told_with_its_mend(loopback, tmp_path):
    options = ["--nodes", 3, "--wait", 1, "--shared", "/dev/null/home", "--least-free-gib", 10**6]
    code, findings = look(loopback, *options, "--tracking-uri", "http://127.0.0.1:1")
    bad = {finding["check"] for finding in findings if not finding["ok"]}
    assert (code, bad) == (1, {"nodes", "shared storage", "disk", "MLflow"})
    assert all(finding["mend"] for finding in findings if not finding["ok"])
    [missing] = [finding for finding in findings if finding["check"] == "nodes"]
    assert missing["found"].startswith("2 of 3: ")


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="mounting for one node alone needs root"
)
def test_three_sick_nodes_are_told_apart_and_a_cluster_that_lets_everybody_in(loopback_class, tmp_path):
    """A full disk; an older package and a clock an hour ahead; the head without shared storage; and no token."""
    shared, scratch = tmp_path / "shared", tmp_path / "scratch"
    shared.mkdir()
    scratch.mkdir()
    older = tmp_path / "older" / "transformers-5.0.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.0.0\n")
    alone = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"',
        "sh",
    ]
    ahead = tmp_path / "ahead" / "sitecustomize.py"  # the clock of this machine cannot be two
    ahead.parent.mkdir()
    ahead.write_text("import time\nreal = time.time\ntime.time = lambda: real() + 3600\n")
    cluster = loopback_class(tmp_path, token=False, prefix=[*alone, "64m", str(shared)])
    try:
        cluster.add_node("older", PYTHONPATH=f"{older.parent}:{ahead.parent}")
        cluster.add_node("full", [*alone, "4m", str(scratch)], TMPDIR=str(scratch))
        code, findings = look(cluster, "--nodes", 3, "--shared", shared, "--least-free-gib", 0.01)
    finally:
        cluster.stop()
    bad = [finding for finding in findings if not finding["ok"]]
    assert code == 1
    found = {
        check: [finding for finding in bad if finding["check"] == check]
        for check in ("versions", "disk", "shared storage", "clock")
    }
    assert [one["found"] for one in found["versions"]] == [
        f"transformers 5.0.0 instead of {importlib.metadata.version('transformers')}"
    ]
    assert [str(scratch) in one["found"] for one in found["disk"]] == [True]
    [clock] = found["clock"]
    assert 3590 < float(clock["found"].split(" s")[0]) < 3610
    # every node misses what the node with a folder of its own wrote, and that one misses all the others'
    assert len(found["shared storage"]) == 3
    most_missed = max(found["shared storage"], key=lambda one: one["found"].count("("))
    alone = {one["node"] for check in ("versions", "disk", "clock") for one in found[check]}
    assert len(alone) == 2, "each on its own node"
    assert found["versions"][0]["node"] == clock["node"]
    assert most_missed["node"] not in alone
    assert all(one["mend"] for one in bad)
    [token] = [finding for finding in bad if finding["check"] == "token"]
    assert token["found"] == "anybody is let in"
    assert "RAY_AUTH_MODE=token" in token["mend"]
