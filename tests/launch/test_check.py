"""`clinscale cluster check`: the committed files are clean, and each seeded mistake is found with its mend."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml

from clinscale.errors import ConfigError
from clinscale.launch import Problem, check

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "data" / "kuberay-crds"
FILES = sorted(
    path.relative_to(CLUSTER).as_posix()
    for path in CLUSTER.rglob("*")
    if path.is_file() and path.suffix not in (".md", ".txt")
)

SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
#SBATCH --time=08:00:00
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/token RAY_USAGE_STATS_ENABLED=0
srun ray symmetric-run --address "$ip:$port" --min-nodes 2 -- clinscale tune --home /shared/runs
"""
"""A batch script without a fault that the rules know."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with the token, the authority and the wheel that the files mount."""
    folder = tmp_path / "home" / ".clinscale"
    for name in ("token", "tls", "wheel"):
        (folder / name).mkdir(parents=True, mode=0o700)
    (folder / "token" / "auth_token").touch(mode=0o600)
    (folder / "token" / "auth_token").write_text("0" * 64)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def crds():
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's definitions are not at {CRDS}")
    return CRDS


def told(problems):
    return [f"{problem.rule}: {problem.found} -> {problem.mend}" for problem in problems]


@pytest.mark.parametrize("name", FILES)
def test_the_committed_files_are_clean(name):
    assert told(check(CLUSTER / name)) == []


def test_the_manifests_are_what_kuberay_takes(crds):
    for path in sorted((CLUSTER / "kuberay").iterdir()):
        assert told(check(path, crds)) == []


def test_a_batch_script_is_clean(tmp_path):
    (tmp_path / "s.sbatch").write_text(SCRIPT)
    assert told(check(tmp_path / "s.sbatch")) == []


@pytest.mark.parametrize(
    "given", ["--time 1-00:00:00", "-t90", "--nodes=2 --time='8:00:00' # a night", "-t 30:00"]
)
def test_a_time_limit_is_found_as_sbatch_reads_it(tmp_path, given):
    (tmp_path / "s.sbatch").write_text(SCRIPT.replace("--time=08:00:00", given))
    assert told(check(tmp_path / "s.sbatch")) == []


