"""Checks a file of Ray's cluster launcher: Ray's own schema, and what that lets through."""

import contextlib
import io
import ipaddress
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clinscale.config import nearest
from clinscale.launch import rules
from clinscale.launch.problem import Problem

_ANY = "type use_internal_ips cache_stopped_nodes disable_node_updaters disable_launch_config_check "
_PROVIDERS = {
    "aws": _ANY + "region availability_zone key_pair security_group aws_credentials cloudwatch",
    "gcp": _ANY + "region availability_zone project_id gcp_credentials",
    "azure": _ANY + "location resource_group subscription_id availability_zone unique_id subnet_mask msi_name "
    "msi_resource_group use_external_head_ip tags",
    "local": _ANY + "head_ip worker_ips external_head_ip coordinator_address",
}
"""Keys that the code of each provider reads; Ray's schema takes any."""


def check_launcher(file: str, text: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Every fault of a cluster launcher file; nothing is imported or called that reaches a provider."""
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    provider = config.get("provider")
    kind = str(provider.get("type") or "") if isinstance(provider, Mapping) else ""
    if not isinstance(provider, Mapping) or kind not in _PROVIDERS:
        known = nearest(str(kind), list(_PROVIDERS)) if kind else f"one of {', '.join(_PROVIDERS)}"
        yield Problem(file, "schema", f"provider.type is {kind or None!r}", f"name a provider: {known}")
        return
    yield from _schema(file, config)
    yield from _provider(file, kind, provider)
    if not config.get("cluster_name"):
        yield Problem(
            file,
            "cluster name",
            "no cluster_name",
            "name it: without one two clusters are both `default` and collide",
        )
    yield from _file_mounts(file, config)
    yield from _commands(file, kind, config)
    yield from _containers(file, config)
    if kind == "local":
        yield from _hosts(file, provider)
    else:
        yield from _spending(file, kind, config, provider)
        yield from _nodes(file, kind, config, provider)


def _schema(file: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """All problems for which `ray up` itself would refuse a file."""
    import click
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = {}
    said = io.StringIO()
    silent = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Ray logs which defaults it fills in
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            prepared = prepare_config(json.loads(json.dumps(config)))
            validate_config(prepared)
    except jsonschema.ValidationError:
        schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
        for error in jsonschema.Draft7Validator(schema).iter_errors(prepared):
            place = ".".join(map(str, error.absolute_path)) or "the file"
            yield Problem(
                file, "schema", f"{place}: {_sentence(error, schema)}", "see Ray's cluster YAML reference"
            )
    except (
        click.ClickException,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        RuntimeError,
    ) as error:
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error) or said.getvalue()).split())
        yield Problem(
            file,
            "schema",
            f"{type(error).__name__}: {reason[:200]}",
            "`ray up` refuses this file; fix that place",
        )
    finally:
        logging.disable(silent)


def _sentence(error: Any, schema: Mapping[str, Any]) -> str:
    """The validator's sentence, with the likely key when one is unknown."""
    if error.validator != "additionalProperties":
        return str(error.message)[:160]
    known = list(error.schema.get("properties", {}))
    unknown = [key for key in error.instance if key not in known]
    return "; ".join(f"unknown key {key}, {nearest(key, known)}" for key in unknown)


def _provider(file: str, kind: str, provider: Mapping[str, Any]) -> Iterator[Problem]:
    known = _PROVIDERS[kind].split()
    for key in provider:
        if key not in known:
            yield Problem(file, "provider key", f"provider.{key} is read by nobody", nearest(str(key), known))
    needed = {"aws": ["region"], "gcp": ["project_id", "region", "availability_zone"], "azure": ["resource_group"]}
    for key in needed.get(kind, []):
        if not provider.get(key):
            yield Problem(file, "provider key", f"no provider.{key}", f"give provider.{key}")


def _hosts(file: str, provider: Mapping[str, Any]) -> Iterator[Problem]:
    if "coordinator_address" in provider or not isinstance(provider.get("worker_ips"), list):
        return
    workers, head = provider["worker_ips"], provider.get("head_ip")
    if not workers:
        yield Problem(file, "hosts", "worker_ips is empty", "name at least one worker")
    for host in sorted({str(host) for host in workers if workers.count(host) > 1}):
        yield Problem(file, "hosts", f"worker_ips names {host} more than once", "name each host once")
    for host in (head, *workers):
        if not rules.is_host(str(host)):
            mend = "write its name or IPv4 address alone, without scheme, account or port"
            yield Problem(file, "hosts", f"{host} is no host", mend)
    if head in workers:
        yield Problem(file, "hosts", f"head_ip {head} is among worker_ips", "take it out: Ray runs once on a host")


def _file_mounts(file: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    mounts = config.get("file_mounts")
    mounts = mounts if isinstance(mounts, Mapping) else {}
    for remote, local in mounts.items():
        path = Path(str(local)).expanduser()
        if not path.exists():
            yield Problem(
                file,
                "file mount",
                f"{local} (for {remote}) does not exist here",
                "make it, or name the right folder",
            )
        elif str(remote).rstrip("/").endswith("/.ray"):
            token = path / "auth_token"
            if not token.is_file() or not token.stat().st_size:
                yield Problem(
                    file, "token", f"{local} holds no auth_token", "write the token there, without a newline"
                )
            for place, mode in [(path, "700"), (token, "600")]:
                if place.exists() and place.stat().st_mode & 0o077:
                    found = f"{place} is open to others (mode {place.stat().st_mode & 0o777:03o})"
                    yield Problem(file, "token", found, f"chmod {mode} it, before it is copied with that mode")
    commands = " ".join(map(str, _lists(config, "head_start_ray_commands")))
    if (
        not any(str(remote).rstrip("/").endswith("/.ray") for remote in mounts)
        and "RAY_AUTH_TOKEN_PATH" not in commands
    ):
        yield Problem(
            file,
            "token",
            "nothing brings the token to the nodes",
            'write file_mounts: {"~/.ray": FOLDER}, with the token in FOLDER/auth_token',
        )


def _commands(file: str, kind: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        if key not in config and (kind != "local" or key != "setup_commands"):
            yield Problem(
                file,
                "default commands",
                f"no {key}",
                "give the list: the provider's own installs a nightly Ray, opens the dashboard and asks for no token",
            )
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        yield from rules.ray_commands(file, _lists(config, key), key)
    setup = "\n".join(_lists(config, "setup_commands") + _lists(config, "initialization_commands"))
    if not re.search(r"\bmount(point|\.\w+)?\b|/\.probe-|\btest -[dw] ", setup):
        yield Problem(
            file,
            "shared storage",
            "no setup command mounts or tests it",
            "mount a file system that all nodes see, and test it: a checkpoint on one node's disk is lost with it",
        )


def _containers(file: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    docker = config.get("docker")
    if not isinstance(docker, Mapping):
        return
    for key in ("image", "head_image", "worker_image"):
        if key in docker:
            yield from rules.image(file, f"docker.{key}", docker[key])
    for key in ("run_options", "head_run_options", "worker_run_options"):
        options = " ".join(_lists(docker, key))
        if re.search(r"--privileged(?!=false)|--cap-add[= ](ALL|SYS_ADMIN)", options):
            yield Problem(file, "privileged container", f"docker.{key}: {options[:60]}", "leave --privileged out")
        for port in re.findall(r"(?:-p|--publish)[= ](\S+)", options):
            yield from rules.published(file, f"docker.{key}", port)


def _spending(file: str, kind: str, config: Mapping[str, Any], provider: Mapping[str, Any]) -> Iterator[Problem]:
    if "max_workers" not in config:
        yield Problem(file, "spend cap", "no max_workers", "give it: it caps what is rented")
    idle = config.get("idle_timeout_minutes")
    if not isinstance(idle, (int, float)) or not idle <= 240:  # nan is neither
        found = "no idle_timeout_minutes" if idle is None else f"idle_timeout_minutes is {idle}"
        yield Problem(file, "idle shutdown", found, "give idle_timeout_minutes: 10, at most 240")
    if provider.get("cache_stopped_nodes", kind != "gcp"):
        found = "is true" if "cache_stopped_nodes" in provider else "is not given, and true by default"
        mend = "write cache_stopped_nodes: false; stopped nodes cost their disks, with what is on them"
        yield Problem(file, "stopped nodes", f"provider.cache_stopped_nodes {found}", mend)


def _nodes(file: str, kind: str, config: Mapping[str, Any], provider: Mapping[str, Any]) -> Iterator[Problem]:
    if provider.get("use_internal_ips") is not True:
        yield Problem(
            file,
            "public address",
            "provider.use_internal_ips is not true",
            "write use_internal_ips: true, and launch from where the nodes are reached (VPN, peering, a host there)",
        )
    types = config.get("available_node_types")
    types = {
        str(name): entry["node_config"]
        for name, entry in (types.items() if isinstance(types, Mapping) else [])
        if isinstance(entry, Mapping) and isinstance(entry.get("node_config"), Mapping)
    }
    head = types.get(str(config.get("head_node_type")), {})
    if _is_spot(kind, head):
        yield Problem(
            file,
            "head on spot",
            f"{config.get('head_node_type')} is a spot node",
            "rent the head on demand: the cluster ends with it",
        )
    yield from {"aws": _aws, "gcp": _gcp, "azure": _azure}[kind](file, provider, types, head)


def _is_spot(kind: str, node: Mapping[str, Any]) -> bool:
    if kind == "aws":
        return "spot" in str(node.get("InstanceMarketOptions", "")).lower()
    if kind == "gcp":
        return bool(re.search(r"'preemptible': True|'SPOT'", str(node.get("scheduling", ""))))
    return "spot" in str(_mapping(node, "azure_arm_parameters").get("priority", "")).lower()


def _aws(
    file: str, provider: Mapping[str, Any], types: Mapping[str, Any], head: Mapping[str, Any]
) -> Iterator[Problem]:
    for rule in _rules(_mapping(provider, "security_group")):
        for cidr in re.findall(r"'Cidr(?:Ip|Ipv6)': '([^']+)'", str(rule)):
            if _is_world(cidr):
                yield Problem(
                    file,
                    "open to the world",
                    f"provider.security_group lets in {cidr} on ports {rule.get('FromPort')} to {rule.get('ToPort')}",
                    "let in your own address only",
                )
    for name, node in types.items():
        if not node.get("SecurityGroupIds") and not node.get("NetworkInterfaces"):
            yield Problem(
                file,
                "open to the world",
                f"{name} has no SecurityGroupIds, and the group that Ray makes lets in SSH from 0.0.0.0/0",
                "make a group that lets in SSH from your address only and name it in SecurityGroupIds; "
                "provider.security_group only adds to Ray's rules",
            )
    if head and not head.get("IamInstanceProfile"):
        yield Problem(
            file,
            "head's rights",
            "the head has no IamInstanceProfile, so Ray gives it all rights on EC2 and S3",
            "name a profile that may run and end instances only",
        )


def _gcp(
    file: str, provider: Mapping[str, Any], types: Mapping[str, Any], head: Mapping[str, Any]
) -> Iterator[Problem]:
    for name, node in types.items():
        interfaces = node.get("networkInterfaces")
        if not interfaces or "accessConfigs" in str(interfaces):
            yield Problem(
                file,
                "public address",
                f"{name} has {'accessConfigs' if interfaces else 'no networkInterfaces, so a public address'}",
                "write networkInterfaces with your subnetwork and without accessConfigs",
            )
        if re.search(r"(sub)?networks/default\b", str(interfaces)):
            yield Problem(
                file,
                "open to the world",
                f"{name} is on the default network, which lets in SSH from 0.0.0.0/0",
                "use a network of your own, with a firewall rule for your address",
            )


def _azure(
    file: str, provider: Mapping[str, Any], types: Mapping[str, Any], head: Mapping[str, Any]
) -> Iterator[Problem]:
    if provider.get("use_external_head_ip"):
        yield Problem(
            file,
            "open to the world",
            "provider.use_external_head_ip is true, and the security group that Ray makes lets in SSH from everywhere",
            "write false, and reach the head by peering or VPN",
        )
    for name, node in types.items():
        if str(_mapping(node, "azure_arm_parameters").get("imageVersion", "")).lower() == "latest":
            yield Problem(
                file,
                "unpinned image",
                f"{name} has imageVersion: latest",
                "name one version: nodes that come later differ",
            )


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _rules(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rules_in = group.get("IpPermissions")
    return [rule for rule in rules_in if isinstance(rule, Mapping)] if isinstance(rules_in, list) else []


def _is_world(cidr: str) -> bool:
    try:
        return ipaddress.ip_network(cidr, strict=False).prefixlen < 8
    except ValueError:
        return False


def _lists(config: Mapping[str, Any], key: str) -> list[str]:
    value = config.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []
