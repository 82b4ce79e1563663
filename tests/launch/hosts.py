"""Test hosts: namespaces of this machine that are separate machines to ssh, Ray and Slurm.

A network namespace alone is not enough: `ray stop` looks at all processes, and Ray's and Slurm's files lie in /tmp,
in /run and in the home. So each host has its own network, mounts, processes and name. The bridge between them is in
the launcher's network, nothing is mounted on this machine, and the kernel removes all of it with the last process.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import forked_ray
import psutil

import clinscale

CHECKOUT = Path(clinscale.__file__).parents[1]
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "sshd")
_PATH = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COVERED = (Path("/tmp"), HOME, Path("/dev/shm"), Path("/run"))
"""Where every host has a fresh tmpfs."""
_NETWORK = "10.77.0"
_NAMESPACES = ("--mount", "--pid", "--mount-proc", "--uts", "--ipc", "--net")

# process 1 of a host; bash, because somebody has to reap what daemons leave
_INIT = r"""
set -euo pipefail
hostname "$NAME"
resolver=$(readlink -f /etc/resolv.conf)
mount -t tmpfs -o mode=755 tmpfs /run
count=0
for path in "$@"; do
  mkdir /run/keep-$count
  mount --bind "$path" /run/keep-$count
  count=$((count + 1))
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=700 tmpfs "$HOME"
count=0
for path in "$@"; do
  mkdir -p "$path"
  mount --move /run/keep-$count "$path"
  count=$((count + 1))
done
# without a resolver every look-up of a name that the hosts file lacks waits 10 s; an empty file says there is none
mkdir -p /run/sshd /run/lock "$(dirname "$resolver")"
: > /run/resolv.conf
test -e "$resolver" || : > "$resolver"
mount --bind /run/resolv.conf "$resolver"
printf '%s' "$HOSTS_FILE" > /run/hosts
mount --bind /run/hosts /etc/hosts
sed 's/^root:![^:]*:/root:*:/' /etc/shadow > /run/shadow  # sshd lets nobody into a locked account, key or not
chmod 600 /run/shadow
mount --bind /run/shadow /etc/shadow
umask 077
mkdir "$HOME/.ssh"
printf '%s' "$AUTHORIZED" > "$HOME/.ssh/authorized_keys"
printf '%s' "$KNOWN_HOSTS" > "$HOME/.ssh/known_hosts"
printf '%s' "$HOST_KEY" > /run/sshd/key
export -p | grep -E ' (PATH|PYTHONPATH|OMP_NUM_THREADS|RAY_RUNTIME_ENV_HOOK|CLINSCALE_TESTS_FORKED)=' > "$HOME/.bashrc"
cp "$HOME/.bashrc" "$HOME/.profile"
unset HOSTS_FILE AUTHORIZED KNOWN_HOSTS HOST_KEY
: > /run/ready
sleep infinity & wait
"""


class Host:
    """One of them; `address` is what the others call it by, beside its name."""

    def __init__(
        self, name: str, address: str, kept: Sequence[Path], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.address = name, address
        self._environment = {
            "PATH": _PATH,
            "HOME": str(HOME),
            "USER": "root",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            **forked_ray.kept(),
        }
        path = filter(None, (str(CHECKOUT), self._environment.get("PYTHONPATH")))
        self._environment["PYTHONPATH"] = os.pathsep.join(path)
        command = ["setpriv", "--pdeathsig", "KILL"]  # not even a test run that is killed leaves a host behind
        command += ["unshare", "--fork", "--kill-child", *_NAMESPACES, "bash", "-c", _INIT, name, *map(str, kept)]
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                env={**self._environment, **environment, "NAME": name},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self._init = 0

    def wait_until_ready(self) -> None:
        """Return when its files are in place; AssertionError with what it said when it ended."""
        for _ in range(600):
            assert self._process.poll() is None, self._log.read_text()
            children = psutil.Process(self._process.pid).children()
            if children and Path(f"/proc/{children[0].pid}/root/run/ready").exists():
                self._init = children[0].pid
                return
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    @property
    def pid(self) -> int:
        """Of its process 1, as this machine counts."""
        return self._init

    @property
    def root(self) -> Path:
        """Its file system as this machine sees it."""
        return Path(f"/proc/{self._init}/root")

    def run(
        self,
        command: Sequence[str | Path] | str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = HOME,
        timeout: float = 120,
        check: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host, a string with bash; daemons that it leaves there do not delay the return."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            ended = subprocess.run(
                self._enter(command, cwd),
                env={**self._environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=timeout,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            result = subprocess.CompletedProcess(ended.args, ended.returncode, out.read(), err.read())
        assert not check or result.returncode == 0, f"{self.name}: {command}: {result.stdout}{result.stderr}"
        return result

    def start(
        self, command: Sequence[str | Path] | str, log: Path, *, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a command on the host that ends with it at the latest; what it says goes to `log`."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self._enter(command, HOME),
                env={**self._environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    def mount(self, *arguments: str | Path) -> None:
        """`mount ARGUMENTS`, seen by this host alone."""
        self.run(["mount", *arguments], check=True)

    def processes(self) -> list[str]:
        """The command lines that run there, without process 1 and its sleep; tests ask for them again and again."""
        lines = []
        for process in (self.root / "proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                line = " ".join(words).strip() or f"[{(process / 'comm').read_text().strip()}]"
                lines += [line] if process.name != "1" and line != "sleep infinity" else []
        return lines

    def kill(self) -> None:
        """End it as a power cut does; returns when no process of it is left."""
        if self._init and self._process.poll() is None:
            os.kill(self._init, 9)  # its parent returns only when the kernel has ended all others, too
            self._process.wait()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _enter(self, command: Sequence[str | Path] | str, cwd: str | Path) -> list[str]:
        words = ["bash", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        target = ["nsenter", "--target", str(self._init), "--mount", "--pid", "--uts", "--ipc", "--net"]
        return [*target, "env", "-C", str(cwd), *words]


class Hosts:
    """A launcher and hosts on one network, with names, ssh among them and one shared folder.

    `shared` is the same folder at the same path on every host and on this machine; `key` is the private ssh key that
    opens all hosts, a file that only the launcher and this machine have.
    """

    def __init__(self, *names: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="clinscale-hosts-"))
        self._all: list[Host] = []
        self.shared = self._folder / "shared"
        self.key = self._folder / "key" / "id"
        try:
            self._start(names or ("head", "worker"))
        except BaseException:
            self.close()
            raise

    @property
    def launcher(self) -> Host:
        """Where a user types; it has the key and no ssh server."""
        return self._all[0]

    @property
    def all(self) -> list[Host]:
        """All but the launcher."""
        return self._all[1:]

    @property
    def head(self) -> Host:
        """The first host."""
        return self._all[1]

    @property
    def worker(self) -> Host:
        """The second host."""
        return self._all[2]

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self._all if host.name == name)

    def run(
        self, name: str, command: Sequence[str | Path] | str, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        """`Host.run` on the host, or the launcher, of that name."""
        return self[name].run(command, **options)  # type: ignore[arg-type]

    def cut(self, name: str, *, off: bool = True) -> None:
        """Pull the network cable of a host, or plug it in again."""
        index = self._all.index(self[name])
        self.launcher.run(["ip", "link", "set", f"veth{index}", "down" if off else "up"], check=True)

    def close(self) -> None:
        """End all hosts and remove their files."""
        for host in reversed(self._all):
            host.kill()
        shutil.rmtree(self._folder)

    def _start(self, names: Sequence[str]) -> None:
        self.shared.mkdir()
        self.key.parent.mkdir(mode=0o700)
        for name in ("id", "host"):
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key.with_name(name))]
            subprocess.run(made, check=True)
        addresses = {"launcher": f"{_NETWORK}.254"}
        addresses |= {name: f"{_NETWORK}.{index}" for index, name in enumerate(names, start=1)}
        host_key = self.key.with_name("host.pub").read_text()
        files = {
            "HOSTS_FILE": "127.0.0.1 localhost\n"
            + "".join(f"{address} {name}\n" for name, address in addresses.items()),
            "AUTHORIZED": self.key.with_name("id.pub").read_text(),
            "KNOWN_HOSTS": "".join(f"{name},{address} {host_key}" for name, address in addresses.items()),
            "HOST_KEY": self.key.with_name("host").read_text(),
        }
        for name, address in addresses.items():
            kept = _kept(self._folder if name == "launcher" else self.shared)
            self._all.append(Host(name, address, kept, files, self._folder / f"{name}.log"))
        for host in self._all:
            host.wait_until_ready()
        self._connect()
        for host in self.all:
            host.run(["/usr/sbin/sshd", *_SSHD, "-o", f"ListenAddress={host.address}"], check=True)

    def _connect(self) -> None:
        """The bridge is the launcher's; a cable goes from it to each host."""
        launcher = self.launcher
        launcher.run("ip link set lo up && ip link add br0 type bridge && ip link set br0 up", check=True)
        launcher.run(f"ip addr add {launcher.address}/24 dev br0", check=True)
        for index, host in enumerate(self.all, start=1):
            cable = ["ip", "link", "add", f"veth{index}", "type", "veth", "peer", "name", "eth0"]
            inside = [
                "nsenter",
                "--target",
                str(launcher.pid),
                "--net",
            ]  # its processes are not: the number is ours
            subprocess.run([*inside, *cable, "netns", str(host.pid)], check=True)
            launcher.run(f"ip link set veth{index} master br0 up", check=True)
            host.run(
                f"ip link set lo up && ip addr add {host.address}/24 dev eth0 && ip link set eth0 up", check=True
            )