WORKER = "    min_workers: 0\n    max_workers: 4\n    resources: {CPU: 16, GPU: 1}"
MISTAKES = [
    # file, what stands there (a pattern), what is written instead, the rule, what is found, the mend
    (
        "aws.yaml",
        r"      SecurityGroupIds: .*\n",
        "",
        "open to the world",
        "head has no SecurityGroupIds",
        "your address",
    ),
    (
        "aws.yaml",
        r"  use_internal_ips: true",
        "  use_internal_ips: true\n  security_group: {GroupName: g, IpPermissions: [{FromPort: 22, ToPort: 22, "
        "IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}",
        "open to the world",
        "lets in 0.0.0.0/0 on ports 22 to 22",
        "your own address",
    ),
    (
        "gcp.yaml",
        r"subnetworks/clinical-us",
        "subnetworks/default",
        "open to the world",
        "default network",
        "your own",
    ),
    (
        "gcp.yaml",
        r"(        - subnetwork: .*)",
        r"\1\n          accessConfigs: [{type: ONE_TO_ONE_NAT}]",
        "public address",
        "head has accessConfigs",
        "without accessConfigs",
    ),
    (
        "azure.yaml",
        r"use_external_head_ip: false",
        "use_external_head_ip: true",
        "open to the world",
        "use_external_head_ip",
        "peering or VPN",
    ),
    ("azure.yaml", r'imageVersion: "1.0.0"', "imageVersion: latest", "unpinned image", "latest", "one version"),
    ("gcp.yaml", r"  use_internal_ips: true\n", "", "public address", "use_internal_ips is not true", "VPN"),
    (
        "aws.yaml",
        r"RAY_AUTH_MODE=token (?=RAY_USAGE(?:.*\n){2}.*--head)",
        "",
        "token",
        "head_start_ray_commands: ray start",
        "runs commands",
    ),
    ("on-prem.yaml", r'  "~/.ray": .*\n', "", "token", "nothing brings the token", "file_mounts"),
    (
        "on-prem.yaml",
        r"RAY_AUTH_MODE=token (?=RAY_USAGE)",
        "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=3f9a8b7c6d5e4f30 ",
        "secret in the file",
        "a token or password",
        "replace the secret",
    ),
    ("aws.yaml", r"# Copied", "# AKIAABCDEFGHIJKLMNOP\n# Copied", "secret in the file", "AWS access key", "0600"),
    (
        "gcp.yaml",
        r"--dashboard-host=127.0.0.1",
        "--dashboard-host=0.0.0.0",
        "public dashboard",
        "--dashboard-host=0.0.0.0",
        "ray dashboard",
    ),
    ("gcp.yaml", r" --dashboard-host=127.0.0.1", "", "public dashboard", "no --dashboard-host", "127.0.0.1"),
    ("aws.yaml", r"==2\.60\.0", "==2.59.1", "version", "ray 2.59.1", "ray 2.60.0"),
    ("aws.yaml", r"'torch==2\.13\.0'", "torch", "version", "any torch", "torch==2.13.0"),
    ("on-prem.yaml", r"cluster_name: .*\n", "", "cluster name", "no cluster_name", "collide"),
    (
        "aws.yaml",
        r"  - >-\n    mountpoint[^}]*}\n  - >-\n    probe[^}]*}\n",
        "",
        "shared storage",
        "no setup",
        "mount",
    ),
    (
        "aws.yaml",
        r"      InstanceType: m5.2xlarge",
        "      InstanceType: m5.2xlarge\n      InstanceMarketOptions: {MarketType: spot}",
        "head on spot",
        "head is a spot",
        "on demand",
    ),
    (
        "gcp.yaml",
        r"      machineType: n2-standard-8",
        "      machineType: n2-standard-8\n      scheduling: [{preemptible: true}]",
        "head on spot",
        "head is a spot",
        "on demand",
    ),
    ("azure.yaml", r"priority: Regular", "priority: Spot", "head on spot", "head is a spot", "on demand"),
    ("gcp.yaml", r"idle_timeout_minutes: 10\n", "", "idle shutdown", "no idle_timeout_minutes", "10"),
    ("aws.yaml", r"\nmax_workers: 4", "", "spend cap", "no max_workers", "caps"),
    ("aws.yaml", r"cache_stopped_nodes: false", "cache_stopped_nodes: true", "stopped nodes", "is true", "false"),
    ("azure.yaml", r"  cache_stopped_nodes: .*\n", "", "stopped nodes", "true by default", "false"),
    (
        "aws.yaml",
        r"'ray\[default,train,tune\]==2.60.0'",
        "-U https://s3-us-west-2.amazonaws.com/ray-wheels/latest/ray-3.0.0.dev0-cp311-cp311-manylinux2014_x86_64.whl",
        "nightly Ray",
        "ray-wheels/latest",
        "ray==2.60.0",
    ),
    ("aws.yaml", r"RAY_USAGE_STATS_ENABLED=0 ", "", "telemetry", "reports its use", "RAY_USAGE_STATS_ENABLED=0"),
    ("aws.yaml", r'"~/.clinscale/wheel"', '"~/elsewhere"', "file mount", "~/elsewhere", "make it"),
    (
        "gcp.yaml",
        r"  project_id:",
        "  projct_id:",
        "provider key",
        "provider.projct_id",
        "did you mean project_id?",
    ),
    ("gcp.yaml", r"  project_id:.*\n", "", "provider key", "no provider.project_id", "give provider.project_id"),
    (
        "aws.yaml",
        r"setup_commands:\n(  .*\n)*?(?=head_setup)",
        "",
        "default commands",
        "no setup_commands",
        "nightly",
    ),
    ("aws.yaml", r"      IamInstanceProfile: .*\n", "", "head's rights", "all rights on EC2 and S3", "profile"),
    (
        "aws.yaml",
        r"(      - ray start|    ray start)(.*) --temp-dir=\S+",
        r"\1\2",
        "session folder",
        "no --temp-dir",
        "0700",
    ),
    (
        "gcp.yaml",
        r"--temp-dir=\S+",
        f"--temp-dir=/{'long/' * 12}",
        "name too long",
        "--temp-dir has 61",
        "at most 44",
    ),
    ("on-prem.yaml", "head_ip: .*", "head_ip: 10.0.0.256", "hosts", "10.0.0.256 is no host", "without scheme"),
    ("on-prem.yaml", r"10\.0\.0\.3\]", "10.0.0.3:22]", "hosts", "10.0.0.3:22 is no host", "without scheme"),
    ("on-prem.yaml", r"worker_ips: .*", "worker_ips: []", "hosts", "worker_ips is empty", "at least one"),
    (
        "on-prem.yaml",
        r"10\.0\.0\.2, 10\.0\.0\.3",
        "10.0.0.2, 10.0.0.2",
        "hosts",
        "10.0.0.2 more than once",
        "once",
    ),
    (
        "on-prem.yaml",
        r"10\.0\.0\.2, 10\.0\.0\.3",
        "10.0.0.2, 10.0.0.1",
        "hosts",
        "head_ip 10.0.0.1 is among",
        "take it",
    ),
    # what Ray's own check finds
    (
        "aws.yaml",
        r"idle_timeout_minutes",
        "idle_timeout_minuets",
        "schema",
        "idle_timeout_minuets, did you",
        "reference",
    ),
    (
        "aws.yaml",
        r"  ssh_user:",
        "  ssh_usr:",
        "schema",
        "unknown key ssh_usr, did you mean ssh_user?",
        "reference",
    ),
    (
        "aws.yaml",
        r"resources: {CPU: 8}",
        "resources: {CPU: eight}",
        "schema",
        "'eight' is not of type 'integer'",
        "",
    ),
    ("aws.yaml", r"head_node_type: head", "head_node_type: haed", "schema", "head_node_type", "refuses"),
    ("aws.yaml", r"type: aws", "type: awz", "schema", "provider.type is 'awz'", "did you mean aws?"),
    ("aws.yaml", r"  type: aws\n", "", "schema", "provider.type is None", "one of aws"),
    (
        "on-prem.yaml",
        r"  worker_ips: .*\n",
        "",
        "schema",
        "Please supply a `head_ip` and list of `worker_ips`",
        "refuses",
    ),
    (
        "on-prem.yaml",
        r"auth:\n",
        "available_node_types: {a: {node_config: {}, resources: {}}}\nauth:\n",
        "schema",
        "available_node_types is not supported",
        "refuses",
    ),
    # containers of the launcher
    (
        "on-prem.yaml",
        r"auth:\n",
        "docker: {image: lab/ray:latest, container_name: r, run_options: [--privileged]}\nauth:\n",
        "privileged container",
        "--privileged",
        "leave",
    ),
    (
        "on-prem.yaml",
        r"auth:\n",
        "docker: {image: 'lab/ray:1', container_name: r, run_options: [-p 10001:10001]}\nauth:\n",
        "published port",
        "Ray's client server",
        "127.0.0.1",
    ),
    # manifests
    ("kuberay/cluster.yaml", r"  authOptions:\n(    .*\n)*", "", "token", "no authOptions", "mode: token"),
    ("kuberay/tune.yaml", r"mode: token", "mode: disabled", "token", "'disabled'", "mode: token"),
    (
        "kuberay/tune.yaml",
        r"      mode: token",
        "      mode: token\n      enableK8sTokenAuth: true",
        "token",
        "is a RayJob",
        "leave",
    ),
    ("kuberay/cluster.yaml", r"  rayVersion: .*\n", "", "version", "rayVersion None", '"2.60.0"'),
    ("kuberay/cluster.yaml", r'rayVersion: "2.60.0"', 'rayVersion: "2.52.0"', "version", "2.52.0", '"2.60.0"'),
    (
        "kuberay/cluster.yaml",
        r"minReplicas: 0",
        "minReplicas: 9",
        "replicas",
        "minReplicas 9 above maxReplicas 4",
        "turn",
    ),
    ("kuberay/cluster.yaml", r"      maxReplicas: 4\n", "", "spend cap", "no maxReplicas", "caps"),
    (
        "kuberay/cluster.yaml",
        r"serviceType: ClusterIP",
        "serviceType: NodePort",
        "public dashboard",
        "NodePort",
        "ClusterIP",
    ),
    ("kuberay/cluster.yaml", r"operator: NotIn", "operator: In", "head on spot", "spot nodes", "NotIn"),
    (
        "kuberay/cluster.yaml",
        r"clinscale:0\.1\.0(?=\n)",
        "clinscale:latest",
        "unpinned image",
        ":latest",
        "tag or digest",
    ),
    (
        "kuberay/cluster.yaml",
        r"allowPrivilegeEscalation: false",
        "privileged: true",
        "privileged container",
        "ray-head is privileged",
        "leave privileged out",
    ),
    (
        "kuberay/cluster.yaml",
        r"runAsNonRoot: true",
        "runAsNonRoot: false",
        "privileged container",
        "as root",
        "true",
    ),
    (
        "kuberay/cluster.yaml",
        r"- \{name: RAY_USAGE_STATS_ENABLED, value: \"0\"\}",
        "- {name: RAY_AUTH_TOKEN, value: hunter2hunter2}",
        "secret in the file",
        "token as a value",
        "secretName",
    ),
    (
        "kuberay/cluster.yaml",
        r"---\n# Ray's pods",
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n---\n# Ray's pods",
        "secret in the file",
        "Secret s holds its data",
        "kubectl create secret",
    ),
    (
        "kuberay/cluster.yaml",
        r"kind: NetworkPolicy",
        "kind: ConfigMap",
        "open to the cluster",
        "no NetworkPolicy",
        "8265",
    ),
    (
        "kuberay/cluster.yaml",
        r"enableInTreeAutoscaling: true",
        "networkPolicy: {mode: DenyAll}\n  enableInTreeAutoscaling: true",
        "alpha field",
        "networkPolicy",
        "plain NetworkPolicy",
    ),
    (
        "kuberay/cluster.yaml",
        r"enableInTreeAutoscaling: true",
        "",
        "idle shutdown",
        "never shrinks",
        "idleTimeoutSeconds",
    ),
    (
        "kuberay/cluster.yaml",
        r"persistentVolumeClaim: .*",
        "emptyDir: {}",
        "shared storage",
        "mounts none",
        "claim",
    ),
    ("kuberay/tune.yaml", r"SidecarMode", "SideCar", "submission mode", "'SideCar'", "did you mean SidecarMode?"),
    ("kuberay/tune.yaml", r"  entrypoint: .*\n", "", "entrypoint", "clinscale-tune has none", "give entrypoint"),
    (
        "kuberay/tune.yaml",
        r"name: clinscale-tune",
        f"name: {'a' * 48}",
        "name too long",
        "48 characters",
        "at most 47",
    ),
    ("kuberay/tune.yaml", r"  shutdownAfterJobFinishes: true\n", "", "idle shutdown", "keeps its cluster", "true"),
    (
        "kuberay/tune.yaml",
        r"  activeDeadlineSeconds: .*\n",
        "",
        "spend cap",
        "run for ever",
        "activeDeadlineSeconds",
    ),
    (
        "kuberay/tune.yaml",
        r"  ttlSeconds",
        "  clusterSelector: {ray.io/cluster: c}\n  ttlSeconds",
        "cluster of the job",
        "both rayClusterSpec and clusterSelector",
        "one of them",
    ),
    # images
    ("Dockerfile", r"FROM .*", "FROM python:latest", "unpinned image", "python:latest", "tag or digest"),
    ("Dockerfile", r"FROM python:3.11", "FROM python:3.9", "version", "Python 3.9", "Python 3.11"),
    ("Dockerfile", r"USER clinscale\n", "", "privileged container", "runs as root", "USER"),
    (
        "Dockerfile",
        r"USER clinscale",
        "EXPOSE 8265 10001\nUSER clinscale",
        "published port",
        "EXPOSE 10001",
        "leave",
    ),
    ("Dockerfile", r"(?s)ENV.*ENABLED=0.*=1\n", "", "telemetry", "reports", "ENV RAY_USAGE"),
    (
        "Dockerfile",
        r"(?s)ENV .*WORKDIR",
        'ENV RAY_USAGE_STATS_ENABLED=0\nUSER clinscale\nCMD ["ray", "start", "--head"]\nWORKDIR',
        "token",
        "CMD: ray start --head does not set RAY_AUTH_MODE=token",
        "write it before",
    ),
    (
        "Dockerfile",
        r"WORKDIR",
        "CMD ray start --head --temp-dir=/home/clinscale/ray --dashboard-host=0.0.0.0\nWORKDIR",
        "public dashboard",
        "CMD: ray start",
        "127.0.0.1",
    ),
    ("mlflow/compose.yaml", r"127\.0\.0\.1:5000:5000", "5000:5000", "published port", "5000:5000", "127.0.0.1"),
    ("mlflow/compose.yaml", r"127\.0\.0\.1:5000:5000", "8265", "published port", "Ray's dashboard", "127.0.0.1"),
    ("mlflow/compose.yaml", r"postgres:17", "postgres", "unpinned image", "postgres is postgres", "tag"),
    ("mlflow/compose.yaml", r"read_only: true", "privileged: true", "privileged container", "mlflow", "leave"),
    (
        "mlflow/compose.yaml",
        r"POSTGRES_PASSWORD_FILE: .*",
        "POSTGRES_PASSWORD: correct-horse",
        "secret in the file",
        "a token or password",
        "0600",
    ),
    (
        "mlflow/compose.yaml",
        r"mlflow@postgres",
        "mlflow:s3cret@postgres",
        "secret in the file",
        "in an address",
        "0600",
    ),
    *(
        ("kuberay/cluster.yaml", r"memory: 48Gi", f"memory: {amount}", "resources", found, mend)
        for amount, found, mend in [
            ("48GB", "requests memory: 48GB", "64Gi"),
            ("48g", "requests memory: 48g", "not GB, g"),
            ("48 Gi", "requests memory: 48 Gi", "64Gi"),
            ("48", "memory: 48 (48 bytes)", "without a unit it is bytes"),
            ("48000m", "memory: 48000m (48 bytes)", "m thousandths"),
        ]
    ),
    (
        "kuberay/cluster.yaml",
        r"(requests: .*memory:) 48Gi",
        r"\1 96Gi",
        "resources",
        "requests memory 96Gi above its limit 48Gi",
        "raise the limit",
    ),
    *(
        (
            "kuberay/tune.yaml",
            r"(activeDeadlineSeconds:) .*",
            rf"\1 {none}",
            "spend cap",
            "may run for ever",
            "longest",
        )
        for none in ("", "0", "72h")
    ),
    # batch scripts
    ("SCRIPT", r"RAY_AUTH_MODE=token ", "", "token", "without RAY_AUTH_MODE=token", "export"),
    ("SCRIPT", r"#SBATCH --time.*\n", "", "spend cap", "no #SBATCH --time", "longest time"),
    ("SCRIPT", r"--time=.*", "--time-min=10", "spend cap", "no #SBATCH --time", "longest time"),
    ("SCRIPT", r"#SBATCH --time", "date\n#SBATCH --time", "spend cap", "after the first command", "above"),
    ("SCRIPT", r"--time=.*", "-t 0", "spend cap", "#SBATCH --time is 0", "24:00:00"),
    ("SCRIPT", r"--time=.*", "--time=UNLIMITED", "spend cap", "#SBATCH --time is UNLIMITED", "24:00:00"),
    ("SCRIPT", r"--time=.*", "--time=8h", "spend cap", "#SBATCH --time is 8h", "24:00:00"),
    ("SCRIPT", r"\n", "\r\n", "syntax", "lines end as in DOS", "dos2unix"),
    ("SCRIPT", r"#!/bin/bash\n", "", "syntax", "not #!", "#!/bin/bash"),
    ("SCRIPT", r" RAY_USAGE_STATS_ENABLED=0", "", "telemetry", "reports its use", "export"),
    ("SCRIPT", r"export", "if true; export", "syntax", "syntax error", "fix"),
    ("SCRIPT", r"--home /shared/runs", "--home /tmp/runs", "shared storage", "/tmp", "all nodes see"),
]


