"""`cluster/slurm/sweep.sbatch` on a real Slurm of two nodes."""

import re
import secrets
import shutil
import stat
import sys
import time
from pathlib import Path

import forked_ray
import pytest
import yaml

from clinscale import registry
from clinscale.runtime import one_start_at_a_time
from clinscale.sweep.ledger import Ledger

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "sweep.sbatch"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

CONFIG = """
ClusterName=test
SlurmctldHost={head.name}({head.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=10
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


class Slurm:
    """A Slurm whose nodes are the test hosts, with one CPU each; jobs are submitted on the first."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.folder = hosts.shared / "slurm"
        self.folder.mkdir()
        self.home = hosts.shared / "user"
        self.home.mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs=1 Sockets=1 CoresPerSocket=1 ThreadsPerCore=1"
            for host in hosts.all
        )
        self._environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        (self.folder / "slurm.conf").write_text(CONFIG.format(head=hosts.head, nodes=nodes))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        for host in hosts.all:
            self._start(host, key)
        self._wait_for(lambda: self("sinfo --noheader --format=%T --states=idle").stdout.split() == ["idle"])
        self._wait_for(lambda: self("sinfo --noheader --format=%D --states=idle").stdout.strip() == "2")

    def __call__(self, command, **environment):
        return self.hosts.head.run(command, env={**self._environment, **environment}, cwd=self.home)

    def submit(self, options, *command, **environment):
        """The number of a job that runs the command by the committed script, when its nodes are in or it has ended."""
        with one_start_at_a_time():
            asked = self(["sbatch", "--parsable", *options, SCRIPT, *command], **environment)
            assert asked.returncode == 0, asked.stderr
            number = int(asked.stdout)
            while self.job(number)["JobState"] in ("PENDING", "RUNNING") and " nodes, " not in self.log(number):
                time.sleep(0.5)
        return number

    def job(self, number):
        """What Slurm says about it, by key."""
        said = self(f"scontrol --oneliner show job {number}").stdout
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def log(self, number):
        path = self.home / f"clinscale-{number}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, number, *states, meanwhile=lambda: None):
        """The job when it is in one of the states, or has ended; `meanwhile` is called again and again."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
        for _ in range(1500):
            job = self.job(number)
            if job["JobState"] in {*states, *ended}:
                return job
            meanwhile()
            time.sleep(1)
        raise AssertionError(self.log(number))

    def logs(self):
        """What the daemons said, for a failed start."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))

    def _start(self, host, key):
        host.run("mkdir -m 755 /run/munge /run/slurm /run/slurm/state /run/slurm/spool", check=True)
        # this Slurm wants a freezer even where nothing uses it
        host.mount("-t", "tmpfs", "tmpfs", "/sys/fs/cgroup")
        host.run("mkdir /sys/fs/cgroup/freezer", check=True)
        mounted = host.run("mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer")
        if mounted.returncode != 0:
            pytest.skip(f"Slurm needs the freezer of cgroup v1 here: {mounted.stderr.strip()}")
        host.run(f"install -m 600 {key} /run/munge/key", check=True)
        munged = "munged --foreground --force --socket=/run/munge.socket --key-file=/run/munge/key "
        munged += "--log-file=/run/munge/log --pid-file=/run/munge/pid --seed-file=/run/munge/seed"
        host.start(munged, self.folder / f"munged-{host.name}.log")
        host.run("until test -S /run/munge.socket; do sleep 0.1; done", timeout=30, check=True)
        if host is self.hosts.head:
            host.start("slurmctld -D", self.folder / "slurmctld.log", env=self._environment)
        host.start(f"slurmd -D -N {host.name}", self.folder / f"slurmd-{host.name}.log", env=self._environment)

    def _wait_for(self, condition):
        for _ in range(300):
            if condition():
                return
            time.sleep(0.2)
        raise AssertionError(self.logs())


