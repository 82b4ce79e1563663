"""A process that stands still is killed, one that works or waits is not."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from clinscale.runtime import beat, watched

WORK = """
import os, signal, sys, threading
from clinscale.runtime import beat, waiting, watched
with watched(float(sys.argv[2])):
    print("watched", flush=True)
    match sys.argv[1]:
        case "hangs":
            threading.Event().wait(600)
        case "waits":
            with waiting():
                sys.stdin.read()
        case "steps":
            while sys.stdin.read(1):
                beat()
print("ended", flush=True)
"""


def start(how, silence_s):
    command = [sys.executable, "-c", WORK, how, str(silence_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "watched\n"
    return process


@pytest.mark.parametrize("how", ["hangs", "waits"])
def test_a_process_that_hangs_or_is_stopped_is_killed(how):
    process = start(how, 0.5)
    if how == "waits":
        os.kill(process.pid, signal.SIGSTOP)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdin.close()


def test_a_process_that_steps_ends_by_itself_and_its_watcher_with_it():
    process = start("steps", 600)
    assert process.communicate("." * 200_000, timeout=60) == ("ended\n", None)
    assert process.returncode == 0


@pytest.mark.timeout(60)
def test_a_process_goes_on_whose_watcher_stands_still():
    with watched(600):
        [watcher] = [one for one in psutil.Process().children() if "watcher.py" in " ".join(one.cmdline())]
        watcher.suspend()
        for _ in range(2**16 + 1):  # more than the pipe between them holds
            beat()
    assert not watcher.is_running()