@pytest.mark.parametrize(
    ("name", "pattern", "instead", "rule", "found", "mend"),
    MISTAKES,
    ids=[f"{number}-{mistake[0]}-{mistake[3]}" for number, mistake in enumerate(MISTAKES)],
)
def test_a_seeded_mistake_is_found_with_its_mend(name, pattern, instead, rule, found, mend, tmp_path):
    text = SCRIPT if name == "SCRIPT" else (CLUSTER / name).read_text()
    seeded = re.sub(pattern, instead, text)
    assert seeded != text, "the seed did not take"
    path = tmp_path / name.replace("/", "-")
    path.write_text(seeded)
    problems = check(path)
    hits = [problem for problem in problems if problem.rule == rule and found in problem.found]
    assert hits, told(problems)
    assert mend in hits[0].mend
    assert hits[0].file == str(path)
    assert "hunter2" not in str(problems), "a secret is not repeated"


@pytest.mark.parametrize(
    ("pattern", "instead", "found", "mend"),
    [
        (
            r"groupName: gpu",
            "groupname: gpu",
            "workerGroupSpecs.0.groupname is not known",
            "did you mean groupName?",
        ),
        (r"replicas: 0", 'replicas: "0"', "is not of type 'integer'", "refuses"),
        (r'num-cpus: "0"', "num-cpus: 0", "0 is not of type 'string'", "refuses"),
        (r"mode: token", "mode: tokens", "'tokens' is not one of", "refuses"),
        (r"memory: 16Gi", "memory: 16GiB", "'16GiB'", "refuses"),
        (r"- name: ray-head\n            image", "- image", "'name' is a required property", "refuses"),
        (r"(?s)  headGroupSpec:.*(?=  workerGroup)", "", "'headGroupSpec' is a required property", "refuses"),
    ],
)
def test_what_the_api_server_would_refuse_or_drop_is_found(pattern, instead, found, mend, crds, tmp_path):
    text = (CLUSTER / "kuberay" / "cluster.yaml").read_text()
    seeded = re.sub(pattern, instead, text, count=1)
    assert seeded != text
    (tmp_path / "c.yaml").write_text(seeded)
    hits = [problem for problem in check(tmp_path / "c.yaml", crds) if problem.rule == "schema"]
    assert any(found in problem.found and mend in problem.mend for problem in hits), told(hits)


