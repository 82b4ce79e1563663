"""The on-prem launch file on hosts of their own: up by SSH, jobs over both nodes, a node lost in the middle, down.

The hosts' network has no way out: all that runs here runs without the internet.
"""

import json
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked_ray
import pytest
import yaml

from clinscale import corpus, registry, runtime
from clinscale.finetune import FinetuneRecipe, finetune
from clinscale.pretrain import PretrainConfig
from clinscale.pretrain.run import train, worker_task
from clinscale.sweep.ledger import Ledger
from clinscale.tasks import load_task, read_task

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ADDRESS = "http://127.0.0.1:8265"
STEPS = 8

ATTENTIVE = "RAY_health_check_period_ms=1000 AUTOSCALER_HEARTBEAT_TIMEOUT_S=20 AUTOSCALER_UPDATE_INTERVAL_S=1"
"""Environment of the nodes: a lost one is noticed in seconds; Ray takes 15 to see it and 30 to start it again."""


class Launched:
    """The cluster of a rendered file, as a user at the launcher has it."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.folder = hosts.shared / "user"
        self.folder.mkdir()
        self.file = self.folder / "on-prem.yaml"
        self.tunnel = None

    def __call__(self, *words, timeout=600):
        """A command at the launcher."""
        return self.hosts.launcher.run([str(word) for word in words], cwd=self.folder, timeout=timeout)

    def render(self, **answers):
        hosts = self.hosts
        answers = {
            "head": hosts.head.address,
            "workers": hosts.worker.address,
            "ssh_user": "root",
            "ssh_private_key": hosts.key,
            "environment": sys.prefix,
            "shared_folder": hosts.shared,
            "tls": "~/.clinscale/tls",
            "num_cpus": 1,
            "object_store_mb": 100,
            **answers,
        }
        words = [f"{key}={value}" for key, value in answers.items()]
        return self("clinscale", "cluster", "render", "on-prem", "--force", *words)

    def up(self):
        return self("clinscale", "cluster", "up", self.file, "--shared", self.hosts.shared)

    def submit(self, *words):
        token = ["--token-file", "/root/.clinscale/token/auth_token"]
        return self("clinscale", "submit", ADDRESS, *token, *words)

    def open_tunnel(self):
        """What `ray dashboard` does, until the test ends."""
        log = self.folder / "tunnel.log"
        self.tunnel = self.hosts.launcher.start(["ray", "dashboard", str(self.file)], log)
        probe = f"curl --silent --output /dev/null {ADDRESS}"
        self.hosts.launcher.run(f"until {probe}; do sleep 0.2; done", timeout=60, check=True)

    def variables(self):
        """What every Ray command on the head needs: token and certificates."""
        commands = yaml.safe_load(self.file.read_text())["head_start_ray_commands"]
        return re.findall(r"\b([A-Z][A-Z_]*=\S+)", next(line for line in commands if "ray start" in line))

    def nodes(self):
        """Addresses of the nodes that are alive, as the head says."""
        asked = ["env", *self.variables(), "ray", "list", "nodes", "--format", "json"]
        told = self.hosts.head.run(asked, timeout=60)
        if told.returncode:
            return set()
        listed = json.loads(told.stdout[told.stdout.index("[") :])
        return {node["node_ip"] for node in listed if node["state"] == "ALIVE"}

    def lose_the_worker(self):
        """SIGKILL to all of Ray on the worker host; the head starts it anew by SSH when it has noticed."""
        self.hosts.worker.run("pkill -9 -f 'raylet|ray::|ray/dashboard|ray/_private'")


@pytest.fixture(scope="module")
def launched(hosts):
    cluster = Launched(hosts)
    yield cluster
    if cluster.tunnel:
        cluster.tunnel.kill()


@pytest.fixture(scope="module")
def running(launched):
    """It runs: head and worker, token and TLS, tunnel open."""
    assert launched.render().returncode == 0
    authority = (
        "umask 077 && mkdir -p ~/.clinscale/tls && cd ~/.clinscale/tls && openssl req -x509 -newkey rsa:3072"
    )
    authority += " -nodes -days 2 -subj /CN=ray -keyout ca.key -out ca.crt"
    launched.hosts.launcher.run(authority, check=True)
    for host in launched.hosts.all:
        host.run(f"echo 'export {ATTENTIVE}' >> ~/.bashrc", check=True)
    with runtime.one_start_at_a_time():
        started = launched.up()
    assert started.returncode == 0, started.stdout + started.stderr
    launched.said = started.stderr
    launched.open_tunnel()
    return launched


@pytest.fixture(scope="module")
def inputs(hosts, demo_data, shards, base_models):
    folder = hosts.shared / "inputs"
    shutil.copytree(demo_data, folder / "data")
    shutil.copytree(shards.uri, folder / "shards")
    shutil.copytree(base_models["longformer"], folder / "longformer")
    return folder


def test_a_host_that_does_not_answer_and_a_wrong_key_are_named(launched, tmp_path):
    launched.hosts.launcher.run(
        "mkdir -p ~/.clinscale/tls && touch ~/.clinscale/tls/ca.crt ~/.clinscale/tls/ca.key"
    )
    assert launched.render(workers=f"{launched.hosts.worker.address},10.77.0.9").returncode == 0
    silent = launched.up()
    assert silent.returncode == 1
    assert re.search(r"no SSH connection within 10 s to 10\.77\.0\.9 \(\w+\)", silent.stderr)
    other = launched.folder / "other"
    launched.hosts.launcher.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert launched.render(ssh_private_key=other).returncode == 0
    refused = launched.up()
    assert refused.returncode == 2
    assert f"10.77.0.1, 10.77.0.2 refuse the key {other} for user root" in refused.stderr
    few = launched.render(num_gpu_workers=3)
    assert few.returncode == 2
    assert "at most the number of workers, 1, got 3" in few.stderr


def test_head_and_worker_join_and_strangers_do_not(running):
    hosts = running.hosts
    # from another machine: the client's port, the dashboard, the agent's own job door
    stranger = hosts.launcher
    driver = "import ray; ray.init('ray://10.77.0.1:10001'); print('inside')"
    driver = ["timeout", "60", sys.executable, "-c", driver]
    with ThreadPoolExecutor() as pool:
        driven = pool.submit(stranger.run, driver, env={"RAY_AUTH_MODE": "disabled"})
        again = pool.submit(running.up)
        secrets_stay_where_they_are(running)
        dashboard = f"http://{hosts.head.address}:8265/api/jobs/"
        assert stranger.run(["curl", "--silent", "--max-time", "5", dashboard]).returncode != 0
        for host in hosts.all:
            door = f"http://{host.address}:52365/api/job_agent/jobs/"
            asked = ["curl", "--silent", "--max-time", "5", "--write-out", "%{http_code}", "--output", "/dev/null"]
            job = ["--header", "content-type: application/json", "--data", '{"entrypoint": "touch /tmp/owned"}']
            assert stranger.run([*asked, *job, door]).stdout in ("401", "403", "000")
            assert host.run("test -e /tmp/owned").returncode == 1
    assert driven.result().returncode
    assert "inside" not in driven.result().stdout
    assert again.result().returncode == 2
    # it has asked the head by SSH
    assert "runs already, and starting it anew ends its jobs" in again.result().stderr


def secrets_stay_where_they_are(running):
    hosts = running.hosts
    assert running.nodes() == {hosts.head.address, hosts.worker.address}
    assert "token is in /root/.clinscale/token/auth_token" in running.said
    secret = hosts.launcher.run("cat ~/.clinscale/token/auth_token", check=True).stdout.strip()
    assert len(secret) == 64
    for host in hosts.all:
        mode = host.run("stat -c %a ~/.ray ~/.ray/auth_token", check=True).stdout.split()
        assert mode == ["700", "600"], host.name
        assert all(secret not in line for line in host.processes())
        assert host.run(["grep", "-rl", secret, "/root/clinscale", "/tmp"]).stdout == ""
    assert secret not in running.said + running.file.read_text()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_pretraining_that_loses_a_node_ends_as_without_a_cluster(running, inputs, tmp_path):
    """ZeRO 3 on two nodes of which one is killed: the losses of ZeRO 2 on two processes of this machine."""
    home = running.hosts.shared / "home"
    settings = {
        "name": "lost",
        "recipe": {
            "shards": str(inputs / "shards"),
            "model": {"size": "tiny", "hf_overrides": NO_DROPOUT},
            "row_tokens": 128,
            "rows_per_step": 8,
            "duration": f"{STEPS}steps",
        },
        "runtime": {
            "num_workers": 2,
            "zero": {"stage": 3},
            "log_every_steps": 1,
            "checkpoint_every_steps": 2,
            "evaluation_rows": 16,
        },
    }
    (running.folder / "pretrain.yaml").write_text(yaml.safe_dump(settings))
    tracking = registry.connect(home=home)
    work = ["--detach", "--no-preflight", "--", "pretrain", "pretrain.yaml", "--home", home]
    handed_in = running.submit(*work)
    assert handed_in.returncode == 0, handed_in.stderr[-4000:]
    assert "sends 1 configs and clinscale's code" in handed_in.stderr
    job = re.search(r"job (pretrain-\w+) is handed in", handed_in.stderr)[1]
    wait_for(lambda: losses(tracking, "lost"))
    running.lose_the_worker()
    expected = losses_without_a_cluster(settings, tmp_path)
    ended = running.submit("--logs", job)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "SUCCEEDED" in ended.stdout
    assert len(expected) == STEPS
    assert losses(tracking, "lost") == pytest.approx(expected, abs=1e-4)


def losses_without_a_cluster(settings, folder):
    """Step by step."""
    alone = {"zero": {"stage": 2}, "checkpoint_every_steps": 100}
    config = PretrainConfig.parse(settings | {"runtime": settings["runtime"] | alone}, source="test")
    found = {}

    def on_log(metrics):
        if "train/loss" in metrics:
            found[int(metrics["step"])] = metrics["train/loss"]

    with runtime.fork_session("clinscale.engine.preload", "clinscale.pretrain", num_cpus=2):
        train(worker_task(config, corpus.open_shards(config.recipe.shards), folder), folder, on_log=on_log)
    return found


def test_a_sweep_that_loses_a_node_ends_as_its_fine_tunings_alone(running, inputs, tmp_path):
    home = running.hosts.shared / "home"
    # so long that the first trial, on the head, is not over before the worker has started a process for the second:
    # Ray Tune would then reuse the head's
    fixed = {"epochs": 10, "patience_epochs": 10, "dropout": 0.0, "batch_size": 8, "max_tokens": 128}
    rate = "optimizer.learning_rate"
    space = {"fixed": fixed, "parameters": {rate: {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}}}
    (running.folder / "space.yaml").write_text(yaml.safe_dump(space))
    command = ["tune", "--home", home, "--task", "demo_pairs", "--data", inputs / "data", "--space", "space.yaml"]
    command += ["--model", inputs / "longformer", "recipe.scheduler=none", "recipe.sampler=random"]
    command += ["recipe.budget.trials=2", "recipe.confirm_seeds=1", "--name", "lost"]
    ledger = home / "sweep" / "lost" / "ledger.jsonl"
    # an earlier test lost the worker, and two trials would have room on the head, one after the other
    wait_for(lambda: any("raylet" in line for line in running.hosts.worker.processes()))
    wait_for(lambda: running.nodes() == {running.hosts.head.address, running.hosts.worker.address}, every_s=2)
    with forked_ray.without_forks():
        handed_in = running.submit("--detach", "--no-preflight", "--", *command)
        job = re.search(r"job (tune-\w+) is handed in", handed_in.stderr)[1]
        try:
            wait_for(lambda: trial_is_on(running.hosts.worker))
        except AssertionError:
            pytest.fail(f"no trial came to the worker: {running.submit('--logs', job).stdout[-4000:]}")
    running.lose_the_worker()  # before that trial can be over
    ended = running.submit("--logs", job)
    assert ended.returncode == 0, ended.stderr[-4000:]
    trials = Ledger(ledger).trials
    assert any(trial.losses for trial in trials), "nothing ran on the node that was lost"
    assert [trial.state for trial in trials] == ["complete"] * 2
    for trial in trials:  # each epoch once; a perfect one ends a training
        assert [epoch.epoch for epoch in trial.epochs] == [*range(1, len(trial.epochs) + 1)]
    runs = registry.read_runs(registry.connect(home=home), kind="trial")
    assert sorted(run.name for run in runs) == [f"lost-{trial.id}" for trial in trials]
    assert {run.status for run in runs} == {"FINISHED"}
    data = read_task(load_task("demo_pairs"), str(inputs / "data"))
    for trial in trials:
        values = {"model": str(inputs / "longformer"), "seed": trial.seed, **fixed}
        values["optimizer"] = {"learning_rate": trial.params[rate]}
        alone = finetune(FinetuneRecipe.parse(values, source="test"), data, tmp_path / trial.id)
        assert trial.objective == pytest.approx(alone.value, abs=1e-6)


def test_down_ends_it_on_every_node(running):
    ended = running("clinscale", "cluster", "down", running.file)
    assert ended.returncode == 0, ended.stderr
    for host in running.hosts.all:
        wait_for(
            lambda host=host: not [line for line in host.processes() if "raylet" in line or "gcs_server" in line]
        )


def test_nodes_come_for_a_sweep_and_leave_after_it(hosts, inputs):
    """Ray's autoscaler, from no worker to two and back."""
    seen, home = hosts.shared / "seen.json", hosts.shared / "scaled"
    sweep = [
        "clinscale",
        "tune",
        "--home",
        home,
        "--name",
        "scaled",
        "--task",
        "demo_pairs",
        "--data",
        inputs / "data",
    ]
    space = {
        "fixed": {"epochs": 1, "dropout": 0.0, "batch_size": 8, "max_tokens": 128},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
    }
    (hosts.shared / "scaled.yaml").write_text(yaml.safe_dump(space))
    sweep += ["--space", hosts.shared / "scaled.yaml"]
    sweep += ["--model", inputs / "longformer", "recipe.budget.trials=2", "recipe.confirm_seeds=1"]
    sweep += ["runtime.max_concurrent_trials=2", "recipe.scheduler=none", "recipe.sampler=random"]
    script = Path(__file__).with_name("autoscaling.py")
    with forked_ray.without_forks():
        ran = hosts.head.run(
            [sys.executable, script, seen, *sweep],
            timeout=600,
            env={"RAY_AUTH_MODE": "disabled"},
            cwd=hosts.shared,
        )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(seen.read_text()) == {"before": 0, "most": 2, "code": 0, "after": 0}, ran.stderr[-4000:]
    assert {trial.state for trial in Ledger(home / "sweep" / "scaled" / "ledger.jsonl").trials} == {"complete"}


def test_there_was_no_way_out(hosts):
    for host in (hosts.launcher, *hosts.all):
        assert host.run("ip route show default", check=True).stdout == ""
        assert host.run("timeout 5 bash -c '< /dev/tcp/1.1.1.1/443'").returncode


def trial_is_on(host):
    return any(
        "ray::ImplicitFunc.train" in line for line in host.processes()
    )  # a trial that trains, as Ray calls it


def losses(tracking, name):
    """Step by step, the last value of each."""
    [run] = [run for run in registry.read_runs(tracking, kind="pretrain") if run.name == name] or [None]
    return dict(registry.metric_history(tracking, run.id, "train/loss")) if run else {}


def wait_for(condition, every_s=0.5):
    for _ in range(int(360 / every_s)):
        if condition():
            return
        time.sleep(every_s)
    raise AssertionError("it did not come to be within 360 s")
