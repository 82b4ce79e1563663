"""Checks Kubernetes manifests for KubeRay: its schema, what the operator refuses later, and what leaks or costs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.launch import rules
from clinscale.launch.problem import Problem
from clinscale.launch.versions import pins

_LEAST_MEMORY = 2**20
"""Bytes below which no container starts."""
_LONGEST = {"RayCluster": 53, "RayJob": 47}
_MODES = ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
_SPOT = re.compile(r"gke-spot|gke-preemptible|capacityType|capacity-type|scalesetpriority|spot", re.IGNORECASE)


def check_kubernetes(
    file: str, text: str, documents: Sequence[Mapping[str, Any]], crds: Path | None
) -> Iterator[Problem]:
    """Every fault of a file of manifests; without `crds` their schema is not looked at.

    Raises:
        ConfigError: `crds` is no folder with the definitions that the file needs.
    """
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    schemas = _schemas(crds, {str(document.get("kind")) for document in documents}) if crds else {}
    kinds = [document.get("kind") for document in documents]
    for document in documents:
        kind = str(document.get("kind"))
        name = str(_below(document, "metadata").get("name", ""))
        where = f"{kind} {name or '(no name)'}"
        if kind in schemas:
            yield from _against_schema(file, where, document, schemas[kind])
        if kind == "Secret" and (document.get("data") or document.get("stringData")):
            yield Problem(
                file,
                "secret in the file",
                f"{where} holds its data",
                "leave it out, and make it by kubectl create secret generic NAME --from-file=auth_token",
            )
        elif kind == "Service":
            yield from _service(file, where, _below(document, "spec").get("type"))
        elif kind in _LONGEST:
            if len(name) > _LONGEST[kind] or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
                yield Problem(
                    file,
                    "name too long" if len(name) > _LONGEST[kind] else "name",
                    f"{where} ({len(name)} characters)",
                    f"use at most {_LONGEST[kind]} lower-case letters, digits and -, a letter first",
                )
            spec = _below(document, "spec")
            if kind == "RayJob":
                yield from _job(file, where, spec)
            cluster = spec if kind == "RayCluster" else spec.get("rayClusterSpec")
            if isinstance(cluster, Mapping):
                yield from _cluster(file, where, cluster, is_job=kind == "RayJob")
    if "RayCluster" in kinds and "NetworkPolicy" not in kinds:
        yield Problem(
            file,
            "open to the cluster",
            "no NetworkPolicy beside the RayCluster",
            "add one that lets in Ray's own pods and, on port 8265, the operator",
        )


def _job(file: str, where: str, spec: Mapping[str, Any]) -> Iterator[Problem]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield Problem(file, "submission mode", f"{where} has submissionMode {mode!r}", nearest(str(mode), _MODES))
    if not spec.get("entrypoint") and mode != "InteractiveMode":
        yield Problem(file, "entrypoint", f"{where} has none", "give entrypoint: the command to run")
    own, chosen = "rayClusterSpec" in spec, "clusterSelector" in spec
    if own == chosen:
        found = f"{where} has {'both' if own else 'neither of'} rayClusterSpec and clusterSelector"
        yield Problem(file, "cluster of the job", found, "give one of them")
    if chosen and "backoffLimit" in spec:
        yield Problem(
            file, "cluster of the job", f"{where} has backoffLimit and clusterSelector", "leave backoffLimit out"
        )
    if own and spec.get("shutdownAfterJobFinishes") is not True:
        yield Problem(
            file,
            "idle shutdown",
            f"{where} keeps its cluster when it has ended",
            "write shutdownAfterJobFinishes: true and ttlSecondsAfterFinished: 600",
        )
    deadline_s = spec.get("activeDeadlineSeconds")
    if not isinstance(deadline_s, int) or deadline_s < 1:
        yield Problem(
            file, "spend cap", f"{where} may run for ever", "give activeDeadlineSeconds: the longest it may take"
        )


def _cluster(file: str, where: str, spec: Mapping[str, Any], *, is_job: bool) -> Iterator[Problem]:
    ray = pins()["ray"]
    auth = _below(spec, "authOptions")
    if auth.get("mode") != "token":
        yield Problem(
            file,
            "token",
            f"{where} has {'authOptions.mode ' + repr(auth.get('mode')) if auth else 'no authOptions'}",
            "write authOptions: {mode: token, secretName: NAME}",
        )
    if auth.get("enableK8sTokenAuth") and (is_job or auth.get("secretName")):
        other = "is a RayJob" if is_job else "has secretName"
        yield Problem(file, "token", f"{where} has enableK8sTokenAuth and {other}", "leave enableK8sTokenAuth out")
    if spec.get("rayVersion") != ray:
        yield Problem(
            file,
            "version",
            f"{where} has rayVersion {spec.get('rayVersion')!r}",
            f'write rayVersion: "{ray}", as this clinscale has; the operator asks for it where there is a token',
        )
    for field in ("networkPolicy", "tlsOptions"):
        if field in spec:
            yield Problem(
                file,
                "alpha field",
                f"{where} has {field}, which an operator with default feature gates refuses",
                "leave it out" + ("; a plain NetworkPolicy does the same" if field == "networkPolicy" else ""),
            )
    scales = spec.get("enableInTreeAutoscaling") is True
    head = _below(spec, "headGroupSpec")
    yield from _service(file, where, head.get("serviceType"))
    yield from _service(file, where, _below(head, "headService", "spec").get("type"))
    if head.get("enableIngress") or head.get("ingressOptions"):
        yield Problem(
            file,
            "public dashboard",
            f"{where} has an ingress for the head",
            "leave it out and use kubectl port-forward",
        )
    if _on_spot(_below(head, "template", "spec")):
        yield Problem(
            file,
            "head on spot",
            f"{where} lets its head run on spot nodes",
            "keep it off them by an affinity with operator NotIn: the cluster ends with it",
        )
    yield from _pod(file, f"{where} head", _below(head, "template", "spec"), is_head=True)
    for group in _list(spec, "workerGroupSpecs"):
        name = f"{where} group {group.get('groupName', '?')}"
        least, most = group.get("minReplicas"), group.get("maxReplicas")
        if isinstance(least, int) and isinstance(most, int) and least > most:
            yield Problem(
                file, "replicas", f"{name} has minReplicas {least} above maxReplicas {most}", "turn them round"
            )
        if not isinstance(most, int):
            yield Problem(file, "spend cap", f"{name} has no maxReplicas", "give it: it caps what is rented")
        if not scales and (not is_job or least != most):
            yield Problem(
                file,
                "idle shutdown",
                f"{name} never shrinks",
                "write enableInTreeAutoscaling: true and autoscalerOptions.idleTimeoutSeconds",
            )
        yield from _pod(file, name, _below(group, "template", "spec"), is_head=False)


def _pod(file: str, where: str, pod: Mapping[str, Any], *, is_head: bool) -> Iterator[Problem]:
    volumes = _list(pod, "volumes")
    if not any({"persistentVolumeClaim", "nfs", "csi"} & volume.keys() for volume in volumes):
        yield Problem(
            file,
            "shared storage",
            f"{where} mounts none",
            "mount a ReadWriteMany claim: a checkpoint on one pod's disk is lost with it",
        )
    if pod.get("hostNetwork") or pod.get("hostPID") or any("hostPath" in volume for volume in volumes):
        yield Problem(
            file, "privileged container", f"{where} shares the node's network, processes or disk", "leave that out"
        )
    for number, container in enumerate(_list(pod, "containers")):
        name = f"{where} container {container.get('name', '?')}"
        yield from rules.image(file, name, container.get("image", "(none)"))
        own, pods = _below(container, "securityContext"), _below(pod, "securityContext")
        if own.get("privileged"):
            yield Problem(file, "privileged container", f"{name} is privileged", "leave privileged out")
        if own.get("allowPrivilegeEscalation") is not False:
            yield Problem(
                file,
                "privileged container",
                f"{name} may gain rights",
                "write securityContext: {allowPrivilegeEscalation: false}",
            )
        if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
            yield Problem(
                file,
                "privileged container",
                f"{name} may run as root",
                "write securityContext: {runAsNonRoot: true}",
            )
        yield from _quantities(file, name, _below(container, "resources"))
        if not _below(container, "resources").get("requests"):
            yield Problem(
                file,
                "resources",
                f"{name} requests none",
                "give resources.requests: Ray and the scheduler go by them",
            )
        environment = {str(entry.get("name")): entry for entry in _list(container, "env")}
        if "value" in environment.get("RAY_AUTH_TOKEN", {}):
            yield Problem(
                file,
                "secret in the file",
                f"{name} has the token as a value",
                "leave it out: authOptions.secretName brings the token",
            )
        if number == 0 and environment.get("RAY_USAGE_STATS_ENABLED", {}).get("value") != "0":
            yield Problem(
                file,
                "telemetry",
                f"{name} reports its use",
                'write env: {name: RAY_USAGE_STATS_ENABLED, value: "0"}',
            )
        for port in _list(container, "ports"):
            if "hostPort" in port:
                yield Problem(
                    file,
                    "published port",
                    f"{name} opens port {port['hostPort']} of its node",
                    "leave hostPort out",
                )


def _quantities(file: str, where: str, resources: Mapping[str, Any]) -> Iterator[Problem]:
    """Amounts are quantities of Kubernetes, memory is no handful of bytes, and a limit allows what is requested."""
    for part in ("requests", "limits"):
        for resource, amount in _below(resources, part).items():
            found, value = f"{where} {part} {resource}: {amount}", _amount(amount)
            if value is None:
                yield Problem(
                    file,
                    "resources",
                    found,
                    "write memory as 64Gi or 64G, and CPUs as 8 or 500m; not GB, g, or a blank",
                )
            elif resource == "memory" and value < _LEAST_MEMORY:
                yield Problem(
                    file,
                    "resources",
                    f"{found} ({value:g} bytes)",
                    "write 64Gi: without a unit it is bytes, m thousandths",
                )
    requests, limits = _below(resources, "requests"), _below(resources, "limits")
    for resource in sorted(requests.keys() & limits.keys()):
        asked, most = _amount(requests[resource]), _amount(limits[resource])
        if asked is not None and most is not None and asked > most:
            found = f"{where} requests {resource} {requests[resource]} above its limit {limits[resource]}"
            yield Problem(file, "resources", found, "raise the limit: such a pod is never made")


def _amount(quantity: Any) -> float | None:
    """A quantity of Kubernetes as a number; None of what is none."""
    match = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([KMGTPE]i|[numkMGTPE])?", str(quantity))
    if match is None or isinstance(quantity, bool):
        return None
    unit = match[2] or ""
    thousands = {"n": -3, "u": -2, "m": -1, "": 0}.get(unit)
    if thousands is None:
        thousands = "kMGTPE".index(unit[0].replace("K", "k")) + 1
    return float(match[1]) * float(1024 if unit.endswith("i") else 1000) ** thousands


def _service(file: str, where: str, kind: Any) -> Iterator[Problem]:
    if kind in ("NodePort", "LoadBalancer"):
        yield Problem(
            file,
            "public dashboard",
            f"{where} is a service of type {kind}",
            "write ClusterIP and use kubectl port-forward",
        )


def _on_spot(pod: Mapping[str, Any]) -> bool:
    """Whether a pod wants or tolerates spot nodes."""
    for toleration in _list(pod, "tolerations"):
        if _SPOT.search(f"{toleration.get('key')}={toleration.get('value')}"):
            return True
    for key, value in _below(pod, "nodeSelector").items():
        if _SPOT.search(f"{key}={value}") and "ON_DEMAND" not in str(value):
            return True
    required = _below(pod, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    for term in _list(required, "nodeSelectorTerms"):
        for expression in _list(term, "matchExpressions"):
            wanted = f"{expression.get('key')}={expression.get('values')}"
            if expression.get("operator") == "In" and _SPOT.search(wanted) and "ON_DEMAND" not in wanted:
                return True
    return False


def _below(document: Any, *path: str) -> Mapping[str, Any]:
    """The mapping below `path`, empty where there is none."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def _list(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The mappings of a list, none where there is no list."""
    value = document.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _schemas(crds: Path, kinds: set[str]) -> dict[str, Any]:
    """JSON schemas of those of `kinds` that are KubeRay's."""
    if not crds.is_dir():
        raise ConfigError(
            f"--crds {crds} is no folder; save `kubectl get crd rayclusters.ray.io -o yaml` into one"
        )
    wanted = kinds & _LONGEST.keys()
    found: dict[str, Any] = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a definition has a megabyte
    for path in sorted(crds.glob("*.y*ml")):
        if not any(f"kind: {kind}\n" in path.read_text() for kind in wanted):
            continue
        try:
            definition = yaml.load(path.read_text(), Loader=loader)
        except yaml.YAMLError:
            raise ConfigError(f"{path} is not YAML; save it again with `kubectl get crd NAME -o yaml`") from None
        spec = _below(definition, "spec")
        kind = str(_below(spec, "names").get("kind"))
        for version in spec.get("versions") or []:
            if kind in wanted and version.get("name") == "v1":
                found[kind] = _translated(version["schema"]["openAPIV3Schema"]) | {
                    "required": ["apiVersion", "kind", "metadata", "spec"]
                }
    if missing := sorted(wanted - found.keys()):
        plural = missing[0].lower() + "s"
        raise ConfigError(
            f"--crds {crds} holds no definition of {missing[0]}; save `kubectl get crd {plural}.ray.io -o yaml` there"
        )
    return found