def test_all_faults_are_told_at_once(tmp_path):
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    del config["cluster_name"], config["provider"]["cache_stopped_nodes"], config["idle_timeout_minutes"]
    config["max_worker"] = "four"
    config["auth"]["port"] = 22
    (tmp_path / "aws.yaml").write_text(yaml.safe_dump(config))
    problems = check(tmp_path / "aws.yaml")
    assert [problem.rule for problem in problems] == [
        "cluster name",
        "idle shutdown",
        "schema",
        "schema",
        "stopped nodes",
    ]


def test_a_token_that_others_may_read_is_found(home):
    (home / "token" / "auth_token").chmod(0o644)
    [problem] = check(CLUSTER / "aws.yaml")
    assert problem == Problem(
        str(CLUSTER / "aws.yaml"),
        "token",
        f"{home}/token/auth_token is open to others (mode 644)",
        "chmod 600 it, before it is copied with that mode",
    )
    (home / "token" / "auth_token").unlink()
    [problem] = check(CLUSTER / "aws.yaml")
    assert "holds no auth_token" in problem.found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (b"a: [", "line 1"),
        (b"just words", "is no launch file"),
        (b"", "is no launch file"),
        (b"answer: 42", "is no launch file"),
        (b"provider: {type: aws}\nprovider: {type: gcp}", "'provider' is given twice"),
        (b"#!/bin/bash\necho hello: world\n", "is no launch file"),
    ],
)
def test_what_is_no_launch_file_is_a_sentence(text, message, tmp_path):
    if text is not None:
        (tmp_path / "f").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        check(tmp_path / "f")
    assert message in str(caught.value)


