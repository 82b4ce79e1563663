"""Nodes with a network of their own each, and the wire between them, which can be cut, lose packets and delay them.

Each node is a network namespace whose only device is a tunnel. A thread reads the packets of all tunnels and hands
them on, so that no rule of a firewall and no queueing discipline of the kernel is needed: TCP sees what it sees of a
bad network. Processes, files and memory stay those of this machine: a node that is cut off still reaches the run's
folder, as it would on shared storage.
"""

import contextlib
import heapq
import itertools
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from clinscale.bench.faults.loss import LossError

DEVICE = "wire0"
"""Name of each node's only device."""

_NETWORK = "10.77.0"
_TUNNELS = Path("/dev/net/tun")
_PROGRAMS = ("unshare", "nsenter", "setpriv", "ip")
_LARGEST_BYTES = 65536
_IDLE_S = 0.5
_HOLDER = f"""
import fcntl, os, socket, struct, subprocess, sys
tunnel = os.open("{_TUNNELS}", os.O_RDWR)
fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"{DEVICE}", 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
for words in (
    "link set lo up",
    f"addr add {{sys.argv[1]}}/24 dev {DEVICE}",
    "link set {DEVICE} mtu 9000 up",  # as clusters have it, and few packets for us to carry
    "route add default dev {DEVICE}",  # by which programs find their own address
):
    subprocess.run(["ip", *words.split()], check=True)
bench = socket.socket(fileno=0)
socket.send_fds(bench, [b"x"], [tunnel])
bench.recv(1)  # until the other end is closed, or dead
"""
"""Script that makes a tunnel in its namespace, hands it out, and keeps the namespace there."""


def why_no_network() -> str | None:
    """Reason why this machine cannot have such nodes; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "nodes with a network of their own need root on Linux"
    if missing := [name for name in _PROGRAMS if not shutil.which(name)]:
        return f"nodes with a network of their own need the programs {' and '.join(missing)}"
    if not _TUNNELS.exists():
        return f"nodes with a network of their own need {_TUNNELS}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    return "this machine lets nobody make a network namespace" if tried.returncode else None


class Node:
    """A network namespace, which is there until it is closed and its last process has ended."""

    def __init__(self, number: int) -> None:
        self.address = f"{_NETWORK}.{number}"
        self._ours, theirs = socket.socketpair()
        with theirs:
            command = ["unshare", "--net", sys.executable, "-I", "-c", _HOLDER, self.address]
            self._holder = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        _, tunnels, _, _ = socket.recv_fds(self._ours, 1, 1)
        if not tunnels:
            self.close()
            raise LossError("a node's network could not be made")
        [self.tunnel] = tunnels
        os.set_blocking(self.tunnel, False)
        self._namespace = self._of(self._holder.pid)

    @property
    def inside(self) -> list[str]:
        """Words that begin a command in it."""
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--"]

    def has(self, pid: int) -> bool:
        """Whether the process is in it."""
        with contextlib.suppress(OSError):
            return self._of(pid) == self._namespace
        return False

    def close(self) -> None:
        """Let it go."""
        self._ours.close()
        self._holder.wait()

    @staticmethod
    def _of(pid: int) -> str:
        return str(Path(f"/proc/{pid}/ns/net").readlink())


class Network:
    """Nodes and the wire that connects them."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.nodes = [Node(number) for number in range(1, count + 1)]
        self._rng = rng
        self._cut: set[str] = set()
        self._delay_s, self._loss = 0.0, 0.0
        self._over = threading.Event()
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def cut(self, node: Node) -> None:
        """Carry nothing to it or from it any more; neither end hears of that."""
        self._cut.add(node.address)

    def mend(self, node: Node) -> None:
        """Carry its packets again."""
        self._cut.discard(node.address)

    def degrade(self, *, delay_s: float, loss: float) -> None:
        """Carry each packet so much later, and lose that share of them."""
        self._delay_s, self._loss = delay_s, loss

    def close(self) -> None:
        """Let all nodes go."""
        self._over.set()
        self._carrier.join()
        for node in self.nodes:
            node.close()
            os.close(node.tunnel)

    def _carry(self) -> None:
        tunnels = {socket.inet_aton(node.address): node for node in self.nodes}
        due: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._over.is_set():
            wait_s = min(_IDLE_S, max(0.0, due[0][0] - time.monotonic())) if due else _IDLE_S
            for tunnel in select.select([node.tunnel for node in self.nodes], [], [], wait_s)[0]:
                for packet in _read(tunnel):
                    sender, receiver = tunnels.get(packet[12:16]), tunnels.get(packet[16:20])
                    if sender and receiver and self._arrives(sender, receiver):
                        heapq.heappush(
                            due, (time.monotonic() + self._delay_s, next(numbers), receiver.tunnel, packet)
                        )
            while due and due[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # full, as a real wire is
                    os.write(*heapq.heappop(due)[2:])

    def _arrives(self, sender: Node, receiver: Node) -> bool:
        return not {sender.address, receiver.address} & self._cut and self._rng.random() >= self._loss


def _read(tunnel: int) -> Iterator[bytes]:
    """IPv4 packets that wait there."""
    with contextlib.suppress(BlockingIOError):
        while packet := os.read(tunnel, _LARGEST_BYTES):
            if packet[0] >> 4 == 4:
                yield packet


@contextlib.contextmanager
def network(count: int, rng: random.Random) -> Iterator[Network]:
    """A network of so many nodes; `rng` chooses the packets that are lost."""
    made = Network(count, rng)
    try:
        yield made
    finally:
        made.close()
