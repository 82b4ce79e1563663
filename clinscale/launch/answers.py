"""Questions of `render`: one strict config per kind of launch file."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from clinscale.config import Config, nearest
from clinscale.errors import ConfigError
from clinscale.launch.providers import (
    AWS_MACHINES,
    AWS_REGIONS,
    AZURE_LOCATIONS,
    AZURE_MACHINES,
    GCP_MACHINES,
    GCP_REGIONS,
    Machine,
)
from clinscale.launch.rules import RAY_PORTS, is_host
from clinscale.launch.versions import pins
from clinscale.strict_yaml import parse_yaml

_Port = Annotated[int, Field(ge=1024, le=65535)]
_Price = Annotated[float, Field(ge=0)] | None
_Names = Annotated[
    list[str],
    BeforeValidator(
        lambda given: [str(name).strip() for name in (given if isinstance(given, list) else str(given).split(","))]
    ),
]
"""A list, or names split by commas."""
_WORD = re.compile(r"[\w./:@+~-]+")
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


class Answers(Config):
    """The common part of all kinds: rendering, and that no answer breaks out of its place in a shell command."""

    FREE: ClassVar[frozenset[str]] = frozenset()
    """Fields that may hold spaces and the like, since no shell reads them."""
    QUOTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that are text whatever YAML makes of them: quoted in their file, or of a file that is no YAML."""

    def check(self) -> None:
        """Refuse what a shell would read as more than a word, and YAML as another value than this text."""
        for name, value in self.plain().items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and name not in self.FREE and not _WORD.fullmatch(text):
                    raise ConfigError(
                        f"answer {name} must be letters, digits and ./:@+~-_ only, as it goes into shell commands, "
                        f"got {text!r}; take out the rest, or rename what it names"
                    )
                if isinstance(text, str) and name not in self.QUOTED and not _is_text(text):
                    raise ConfigError(
                        f"answer {name} must be a text where Ray, Kubernetes and Docker read their YAML, got {text!r}: "
                        "there no and on are truth values, and 12:30 is a number; rename what it names"
                    )


class Cluster(Answers):
    """Answers that every Ray cluster launcher file needs."""

    cluster_name: str = "clinscale"
    """Two clusters of one account need two names."""
    ssh_user: str = "ubuntu"
    """Account on the nodes that the launcher logs in to."""
    ssh_private_key: str = "~/.ssh/clinscale-cluster"
    """Key of this cluster only: Ray copies it to the head."""
    token_folder: str = "~/.clinscale/token"
    """Local folder (0700) with the cluster's token, `auth_token` (0600); it is copied to every node."""
    tls: str | None = None
    """Local folder (0700) with `ca.crt` and `ca.key`: Ray's gRPC then talks TLS, each node with its own certificate."""
    shared_folder: str = "/shared"
    """Path at which every node sees the shared storage: shards, runs and checkpoints."""

    def check(self) -> None:
        """Names, bounds and paths."""
        super().check()
        _must_match("cluster_name", self.cluster_name, _NAME, "lower-case letters, digits and -, a letter first")
        if len(self.cluster_name) > 40:
            raise ConfigError(f"cluster_name has at most 40 characters, got {len(self.cluster_name)}; shorten it")
        _must_match("ssh_user", self.ssh_user, re.compile(r"[a-z_][a-z0-9_-]*"), "a Linux account")
        if not self.shared_folder.startswith("/"):
            raise ConfigError(
                f"shared_folder must be an absolute path on the nodes, got {self.shared_folder!r}; begin it with /"
            )