def test_definitions_that_are_missing_are_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        check(CLUSTER / "kuberay" / "tune.yaml", tmp_path / "gone")
    with pytest.raises(ConfigError, match="no definition of RayJob; save `kubectl get crd rayjobs"):
        check(CLUSTER / "kuberay" / "tune.yaml", tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_batch_script_shows_no_dashboard_to_others(host, tmp_path):
    (tmp_path / "s.sbatch").write_text(SCRIPT.replace(" -- ", f" --dashboard-host={host} -- "))
    [problem] = check(tmp_path / "s.sbatch")
    assert (problem.rule, problem.found) == ("public dashboard", f"--dashboard-host={host}")


def test_a_slurm_that_answers_is_asked(tmp_path, monkeypatch):
    for name, code in {"scontrol": "exit 0", "sbatch": "echo 'error: invalid partition' >&2; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(shutil.which('bash')).parent}")
    (tmp_path / "s.sbatch").write_text(SCRIPT)
    [problem] = check(tmp_path / "s.sbatch")
    assert (problem.rule, problem.found) == ("slurm", "error: invalid partition")
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert check(tmp_path / "s.sbatch") == []


@pytest.mark.parametrize("name", ["azure.yaml", "on-prem.yaml", "kuberay/tune.yaml", "mlflow/compose.yaml"])
def test_a_value_of_another_shape_is_no_traceback(name, tmp_path):
    def places(node, at=()):
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in inner:
            yield (*at, key)
            if len(at) < 5:
                yield from places(value, (*at, key))

    config = yaml.safe_load((CLUSTER / name).read_text())
    found = 0
    for number, (*parents, last) in enumerate(places(config)):
        changed = copy.deepcopy(config)
        inner = changed
        for key in parents:
            inner = inner[key]
        inner[last] = (7, [None], {"a": 1})[number % 3]
        (tmp_path / "odd.yaml").write_text(yaml.safe_dump(changed))
        found += bool(check(tmp_path / "odd.yaml"))
    assert found > 3
