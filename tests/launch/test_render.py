"""`clinscale cluster render`: what is committed is what it writes, on pyproject's versions, from answers that hold."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from clinscale.errors import ConfigError
from clinscale.launch import KINDS, answers, render, write

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = {
    "aws": ["aws.yaml"],
    "azure": ["azure.yaml"],
    "docker": ["Dockerfile"],
    "gcp": ["gcp.yaml"],
    "kuberay": ["kuberay/cluster.yaml", "kuberay/pretrain.yaml", "kuberay/tune.yaml"],
    "mlflow": ["mlflow/compose.yaml"],
    "on-prem": ["on-prem.yaml"],
    "slurm": ["slurm/sweep.sbatch"],
}
LAUNCHER = ["aws", "azure", "gcp", "on-prem"]


def words_of(text):
    """The answers in the command that a file says it was made by."""
    command = re.search(r"^#   clinscale cluster render (.*)$", text, re.MULTILINE)
    return shlex.split(command[1])


def example(kind, **changes):
    """The answers of the committed file of `kind`, with some changed."""
    _, *given = words_of((CLUSTER / FILES[kind][0]).read_text())
    return [word for word in given if word.partition("=")[0] not in changes] + [
        f"{key}={value}" for key, value in changes.items() if value is not None
    ]


def made(kind, **changes):
    """All files of `kind`."""
    return render(kind, answers(kind, example(kind, **changes)))


def launcher(kind, **changes):
    """The parsed launcher file of `kind`."""
    [text] = made(kind, **changes).values()
    return yaml.safe_load(text)


@pytest.mark.parametrize("kind", FILES)
def test_what_is_committed_is_what_its_own_command_writes(kind):
    assert {name: (CLUSTER / name).read_text() for name in FILES[kind]} == made(kind)


@pytest.mark.parametrize("kind", [*LAUNCHER, "slurm", "kuberay"])
def test_a_node_may_take_its_time_to_start(kind):
    for text in made(kind).values():
        assert re.findall(r"RAY_agent_register_timeout_ms\W+(?:value: .)?120000", text)
        assert re.findall(r"RAY_raylet_start_wait_time_s\W+(?:value: .)?60\b", text)


def test_no_file_of_cluster_is_written_by_hand():
    by_hand = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()}
    assert by_hand == {"README.md", "constraints.txt", *(name for names in FILES.values() for name in names)}


def test_versions_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lower = {re.match(r"[\w-]+", line)[0]: re.search(r"[=~>]=([\d.]+)", line) for line in project["dependencies"]}
    version = re.search(r'__version__ = "(.*)"', (ROOT / "clinscale" / "__init__.py").read_text())[1]
    wanted = {
        "ray": lower["ray"][1],
        "torch": lower["torch"][1],
        "python": re.search(r">=([\d.]+)", project["requires-python"])[1],
        "clinscale": version,
    }
    patterns = {
        "ray": r"\[default,train,tune\](?:==| )([\d.]+\d)|rayVersion: \"([\d.]+)\"|Ray ([\d.]+\d)",
        "torch": r"torch(?:==| )([\d.]+\d)",
        "python": r"python:?(3\.\d+)|Python (3\.\d+)",
        "clinscale": r"clinscale[ -](\d+\.\d+\.\d+)|clinscale(?:==|:)(\d+\.\d+\.\d+)",
    }
    seen = set()
    for path in sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".txt"):
        for name, pattern in patterns.items():
            for groups in re.finditer(pattern, path.read_text()):
                [found] = [group for group in groups.groups() if group]
                assert (path.name, name, found) == (path.name, name, wanted[name])
                seen.add((path.name, name))
    for kind in ("aws.yaml", "azure.yaml", "gcp.yaml", "Dockerfile", "on-prem.yaml"):
        assert {name for file, name in seen if file == kind} == set(wanted), kind
    assert {("cluster.yaml", "ray"), ("pretrain.yaml", "ray"), ("compose.yaml", "python")} <= seen


@pytest.mark.parametrize("kind", LAUNCHER)
def test_every_command_is_shell_and_every_ray_start_asks_for_the_token(kind, tmp_path):
    config = launcher(kind, tls="~/.clinscale/tls")
    commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
    for command in commands:
        parsed = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert parsed.returncode == 0, command + parsed.stderr
        assert "\n" not in command, "a folded scalar kept a line break, which ends the command there"
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for start in starts:
        assert "RAY_AUTH_MODE=token" in start
        assert "RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=" in start
        assert "--temp-dir=/" in start
    assert ["--dashboard-host=127.0.0.1" in start for start in starts] == [True, False]
    assert "RAY_USE_TLS" not in str(launcher(kind, tls=None))


@pytest.mark.parametrize("kind", ["aws", "azure", "gcp"])
def test_the_head_is_on_demand_and_workers_on_spot_of_several_types(kind):
    config = launcher(kind, num_gpu_workers="[1,6]")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "spot" not in str(head).lower()
    assert len(types) >= 2
    assert all("spot" in str(node["node_config"]).lower() for node in types.values())
    assert sorted(node["min_workers"] for node in types.values()) == [0, 1]
    assert config["max_workers"] == 6
    assert all(node["resources"]["GPU"] >= 1 for node in types.values())
    assert config["provider"]["use_internal_ips"] is True
    assert config["provider"]["cache_stopped_nodes"] is False


def test_zones_each_have_their_subnet_and_no_group_is_left_to_ray():
    config = launcher("aws", zones="us-west-2a,us-west-2b", subnets="subnet-0a,subnet-0b")
    assert config["provider"]["availability_zone"] == "us-west-2a,us-west-2b"
    for node in config["available_node_types"].values():
        assert node["node_config"]["SubnetIds"] == ["subnet-0a", "subnet-0b"]
        assert node["node_config"]["SecurityGroupIds"] == ["sg-0a1"]


def test_your_address_stands_in_the_commands_that_open_ssh():
    for kind in ("aws", "azure", "gcp"):
        [text] = made(kind, ssh_address="198.51.100.0/24").values()
        opening = [
            line for line in text.splitlines() if "198.51.100.0/24" in line and "cluster render" not in line
        ]
        assert opening, kind
        assert "203.0.113" not in text


def test_own_hosts_are_started_as_the_local_provider_can():
    config = launcher("on-prem", num_gpu_workers=1, ssh_user="root", environment="/opt/venv", port=6400)
    assert config["provider"] == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    assert (config["min_workers"], config["max_workers"]) == (1, 1)
    assert "available_node_types" not in config
    head, worker = config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]
    assert "/opt/venv/bin/ray start --head --port=6400 --node-ip-address=10.0.0.1" in head
    assert "ray start --address=$RAY_HEAD_IP:6400" in worker
    assert "--temp-dir=/root/clinscale/ray" in head
    [text] = made("on-prem").values()
    assert "RAY_UP_enable_autoscaler_v2=0 ray up" in text


def test_nodes_sign_certificates_that_their_authority_vouches_for(tmp_path):
    (tmp_path / "clinscale" / "tls").mkdir(parents=True)
    [text] = made("on-prem", tls="~/.clinscale/tls").values()
    authority = re.search(r"openssl req -x509.*?\n#.*?ca\.crt", text, re.DOTALL)[0].replace("\\\n#", "")
    [sign] = [line for line in yaml.safe_load(text)["setup_commands"] if "openssl" in line]
    sign = sign.replace("/home/ubuntu", str(tmp_path))
    script = f"cd {tmp_path}/clinscale/tls && {authority} && {sign} && openssl verify -CAfile ca.crt node.crt"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "node.crt: OK" in ran.stdout, ran.stderr
    shown = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "clinscale/tls/node.crt", "-noout", "-text"],
        capture_output=True,
        text=True,
    ).stdout
    assert "IP Address:127.0.0.1" in shown
    assert (tmp_path / "clinscale/tls/node.key").stat().st_mode & 0o077 == 0


def test_the_ceiling_is_computed_from_your_prices_or_said_to_be_unknown():
    [text] = made("aws", num_gpu_workers="[0,4]", usd_per_hour_head=0.5, usd_per_hour_worker=1.25).values()
    assert "USD 5.50 an hour" in text
    [text] = made("aws").values()
    assert "Prices are not known here" in text
    job = made("kuberay", num_gpu_workers="[0,2]", usd_per_hour_head=1, usd_per_hour_worker=2, hours=10)
    assert "USD 5.00 an hour and USD 50 in the 10 hours" in job["kuberay/pretrain.yaml"]


def test_a_bucket_for_artifacts_is_the_servers_alone():
    [text] = made("mlflow", artifacts="s3://clinical-mlflow/artifacts").values()
    compose = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    assert "--artifacts=s3://clinical-mlflow/artifacts" in compose["services"]["mlflow"]["command"]
    assert "boto3" in compose["services"]["mlflow"]["build"]["dockerfile_inline"]
    assert "artifacts" not in str(
        yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", *made("mlflow").values()))["services"]
    )


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("aws", {"regoin": "us-west-2"}, "regoin is not a known key; did you mean region?"),
        (
            "aws",
            {"region": "us-west-9"},
            "region must be one that is known here, got 'us-west-9'; did you mean us-west-",
        ),
        (
            "aws",
            {"gpu": "a10"},
            "gpu must be one that is known here, got 'a10'; did you mean a10g? Known: a100, a10g, h200, l4, l40s, t4",
        ),
        ("aws", {"ssh_address": "0.0.0.0/0"}, "lets the world try to log in"),
        ("aws", {"ssh_address": "128.0.0.0/7"}, "lets the world try to log in"),
        ("aws", {"ssh_address": "home"}, "must be an address or CIDR"),
        ("aws", {"zones": "us-east-1a"}, "'us-east-1a' is no zone of us-west-2"),
        ("aws", {"subnets": "subnet-0a1"}, "zones and subnets come in pairs, got 3 and 1"),
        ("aws", {"security_group": "default"}, "security_group must be sg-..."),
        ("aws", {"num_gpu_workers": "[4,1]"}, "must be the fewest, then the most"),
        ("aws", {"num_gpu_workers": "[0,0]"}, "must be the fewest, then the most"),
        ("aws", {"num_gpu_workers": "many"}, "got 'many'"),
        ("aws", {"vpc": None}, "vpc is required"),
        ("aws", {"token_folder": "~/a; rm -rf /"}, "token_folder must be letters, digits"),
        ("aws", {"shared_folder": "shared"}, "shared_folder must be an absolute path"),
        ("aws", {"cluster_name": "Lab"}, "cluster_name must be lower-case"),
        ("gcp", {"project_id": None}, "project_id is required"),
        ("gcp", {"zone": "us-east1-b"}, "is no zone of us-central1"),
        ("gcp", {"network": "default"}, "lets SSH in from anywhere"),
        ("gcp", {"image": "projects/deeplearning/global/images/family/gpu"}, "must be one version"),
        ("gcp", {"ssh_public_key": "-----BEGIN"}, "must be one line as in a .pub file"),
        ("gcp", {"filestore": "10.0.0.1"}, "filestore must be ADDRESS:/SHARE"),
        ("azure", {"region": "westeurop"}, "did you mean westeurope?"),
        ("azure", {"image": "a:b:c:latest"}, "must be one version"),
        ("azure", {"zones": "1,4"}, "zones takes 1, 2 and 3, got '4'"),
        (
            "on-prem",
            {"num_gpu_workers": 3},
            "num_gpu_workers must be at most the number of workers, 2, got 3; name more workers, or ask for fewer",
        ),
        ("on-prem", {"num_gpu_workers": 0}, "num_gpu_workers"),
        ("on-prem", {"head": "http://10.0.0.1"}, "without scheme, account or port, got 'http://10.0.0.1'"),
        ("on-prem", {"workers": "10.0.0.2,10.0.0.300"}, "got '10.0.0.300'"),
        ("on-prem", {"workers": "root@10.0.0.2"}, "got 'root@10.0.0.2'"),
        ("on-prem", {"workers": "10.0.0.2,10.0.0.2"}, "workers names 10.0.0.2 more than once"),
        ("on-prem", {"workers": "10.0.0.2,10.0.0.1"}, "head 10.0.0.1 is among the workers"),
        ("on-prem", {"workers": "''"}, "workers"),
        ("on-prem", {"port": 80}, "port"),
        ("on-prem", {"port": 8076}, "object_manager_port=8076 is the port of port, too"),
        ("on-prem", {"node_manager_port": 8265}, "node_manager_port=8265 is the port of Ray's dashboard, too"),
        ("on-prem", {"port": 10500}, "have port 10500 of port between them"),
        ("on-prem", {"first_worker_port": 10000}, "have port 10001 of Ray's client server between them"),
        ("on-prem", {"cluster_name": "no"}, "cluster_name must be a text where Ray"),
        ("on-prem", {"workers": "10.0.0.2,on"}, "workers must be a text"),
        ("on-prem", {"ssh_private_key": "'keys:'"}, "ssh_private_key must be a text"),
        ("kuberay", {"mlflow": "https://team:s3cret@mlflow.example"}, "without a login in it"),
        ("kuberay", {"mlflow": "mlflow.example:5000"}, "mlflow must be https://HOST"),
        ("kuberay", {"namespace": "off"}, "namespace must be a text"),
        ("kuberay", {"name": "y"}, "name must be a text"),
        ("kuberay", {"storage_class": "'1e+3'"}, "storage_class must be a text"),
        ("aws", {"head_profile": "'2024-01-01'"}, "head_profile must be a text"),
        ("mlflow", {"postgres": "12:30"}, "postgres must be a text"),
        ("kuberay", {"image": "registry.example/clinscale"}, "image must be one version"),
        ("kuberay", {"image": "registry.example:5000/clinscale:latest"}, "image must be one version"),
        ("kuberay", {"name": "a" * 39}, "name has at most 38 characters"),
        ("kuberay", {"spot_label": "spot"}, "spot_label must be KEY=VALUE"),
        ("docker", {"base": "python"}, "base must be one version"),
        ("mlflow", {"artifacts": "s3://bucket"}, "a prefix keeps the server's rights"),
    ],
)
def test_a_bad_answer_is_a_sentence(kind, changes, message):
    with pytest.raises(ConfigError) as caught:
        made(kind, **changes)
    assert message in str(caught.value)


def test_a_kind_that_is_not_there_is_a_sentence():
    with pytest.raises(ConfigError, match=r"kind 'awz' is not known; did you mean aws\?"):
        answers("awz", [])
    assert set(FILES) | {"slurm"} == set(KINDS)


def test_a_file_that_differs_is_kept_unless_forced(tmp_path):
    files = made("kuberay")
    assert len(write(files, tmp_path)) == 3
    write(files, tmp_path)  # the same again is no change
    (tmp_path / "kuberay" / "tune.yaml").write_text("mine\n")
    changed = made("kuberay", hours=1)
    with pytest.raises(ConfigError, match=r"tune\.yaml is there and differs; --force"):
        write(changed, tmp_path)
    assert (tmp_path / "kuberay" / "tune.yaml").read_text() == "mine\n"
    assert (tmp_path / "kuberay" / "pretrain.yaml").read_text() == files["kuberay/pretrain.yaml"]
    write(changed, tmp_path, force=True)
    assert (tmp_path / "kuberay" / "tune.yaml").read_text() == changed["kuberay/tune.yaml"]
    with pytest.raises(ConfigError, match="cannot be written to"):
        write(files, tmp_path / "kuberay" / "tune.yaml")