class Cloud(Cluster):
    """The common part of the three clouds: rented nodes, so a price, and one network that SSH comes from."""

    gpu: str
    """The GPU that the workers carry."""
    num_gpu_workers: int | tuple[int, int]
    """Number of GPU nodes, or `[fewest,most]`; the most caps the cost."""
    ssh_address: str
    """The address or CIDR that SSH may come from: yours, or that of the bastion or VPN."""
    python: str = f"python{pins()['python']}"
    """Python on the image; clinscale goes into a virtual environment of its own."""
    wheel_folder: str = "~/.clinscale/wheel"
    """Local folder with clinscale's wheel: `pip wheel --no-deps -w FOLDER .` in its source."""
    idle_minutes: Annotated[int, Field(ge=1)] = 10
    """A worker that has had nothing to do for so long is given back."""
    disk_gb: Annotated[int, Field(ge=50)] = 200
    """Disk of each node: environment, logs, spilled objects."""
    usd_per_hour_head: _Price = None
    """Price of the head; with the workers' price the file states the ceiling."""
    usd_per_hour_worker: _Price = None
    """The most that a worker of any of the types costs."""

    MACHINES: ClassVar[Mapping[str, tuple[Machine, ...]]] = {}

    @property
    def fewest(self) -> int:
        """GPU nodes that are always there."""
        return self.num_gpu_workers if isinstance(self.num_gpu_workers, int) else self.num_gpu_workers[0]

    @property
    def most(self) -> int:
        """GPU nodes that there are never more of."""
        return self.num_gpu_workers if isinstance(self.num_gpu_workers, int) else self.num_gpu_workers[1]

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Types that carry the GPU, the preferred one first."""
        return self.MACHINES[self.gpu]

    def check(self) -> None:
        """The GPU is rented out, and SSH is not open to the world."""
        super().check()
        _must_be_bounds(self.fewest, self.most)
        if self.gpu not in self.MACHINES:
            raise ConfigError(
                f"gpu must be one that is known here, got {self.gpu!r}; {_choices(self.gpu, list(self.MACHINES))}"
            )
        try:
            network = ipaddress.ip_network(self.ssh_address, strict=False)
        except ValueError:
            raise ConfigError(
                f"ssh_address must be an address or CIDR, got {self.ssh_address!r}; give the one that you log in from, "
                "e.g. 203.0.113.7/32"
            ) from None
        if network.prefixlen < 8:
            raise ConfigError(
                f"ssh_address={self.ssh_address} lets the world try to log in; give your own address, e.g. "
                "203.0.113.7/32"
            )


class AwsAnswers(Cloud):
    """`aws`: a cluster on EC2, in your VPC, with an EFS file system."""

    region: str
    """Region of the provider, e.g. us-west-2."""
    zones: _Names
    """Availability zones of that region: the more, the more spot capacity."""
    subnets: _Names
    """Private subnets, one a zone, in the same order."""
    vpc: str
    """The VPC of those subnets."""
    security_group: str
    """A group of your own. Ray's would open SSH to the world: it adds your rules to that one."""
    image: str
    """AMI with an NVIDIA driver, Python and amazon-efs-utils."""
    file_system: str
    """EFS file system with a mount target in each zone."""
    encrypt_mount: bool = True
    """EFS over TLS, for which the image needs amazon-efs-utils; false mounts plain NFS within the VPC."""
    bucket: str | None = None
    """S3 bucket that every node must be able to list, e.g. the one that the corpus comes from."""
    key_name: str = "clinscale-cluster"
    """The EC2 key pair of ssh_private_key."""
    head_profile: str = "clinscale-head"
    """Instance profile of the head, which starts and ends workers; Ray's own would hold all rights on EC2 and S3."""
    worker_profile: str | None = None
    """Instance profile of the workers; they need one for the bucket only."""
    head_machine: str = "m5.2xlarge"
    """Type of the head; it has no GPU and is never spot."""
    head_cpus: Annotated[int, Field(ge=2)] = 8

    MACHINES = AWS_MACHINES

    def check(self) -> None:
        """Check that identifiers are of the right kind, zones are in the region, and each has a subnet."""
        super().check()
        _must_be_known("region", self.region, AWS_REGIONS)
        for name, prefix in [("vpc", "vpc"), ("security_group", "sg"), ("image", "ami"), ("file_system", "fs")]:
            _must_match(name, getattr(self, name), re.compile(rf"{prefix}-[0-9a-f]+"), f"{prefix}-...")
        for subnet in self.subnets:
            _must_match("subnets", subnet, re.compile(r"subnet-[0-9a-f]+"), "subnet-...")
        for zone in self.zones:
            if not re.fullmatch(re.escape(self.region) + "[a-z]", zone):
                raise ConfigError(f"zones: {zone!r} is no zone of {self.region}; write e.g. {self.region}a")
        if len(self.zones) != len(self.subnets):
            raise ConfigError(
                f"zones and subnets come in pairs, got {len(self.zones)} and {len(self.subnets)}; give one subnet for "
                "each zone"
            )