@pytest.fixture(scope="module")
def slurm(hosts):
    missing = [name for name in PROGRAMS if shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; apt-get install slurm-wlm munge runs this test")
    return Slurm(hosts)


@pytest.fixture(scope="module")
def sweep(slurm, demo_data, base_models):
    """A small sweep: `clinscale tune` with data, model and space on the shared folder."""
    inputs = slurm.hosts.shared / "inputs"
    shutil.copytree(demo_data, inputs / "data")
    shutil.copytree(base_models["longformer"], inputs / "longformer")
    space = {
        "fixed": {"epochs": 2, "dropout": 0.0, "batch_size": 8, "max_tokens": 128},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    (inputs / "space.yaml").write_text(yaml.safe_dump(space))
    command = ["clinscale", "tune", "--task", "demo_pairs", "--data", inputs / "data"]
    command += ["--model", inputs / "longformer", "--space", inputs / "space.yaml"]
    return [*command, "recipe.scheduler=none", "recipe.sampler=random"]


def trial_is_on(host):
    return any("ray::ImplicitFunc" in line for line in host.processes())  # what Tune calls a trial's process


def trials_in(ledger, copy):
    """The sweep's trials so far; from a copy, because whoever opens a ledger holds it."""
    shutil.copy(ledger, copy)
    return Ledger(copy).trials


def left_over(slurm):
    """Processes of Ray and scratch on the nodes, tokens on the shared folder, that do not go by themselves."""
    for _ in range(60):
        if not (left := _left_now(slurm)):
            break
        time.sleep(0.5)
    return left


def _left_now(slurm):
    processes = [line for host in slurm.hosts.all for line in host.processes() if "ray" in line or "sleep" in line]
    scratch = [path for host in slurm.hosts.all for path in (host.root / "tmp").glob("clinscale-[0-9]*")]
    return [*processes, *scratch, *slurm.home.glob(".clinscale-*")]


def open_to_others(folder):
    return [path for path in folder.iterdir() if path.stat().st_mode & 0o077]


def test_a_sweep_whose_nodes_are_taken_back_is_queued_again_and_ends_with_its_winner(slurm, sweep, tmp_path):
    with forked_ray.without_forks():
        taken_back(slurm, sweep, tmp_path)


def taken_back(slurm, sweep, tmp_path):
    number = slurm.submit([], *sweep, "--home", slurm.home / "runs", "--name", "s", "recipe.budget.trials=3")
    ledger = slurm.home / "runs" / "sweep" / "s" / "ledger.jsonl"
    seen, tokens, finished = set(), set(), []

    def look():
        seen.update(host.name for host in slurm.hosts.all if trial_is_on(host))
        tokens.update(stat.filemode(path.stat().st_mode) for path in slurm.home.glob(".clinscale-*"))
        if not finished and ledger.exists():
            so_far = trials_in(ledger, tmp_path / "ledger.jsonl")
            finished.extend(trial for trial in so_far if trial.state == "complete")
            if finished:  # what --signal does when the time is nearly over
                assert slurm(f"scancel --signal=USR1 --batch {number}").returncode == 0

    job = slurm.wait(number, meanwhile=look)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("COMPLETED", "0:0", "1"), slurm.log(number)
    assert slurm.log(number).count("2 nodes, 2 CPUs") == 2
    assert seen == {"head", "worker"}
    trials = Ledger(ledger).trials
    assert [trial.state for trial in trials] == ["complete"] * 3
    assert all(trial in trials for trial in finished), "what was finished is not run again"
    tracking = registry.connect(home=slurm.home / "runs")
    [version] = registry.list_versions(tracking)
    assert version.aliases, "the gate has decided"
    runs = registry.read_runs(tracking, kind="trial")
    assert {run.name for run in runs if run.status == "FINISHED"} == {f"s-{trial.id}" for trial in trials}
    assert tokens == {"-rw-------"}
    assert open_to_others(slurm.home) == []
    assert left_over(slurm) == []


def test_the_commands_exit_code_is_the_jobs_and_one_node_is_enough(slurm):
    number = slurm.submit(["--nodes=1"], "bash", "-c", "echo the command >&2; exit 3")
    job = slurm.wait(number)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "3:0")
    assert re.search("^1 nodes, 1 CPUs, 0 GPUs\nthe command$", slurm.log(number), re.MULTILINE)
    assert left_over(slurm) == []


def test_a_node_that_cannot_join_is_named(slurm):
    program = f"{sys.prefix}/bin/ray"
    slurm.hosts.worker.mount("--bind", "/bin/false", program)
    try:
        number = slurm.submit([], "touch", "started", CLINSCALE_JOIN_S="25")
        job = slurm.wait(number)
    finally:
        slurm.hosts.run("worker", ["umount", program], check=True)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "1:0")
    assert re.search(
        "error: 1 of 2 nodes have not joined after .* of 25 s: worker$", slurm.log(number), re.MULTILINE
    )
    assert not (slurm.home / "started").exists()
    assert left_over(slurm) == []


def test_a_job_that_is_cancelled_leaves_nothing(slurm):
    number = slurm.submit([], "sleep", "1000")
    cancelled = []

    def look():
        if not cancelled and any(line == "sleep 1000" for line in slurm.hosts.head.processes()):
            cancelled.append(slurm(f"scancel {number}"))

    assert slurm.wait(number, meanwhile=look)["JobState"] == "CANCELLED"
    assert left_over(slurm) == []