_SSHD = [
    word
    for option in (
        "HostKey=/run/sshd/key",
        "PidFile=none",
        "UsePAM=no",
        "PasswordAuthentication=no",
        "KbdInteractiveAuthentication=no",
        "PermitRootLogin=prohibit-password",
        "PrintMotd=no",
    )
    for word in ("-o", option)
]


def _kept(*own: Path) -> list[Path]:
    """What a host sees of the folders that it covers: Python, its packages, this checkout, and its own."""
    interpreter = Path(sys.executable).resolve().parents[1]
    forks = Path(os.environ.get("CLINSCALE_TESTS_FORKED", CHECKOUT))
    wanted = {Path(sys.prefix), Path(sys.base_prefix), interpreter, CHECKOUT, forks, *own}
    hidden = {path for path in wanted if any(path.is_relative_to(folder) for folder in _COVERED)}
    return sorted(path for path in hidden if not any(other in path.parents for other in hidden))


def why_not() -> str | None:
    """Why this machine cannot have such hosts, in a sentence; None when it can."""
    if os.getuid() != 0:
        return "only root can make namespaces that are hosts to each other"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; apt-get install openssh-server iproute2 runs this test"
    name = f"c{secrets.token_hex(4)}"
    network = f"ip link add {name} type bridge && ip link add {name}v type veth"
    tried = ["unshare", "--fork", *_NAMESPACES, "sh", "-c"]
    ran = subprocess.run([*tried, f"mount -t tmpfs tmpfs /run && {network}"], capture_output=True, text=True)
    if ran.returncode != 0:
        return f"this machine refuses namespaces, mounts or a bridge in them: {ran.stderr.strip()}"
    return None