class GcpAnswers(Cloud):
    """`gcp`: a cluster on Compute Engine, in your subnetwork, with a Filestore share."""

    project_id: str
    """Your project; Ray would try to create one that does not exist."""
    region: str
    """Region of the provider, e.g. us-central1."""
    zone: str
    """One zone of it: Ray's launcher knows only one on this cloud."""
    network: str
    """The network of the subnetwork, for the firewall commands; not `default`, which lets SSH in from anywhere."""
    subnetwork: str
    """Name of a subnetwork of the region, with Private Google Access and Cloud NAT."""
    image: str
    """Image with an NVIDIA driver and Python: projects/PROJECT/global/images/NAME."""
    ssh_public_key: str
    """The public half of ssh_private_key, one line."""
    filestore: str
    """Shared storage, ADDRESS:/SHARE of a Filestore instance in the same network."""
    service_account: str
    """Account of the nodes; the head's needs compute.instanceAdmin.v1 and iam.serviceAccountUser."""
    head_machine: str = "n2-standard-8"
    head_cpus: Annotated[int, Field(ge=2)] = 8

    MACHINES = GCP_MACHINES
    FREE = frozenset({"ssh_public_key"})

    def check(self) -> None:
        """The zone is in the region, the network is your own, the key is a public one."""
        super().check()
        _must_be_known("region", self.region, GCP_REGIONS)
        _must_match("project_id", self.project_id, re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]"), "a project id")
        if not re.fullmatch(re.escape(self.region) + "-[a-f]", self.zone):
            raise ConfigError(f"zone {self.zone!r} is no zone of {self.region}; write e.g. {self.region}-a")
        if self.network == "default":
            raise ConfigError("network=default lets SSH in from anywhere; make a network of your own and name it")
        _must_be_public_key(self.ssh_public_key)
        _must_stay("image", self.image)
        _must_be_share("filestore", self.filestore)


class AzureAnswers(Cloud):
    """`azure`: a cluster on Azure virtual machines with an Azure Files share."""

    resource_group: str
    """Group of this cluster only: the head may do everything in it."""
    region: str
    """Location; e.g. westeurope."""
    zones: _Names = Field(default=["1", "2", "3"])
    """Availability zones."""
    subscription_id: str | None = None
    """The default is that of `az account show`."""
    image: str
    """PUBLISHER:OFFER:SKU:VERSION with an NVIDIA driver and Python; not `latest`."""
    azure_files: str
    """Shared storage, ADDRESS:/SHARE of an NFS share of Azure Files with a private endpoint."""
    head_machine: str = "Standard_D8s_v5"
    head_cpus: Annotated[int, Field(ge=2)] = 8

    MACHINES = AZURE_MACHINES
    QUOTED = frozenset({"zones"})

    def check(self) -> None:
        """The location and zones exist, and the image is one version."""
        super().check()
        _must_be_known("region", self.region, AZURE_LOCATIONS)
        for zone in self.zones:
            if zone not in ("1", "2", "3"):
                raise ConfigError(f"zones takes 1, 2 and 3, got {zone!r}; write e.g. zones=1,2")
        _must_match("image", self.image, re.compile(r"[^:]+:[^:]+:[^:]+:[^:]+"), "PUBLISHER:OFFER:SKU:VERSION")
        _must_stay("image", self.image)
        _must_be_share("azure_files", self.azure_files)


class OnPremAnswers(Cluster):
    """`on-prem`: your own hosts, which SSH reaches and which share a folder."""

    num_gpu_workers: Annotated[int, Field(ge=1)] | None = None
    """Number of the workers to use; the default is all."""
    head: str
    """Address of the head, as the workers reach it."""
    workers: _Names
    """Addresses of the workers, split by commas."""
    environment: str = "~/clinscale/venv"
    """Virtual environment with clinscale, at the same path on every host."""
    port: _Port = 6379
    """Port of Ray's control store on the head."""
    object_manager_port: _Port = 8076
    node_manager_port: _Port = 8077
    first_worker_port: _Port = 10100
    last_worker_port: _Port = 10999
    """Processes listen between first and last, so that a firewall can know them."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs of a host that Ray may use; the default is all."""
    object_store_mb: Annotated[int, Field(ge=80)] | None = None
    """Memory for Ray's objects on each host; the default is 30 % of it."""

    @property
    def hosts(self) -> list[str]:
        """The workers that are used."""
        return self.workers[: self.num_gpu_workers]

    def check(self) -> None:
        """Enough hosts, each once, and the head none of the workers."""
        super().check()
        hosts = self.workers
        if odd := [host for host in (self.head, *hosts) if not is_host(host)]:
            raise ConfigError(
                f"head and workers must be names or IPv4 addresses of hosts, without scheme, account or port, got "
                f"{odd[0]!r}; write 10.0.0.1 or node1.example.org"
            )
        if self.num_gpu_workers is not None and len(hosts) < self.num_gpu_workers:
            raise ConfigError(
                f"num_gpu_workers must be at most the number of workers, {len(hosts)}, got {self.num_gpu_workers}; "
                "name more workers, or ask for fewer"
            )
        twice = sorted({host for host in hosts if hosts.count(host) > 1})
        if twice:
            raise ConfigError(f"workers names {', '.join(twice)} more than once; name each host once")
        if self.head in hosts:
            raise ConfigError(f"head {self.head} is among the workers; Ray runs once on a host, so take it out")
        if self.first_worker_port >= self.last_worker_port:
            raise ConfigError(
                f"first_worker_port={self.first_worker_port} must be below last_worker_port={self.last_worker_port}; "
                "swap them, or leave both out"
            )
        self._check_ports()

    def _check_ports(self) -> None:
        """No two parts of Ray listen on one port of a host: it refuses to start."""
        taken = {number: f"Ray's {what}" for number, what in RAY_PORTS.items() if what != "control store"}
        for name in ("port", "object_manager_port", "node_manager_port"):
            number = getattr(self, name)
            if number in taken:
                raise ConfigError(f"{name}={number} is the port of {taken[number]}, too; give it another one")
            taken[number] = name
        if inside := [number for number in taken if self.first_worker_port <= number <= self.last_worker_port]:
            raise ConfigError(
                f"first_worker_port={self.first_worker_port} and last_worker_port={self.last_worker_port} have port "
                f"{inside[0]} of {taken[inside[0]]} between them; move them"
            )


