"""Checks a Dockerfile, and a compose file."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from clinscale.launch import rules
from clinscale.launch.problem import Problem


def check_dockerfile(file: str, text: str) -> Iterator[Problem]:
    """Every fault of a Dockerfile."""
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    instructions = [
        (word.upper(), rest.strip())
        for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
        for word, _, rest in [line.strip().partition(" ")]
        if word
    ]
    stages: set[str] = set()
    user, environment = "root", ""
    for word, rest in instructions:
        if word == "FROM":
            words = [part for part in rest.split() if not part.startswith("--")]
            if words and words[0] not in stages:
                yield from rules.image(file, "FROM", words[0])
            if len(words) > 2:
                stages.add(words[2])
            user = "root"
        elif word == "USER":
            user = rest.split(":")[0]
        elif word == "ENV":
            environment += f"{rest} "
        elif word == "EXPOSE":
            for port in re.findall(r"\d+", rest):
                if int(port) in rules.RAY_PORTS:
                    what = rules.RAY_PORTS[int(port)]
                    yield Problem(file, "published port", f"EXPOSE {port}, Ray's {what}", "leave it out")
        elif word in ("CMD", "ENTRYPOINT", "RUN"):
            command = " ".join(re.sub(r'[\[\]",]', " ", rest).split())
            yield from rules.ray_commands(file, [environment + command], word)
    if user in ("root", "0"):
        yield Problem(
            file, "privileged container", "it runs as root", "end with USER and an account that has no rights"
        )
    if "ray" in text and not re.search(r"RAY_USAGE_STATS_ENABLED[= ]\"?0", text):
        yield Problem(file, "telemetry", "Ray reports its use", "write ENV RAY_USAGE_STATS_ENABLED=0")


def check_compose(file: str, text: str, compose: Mapping[str, Any]) -> Iterator[Problem]:
    """Every fault of a compose file."""
    yield from rules.secrets(file, text)
    yield from rules.versions(file, text)
    services = compose.get("services")
    if not isinstance(services, Mapping):
        yield Problem(file, "schema", "services is no mapping", "write services: {NAME: {...}}")
        return
    for name, service in services.items():
        if not isinstance(service, Mapping):
            yield Problem(file, "schema", f"service {name} is no mapping", "write its keys below it")
            continue
        if "image" in service:
            yield from rules.image(file, f"service {name}", service["image"])
        elif "build" not in service:
            yield Problem(file, "schema", f"service {name} has no image and no build", "give one of them")
        build = service.get("build")
        inline = str(build.get("dockerfile_inline", "")) if isinstance(build, Mapping) else ""
        for base in re.findall(r"^FROM (\S+)", inline, re.MULTILINE):
            yield from rules.image(file, f"service {name} FROM", base)
        ports = service.get("ports")
        for port in ports if isinstance(ports, list) else []:
            yield from rules.published(file, f"service {name}", port)
        if service.get("privileged") or service.get("network_mode") == "host":
            yield Problem(
                file,
                "privileged container",
                f"service {name} is privileged or on the host's network",
                "leave privileged and network_mode: host out",
            )
        command = service.get("command") or ""
        words = command if isinstance(command, list) else [command]
        given = service.get("environment")
        pairs = [f"{key}={value}" for key, value in given.items()] if isinstance(given, Mapping) else given
        yield from rules.ray_commands(
            file, [" ".join(map(str, [*(pairs if isinstance(pairs, list) else []), *words]))], f"service {name}"
        )
