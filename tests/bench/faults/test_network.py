"""The wire between nodes: it carries, cuts and loses what TCP sends."""

import random
import subprocess
import sys

import pytest

from clinscale.bench.faults import network

pytestmark = pytest.mark.skipif(network.why_no_network() is not None, reason=str(network.why_no_network()))

_ANSWER = (
    "import socket; s = socket.create_server(('', 7)); print(flush=True)\nwhile True: s.accept()[0].sendall(b'x')"
)
_ASK = "import socket, sys; socket.create_connection((sys.argv[1], 7), float(sys.argv[2])).recv(1)"


def test_packets_arrive_until_the_wire_is_cut_and_again_when_it_is_mended():
    with network.network(2, random.Random(0)) as net:
        first, second = net.nodes

        def asks(patience_s: float) -> bool:
            words = [*second.inside, sys.executable, "-I", "-c", _ASK, first.address, str(patience_s)]
            return subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0

        server = subprocess.Popen([*first.inside, sys.executable, "-I", "-c", _ANSWER], stdout=subprocess.PIPE)
        try:
            assert server.stdout.readline() == b"\n"
            assert first.has(server.pid)
            assert not second.has(server.pid)
            assert asks(60)
            net.degrade(delay_s=0.001, loss=0.2)
            assert asks(60)
            net.cut(second)
            assert not asks(0.3)
            net.mend(second)
            assert asks(60)
        finally:
            server.kill()
            server.communicate()