class KuberayAnswers(Answers):
    """`kuberay`: a cluster and two jobs for the KubeRay operator."""

    name: str = "clinscale"
    """Name of the RayCluster; the jobs are NAME-pretrain and NAME-tune."""
    namespace: str = "clinscale"
    image: str
    """Image built from `clinscale cluster render docker`, by tag or digest."""
    num_gpu_workers: tuple[int, int]
    """`[fewest,most]` GPU pods."""
    gpus_per_worker: Annotated[int, Field(ge=1)] = 1
    worker_cpus: Annotated[int, Field(ge=1)] = 8
    worker_memory_gi: Annotated[int, Field(ge=4)] = 48
    head_cpus: Annotated[int, Field(ge=1)] = 4
    head_memory_gi: Annotated[int, Field(ge=4)] = 16
    spot_label: str = "cloud.google.com/gke-spot=true"
    """Label of spot nodes: the head keeps off them, workers want them. Elsewhere: eks.amazonaws.com/capacityType=SPOT,
    kubernetes.azure.com/scalesetpriority=spot."""
    storage_class: str
    """Class of the shared volume; its driver must offer ReadWriteMany."""
    storage_gi: Annotated[int, Field(ge=10)] = 500
    token_secret: str = "clinscale-ray-token"
    """Secret with the token in its key auth_token."""
    operator_namespace: str = "kuberay-system"
    """Namespace in which the KubeRay operator runs: it alone reaches the dashboard from outside the cluster's pods."""
    mlflow: str
    """Address of the team's MLflow server."""
    idle_minutes: Annotated[int, Field(ge=1)] = 10
    hours: Annotated[int, Field(ge=1)] = 72
    """A job that takes longer is ended: with the most workers this caps what is spent."""
    usd_per_hour_worker: _Price = None
    """Highest price of a worker's node."""
    usd_per_hour_head: _Price = None

    FREE = frozenset({"spot_label"})
    QUOTED = frozenset({"mlflow", "spot_label"})

    def check(self) -> None:
        """Kubernetes takes the names, the image is one version, the bounds are in order."""
        super().check()
        for field in ("name", "namespace", "token_secret", "operator_namespace"):
            _must_match(field, getattr(self, field), _NAME, "lower-case letters, digits and -, a letter first")
        longest = 47 - len("-pretrain")
        if len(self.name) > longest:
            raise ConfigError(
                f"name has at most {longest} characters, as a RayJob's has 47, got {len(self.name)}; shorten it"
            )
        _must_have_tag("image", self.image)
        _must_be_bounds(*self.num_gpu_workers)
        if not re.fullmatch(r"https?://[^@]+", self.mlflow):  # without a scheme it is a folder of each pod's own
            raise ConfigError(
                "mlflow must be https://HOST, without a login in it, as the file is copied and committed; give the "
                "address alone, and the login in a Secret"
            )
        _must_match("spot_label", self.spot_label, re.compile(r"[\w./-]+=[\w.-]+"), "KEY=VALUE")

    @property
    def spot(self) -> tuple[str, str]:
        """Key and value of the spot label."""
        key, _, value = self.spot_label.partition("=")
        return key, value


