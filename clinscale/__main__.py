"""`clinscale`, and `python -m clinscale`: the command line, deaf to nothing while its libraries load."""

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it; a Ctrl-C that comes before it is loaded ends the process at once."""
    hears_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears_ctrl_c:  # a background job of a shell does not
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own would print a traceback of an import
    gc.set_threshold(10_000, 20, 50)  # else a fifth of the time of loading goes into looking at what stays anyway
    from clinscale.cli import main as run

    if hears_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