def _translated(node: Any) -> Any:
    """A Kubernetes structural schema as a plain JSON schema that refuses keys which an API server drops silently."""
    if isinstance(node, list):
        return [_translated(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    schema = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-")}
    for key in ("properties",):
        if key in schema:
            schema[key] = {name: _translated(value) for name, value in schema[key].items()}
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
        if key in schema:
            schema[key] = _translated(schema[key])
    if node.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        text = {"type": "string"} | ({"pattern": schema.pop("pattern")} if "pattern" in schema else {})
        schema["anyOf"] = [{"type": "integer"}, text]
    if node.get("nullable") and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if "properties" in node:
        if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            schema["additionalProperties"] = False
        # the API server fills in a default before it asks for what is required
        filled = {name for name, value in node["properties"].items() if "default" in value}
        if "required" in node:
            schema["required"] = [name for name in node["required"] if name not in filled]
    schema.pop("format", None)
    return schema


def _against_schema(file: str, where: str, document: Mapping[str, Any], schema: Any) -> Iterator[Problem]:
    import jsonschema

    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        place = ".".join(map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in [key for key in error.instance if key not in known]:
                mend = nearest(str(key), known)
                yield Problem(
                    file,
                    "schema",
                    f"{where}: {place + '.' if place else ''}{key} is not known",
                    mend if mend.startswith("did") else "an API server would drop it silently; leave it out",
                )
        else:
            yield Problem(
                file,
                "schema",
                f"{where}: {place}: {error.message[:160]}",
                "the API server refuses it; fix that place",
            )
