"""The command line around the verbs."""

import subprocess
import sys

SCRIPT = """
import importlib, os, signal, sys, time
main = importlib.import_module("clinscale.cli.main")
sys.unraisablehook = main._interrupt_again

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

try:
    held = Finalised()
    del held
    time.sleep(20)
    print("lost")
except KeyboardInterrupt:
    print("heard")
"""


def test_a_ctrl_c_that_hits_a_finaliser_is_heard():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "heard", ran.stderr
