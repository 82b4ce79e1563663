"""Interruptions of a process: one at a time, none after the end, none that a closed terminal makes fail."""

import os
import pty
import subprocess
import sys
import textwrap

import pytest


def ran(script: str, **options) -> subprocess.Popen:
    prelude = "import os, signal\nfrom clinscale import interrupts\ninterrupts.listen()\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(script)]
    return subprocess.Popen(command, text=True, start_new_session=True, **options)


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_second_interruption_breaks_no_tidying_up(second):
    script = f"""
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.{second})
            print("tidy", flush=True)
            interrupts.listen_no_more()
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(130)
    """
    process = ran(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "tidy\n")
    assert err.strip() == "it is tidying up; press again 10 s after the first time to break that off"


def test_one_that_comes_later_is_heard_as_the_tidying_up_may_hang():
    script = """
        interrupts.TIDYING_S = 0
        try:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                print("tidy")
        except KeyboardInterrupt:
            print("broken off")
    """
    out, _ = ran(script, stdout=subprocess.PIPE).communicate(timeout=60)
    assert out == "broken off\n"


def test_a_closed_terminal_lets_nothing_that_is_printed_afterwards_fail(tmp_path):
    screen, inside = pty.openpty()
    take = "import fcntl, sys, termios, time\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    tidy = f"""
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)  # a signal just before a long sleep would be heard after it
except KeyboardInterrupt:
    print("tidying up", flush=True)
    print("tidying up", file=sys.stderr, flush=True)
    open({str(tmp_path / "tidy")!r}, "w").close()
"""
    process = ran(take + tidy, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    with os.fdopen(screen, "rb", buffering=0) as seen:
        assert seen.readline() == b"ready\r\n"
    assert process.wait(60) == 0
    assert (tmp_path / "tidy").exists()


def test_a_job_of_a_shells_background_stays_deaf_to_ctrl_c():
    script = """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.listen()
        os.kill(os.getpid(), signal.SIGINT)
        print("deaf")
    """
    code = "import os, signal\nfrom clinscale import interrupts\n" + textwrap.dedent(script)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "deaf\n")
