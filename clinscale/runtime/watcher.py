"""The process of `watch`: it kills another one that has been silent for too long.

It is run as a file, without the package, because it must start in a moment and take next to no memory.
"""

import os
import select
import signal
import sys


def main(pid: int, silence_s: float) -> None:
    """Read what process `pid` sends to stdin; kill it when nothing comes for so long, end when it has ended."""
    while select.select([0], [], [], silence_s)[0]:
        if not os.read(0, 2**16):
            return
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
