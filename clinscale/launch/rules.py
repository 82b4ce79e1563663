"""Rules that hold for launch files of every kind: secrets, versions, Ray's commands, images, published ports."""

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clinscale.launch.problem import Problem
from clinscale.launch.versions import is_supported_python, pins

RAY_PORTS = {6379: "control store", 8265: "dashboard", 10001: "client server", 52365: "agent"}
"""Ports of Ray that take commands from anyone who reaches them."""

_LITERAL = r"[\"']?(?![\"'$<{(*]|/run/|\s)[^\s\"'$]{4,}"
_SECRETS = {
    "a token or password": re.compile(
        rf"(?i)\b\w*(?:auth_token|password|passwd|secret_access_key|secret_key|api_key)[\"']?\s*[:=] ?{_LITERAL}"
    ),
    "an AWS access key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in an address": re.compile(r"://[^\s/:@$]+:[^\s/:@$]+@"),
    "a long hexadecimal word, as tokens are": re.compile(r"(?<!sha256:)(?<![\w-])[0-9a-f]{40,}(?![\w-])"),
}
_SAME_COMMAND = r"(?:(?!\n\s*(?:- |[A-Z]+ |\w+:))[^;&|])"
"""Any character up to the next command, item of a list, key or instruction."""
_HOST_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def is_host(text: str) -> bool:
    """Whether Ray and SSH both take `text` for a host: a name or an IPv4 address, without scheme, account or port."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.IPv4Address(text))
    labels = text.removesuffix(".").split(".")
    # what ends in digits is an address that is none, not a name
    return not labels[-1].isdigit() and all(re.fullmatch(_HOST_LABEL, label) for label in labels)


def secrets(file: str, text: str) -> Iterator[Problem]:
    """Secrets that are in the file itself, where they are copied, cached and committed."""
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in _SECRETS.items():
            if pattern.search(line):
                yield Problem(
                    file,
                    "secret in the file",
                    f"line {number} holds {what}",
                    "keep it in a file (0600) or Secret of its own, name that one here, and replace the secret",
                )
                break


def versions(file: str, text: str) -> Iterator[Problem]:
    """Versions that differ from this clinscale's, or are left open; Ray's nodes must all have the same."""
    known = pins()
    bare = "\n".join(line.partition(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    wheel = r"clinscale-([0-9][\w.]*?)-py3"
    patterns = {
        "ray": [r"(?<![\w/.-])ray(?:\[[\w,]*\])?==([\w.]+)", r"rayproject/ray(?:-ml)?:([0-9][0-9.]*[0-9])"],
        "torch": [r"(?<![\w-])torch==([\w.]+)"],
        "clinscale": [r"(?<![\w/-])clinscale==([\w.]+)", wheel],
    }
    for name, tried in patterns.items():
        for found in sorted({match for pattern in tried for match in re.findall(pattern, bare)} - {known[name]}):
            yield Problem(
                file,
                "version",
                f"{name} {found}",
                f"this clinscale runs {name} {known[name]}; write that, or render anew",
            )
    for found in sorted(set(re.findall(r"\bpython[:=]?(3\.[0-9]+)", bare))):
        if not is_supported_python(found):
            yield Problem(file, "version", f"Python {found}", f"use Python {known['python']}")
    for name in ("ray", "torch", "clinscale"):
        if re.search(rf"pip3? install{_SAME_COMMAND}*?\s[\"']?{name}(\[[\w,]*\])?[\"']?(\s(?!@)|$)", bare):
            yield Problem(file, "version", f"pip takes any {name}", f"pin it: {name}=={known[name]}")
    if match := re.search(r"ray-wheels/\S+|\bray-3\.0\.0\.dev0\S*|rayproject/\S*nightly\S*", bare):
        yield Problem(file, "nightly Ray", match[0][:60], f"install ray=={known['ray']}")


def ray_commands(file: str, commands: Iterable[str], where: str = "") -> Iterator[Problem]:
    """Each `ray start` asks for the token, keeps the dashboard on loopback and does not announce it."""
    for command in commands:
        for start in re.findall(r"[^;&|\n]*\bray(?: |\.\w+ )start\b[^;&|\n]*", command):
            line = f"{where}: {_short(start)}" if where else _short(start)
            if not re.search(r"\bRAY_AUTH_MODE=[\"']?token\b", start):
                yield Problem(
                    file,
                    "token",
                    f"{line} does not set RAY_AUTH_MODE=token",
                    "write it before `ray start`: without it anyone who reaches a port of Ray runs commands",
                )
            if "RAY_USAGE_STATS_ENABLED=0" not in start and "--disable-usage-stats" not in start:
                yield Problem(
                    file,
                    "telemetry",
                    f"{line} reports its use",
                    "write RAY_USAGE_STATS_ENABLED=0 before `ray start`",
                )
            if "--head" in start.split():
                host = re.search(r"--dashboard-host[= ]([^\s]+)", start)
                if not host or host[1].strip("\"'") not in _LOOPBACK:
                    yield Problem(
                        file,
                        "public dashboard",
                        f"{line} has {host[0] if host else 'no --dashboard-host'}",
                        "write --dashboard-host=127.0.0.1 and come by `ray dashboard`, which tunnels by SSH",
                    )
            folder = re.search(r"--temp-dir[= ](\S+)", start)
            if not folder:
                yield Problem(
                    file,
                    "session folder",
                    f"{line} has no --temp-dir",
                    "name a folder inside a 0700 one: Ray's own, with rows of notes, is open to the host's accounts",
                )
            elif len(folder[1]) > 44:
                yield Problem(
                    file,
                    "name too long",
                    f"--temp-dir has {len(folder[1])} characters",
                    "use at most 44: the paths of Ray's sockets below it may not exceed 107",
                )


def image(file: str, where: str, name: Any) -> Iterator[Problem]:
    """An image is one version."""
    text = str(name)
    tag = text.rsplit("/", 1)[-1].partition(":")[2]
    if "@sha256:" not in text and (tag in ("", "latest") or "nightly" in tag):
        yield Problem(
            file,
            "unpinned image",
            f"{where} is {text}",
            "name one version by its tag or digest: nodes that come later differ",
        )


def published(file: str, where: str, port: Any) -> Iterator[Problem]:
    """A port `[ADDRESS:][HOST:]CONTAINER` of a container is published on loopback only."""
    if isinstance(port, Mapping):
        address, inner = str(port.get("host_ip", "")), str(port.get("target", ""))
    else:
        outer, _, inner = str(port).partition("/")[0].rpartition(":")
        address = outer.rpartition(":")[0].strip("[]")
    if address not in _LOOPBACK:
        what = RAY_PORTS.get(int(inner)) if str(inner).isdigit() else None
        yield Problem(
            file,
            "published port",
            f"{where} publishes {port}" + (f", Ray's {what}" if what else ""),
            "write 127.0.0.1: before it, and let others come by SSH or a TLS proxy",
        )


def _short(command: str) -> str:
    """The command, shortened; what it sets may be secret and is not shown."""
    words = [word for word in command.split() if "=" not in word or word.startswith("--")]
    return " ".join(words)[:60]
