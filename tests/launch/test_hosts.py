"""The test hosts are what tests of launchers take them for."""

import sys

import pytest

pytestmark = pytest.mark.cluster


def test_ssh_leads_from_the_launcher_to_every_host_and_nowhere_without_the_key(hosts):
    for host in hosts.all:
        reached = hosts.run("launcher", ["ssh", "-i", hosts.key, host.name, "hostname; command -v python"])
        assert reached.stdout.split() == [host.name, f"{sys.prefix}/bin/python"], reached.stderr
        assert hosts.run("launcher", ["ssh", "-o", "BatchMode=yes", host.address, "true"]).returncode == 255
    assert not (hosts.head.root / str(hosts.key).lstrip("/")).exists()


def test_a_host_has_its_own_files_and_processes_and_one_folder_in_common(hosts):
    for folder in ("/tmp", "/dev/shm", "$HOME", "/run"):
        hosts.run("head", f"echo here > {folder}/mark", check=True)
        assert hosts.run("worker", f"test -e {folder}/mark").returncode == 1
    hosts.run("head", f"echo shared > {hosts.shared}/mark", check=True)
    assert hosts.run("worker", ["cat", hosts.shared / "mark"]).stdout == "shared\n"
    assert (hosts.shared / "mark").read_text() == "shared\n"
    waits = hosts.head.start(["sleep", "1234"], hosts.shared / "log")
    assert "sleep 1234" not in hosts.worker.processes()
    hosts.run("head", "until pgrep -f '^sleep 1234'; do sleep 0.1; done; pkill -f '^sleep 1234'", check=True)
    assert waits.wait(timeout=30) != 0


def test_python_and_clinscale_are_the_ones_of_this_process(hosts):
    command = "import clinscale, socket, sys; print(sys.prefix, clinscale.__file__, socket.getfqdn())"
    import clinscale

    for host in hosts.all:
        ran = host.run(["python", "-c", command], check=True)
        assert ran.stdout.split() == [sys.prefix, clinscale.__file__, host.name]


def test_a_cable_can_be_pulled_and_a_host_lost(hosts):
    answers = "exec 3<> /dev/tcp/worker/22 && head -c 3 <&3"
    assert hosts.run("head", answers).stdout == "SSH"
    hosts.cut("worker")
    assert hosts.run("head", f"timeout 3 bash -c '{answers}'").returncode != 0
    hosts.cut("worker", off=False)
    assert hosts.run("head", f"until bash -c '{answers}'; do sleep 0.2; done").stdout == "SSH"
    hosts.worker.kill()
    assert hosts.run("head", f"timeout 3 bash -c '{answers}'").returncode != 0