class SlurmAnswers(Answers):
    """`slurm`: a batch script that starts Ray on the nodes of a job; each gives all it has."""

    nodes: Annotated[int, Field(ge=1)] = 2
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of each node; 0 asks for none."""
    hours: Annotated[int, Field(ge=1)] = 24
    """Hours after which the job is queued again and its command continues."""
    partition: str | None = None
    account: str | None = None
    environment: str | None = None
    """Virtual environment with clinscale on the shared file system; the default is what PATH names."""
    shared_folder: str | None = None
    """Folder that all nodes see; the default is where the job is submitted."""

    QUOTED = frozenset({"partition", "account", "environment", "shared_folder"})


class DockerAnswers(Answers):
    """`docker`: the image of Kubernetes and of any host with containers."""

    base: str = f"python:{pins()['python']}-slim-bookworm"
    """Image to start from."""
    torch_index: str | None = None
    """Package index that torch comes from, e.g. https://download.pytorch.org/whl/cpu; PyPI's build is for CUDA."""
    extra: str | None = None
    """An extra of clinscale, e.g. spacy."""

    QUOTED = frozenset({"base", "torch_index", "extra"})

    def check(self) -> None:
        """The base is one version."""
        super().check()
        _must_have_tag("base", self.base)


class MlflowAnswers(Answers):
    """`mlflow`: the team's MLflow server with PostgreSQL, by docker compose."""

    artifacts: str | None = None
    """Place of artifacts: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; the default is a volume of this machine."""
    postgres: str = "postgres:17"
    """Image of the database; its major version stays, since the volume is of that version."""
    port: _Port = 5000
    """Port on loopback; other machines come by a TLS proxy."""
    source: str = "../.."
    """clinscale's source, as seen from the folder of the file."""

    def check(self) -> None:
        """The bucket is one that MLflow opens, the database one version."""
        super().check()
        if self.artifacts is not None and not re.fullmatch(r"(s3|gs)://[a-z0-9._-]+/[\w./-]+", self.artifacts):
            raise ConfigError(
                f"artifacts must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, got {self.artifacts!r}; a prefix keeps "
                "the server's rights to a part of the bucket"
            )
        _must_have_tag("postgres", self.postgres)


def _is_text(text: str) -> bool:
    """Whether all readers of YAML have this very text for the plain word.

    Go's reader, which is that of Kubernetes, takes `y` and `n` for truth values, and `1e3` for a number.
    """
    try:
        read = [*parse_yaml(text, "the answer", dialect="1.1"), *parse_yaml(text, "the answer", dialect="1.2")]
    except ConfigError:
        return False
    return read == [text, text] and text.lower() not in ("y", "n")


def _choices(name: str, known: Sequence[str]) -> str:
    """The likely one, and all of them: here a wrong guess costs money."""
    guess = nearest(name, known)
    return guess if guess.startswith("known") else f"{guess} Known: {', '.join(sorted(known))}"


def _must_be_known(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{field} must be one that is known here, got {value!r}; {_choices(value, known)}")


def _must_match(field: str, value: str, pattern: re.Pattern[str], shape: str) -> None:
    if not pattern.fullmatch(value):
        raise ConfigError(f"{field} must be {shape}, got {value!r}; write it so")


def _must_be_public_key(text: str) -> None:
    if not re.fullmatch(r"(ssh-ed25519|ssh-rsa|ecdsa-\S+) [A-Za-z0-9+/=]+( [\w.@-]+)?", text):
        raise ConfigError(
            "ssh_public_key must be one line as in a .pub file, ssh-ed25519 AAAA... comment, and is not; copy the "
            "whole line of yours"
        )


def _must_be_share(field: str, value: str) -> None:
    _must_match(field, value, re.compile(r"[\w.-]+:/[\w./-]+"), "ADDRESS:/SHARE")


def _must_be_bounds(fewest: int, most: int) -> None:
    if not 0 <= fewest <= most or most < 1:
        raise ConfigError(
            f"num_gpu_workers=[{fewest},{most}] must be the fewest, then the most, at least 1; e.g. [0,4]"
        )


def _must_stay(field: str, value: str) -> None:
    if value.endswith(":latest") or "/family/" in value:
        raise ConfigError(
            f"{field} must be one version, got {value!r}, which moves; name a version, or later nodes will differ"
        )


def _must_have_tag(field: str, value: str) -> None:
    tag = value.rsplit("/", 1)[-1].partition(":")[2]
    if tag in ("", "latest"):
        raise ConfigError(f"{field} must be one version, got {value!r}; name a tag other than latest, or a digest")


KINDS: dict[str, type[Answers]] = {
    "aws": AwsAnswers,
    "azure": AzureAnswers,
    "docker": DockerAnswers,
    "gcp": GcpAnswers,
    "kuberay": KuberayAnswers,
    "mlflow": MlflowAnswers,
    "on-prem": OnPremAnswers,
    "slurm": SlurmAnswers,
}
"""Kind of launch file -> what it asks."""
