"""A watch over the Ray processes that this one depends on here.

Ray ends a driver whose raylet is gone on the spot, as soon as it needs it: nothing is closed, nothing of ours is said.
"""

import _thread
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]

_LOOK_S = 0.5

log = logging.getLogger(__name__)


@contextlib.contextmanager
def interrupted_without_ray() -> Iterator[None]:
    """Interrupt the block, as Ctrl-C does, once this machine's raylet or the head's server that runs here is gone.

    For the main thread, which alone can be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    processes, is_over = _of_session(), threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            if lost := next((one for one in processes if not _runs(one)), None):
                log.error(
                    "Ray's %s on this machine was lost: killed, or out of memory. What is saved is kept; the same "
                    "command goes on from there, once Ray runs again where you started it yourself",
                    lost.info["name"],
                )
                # where SIGINT is ignored, as in a job of a shell's background, SIGTERM is what our commands listen to
                ends = callable(signal.getsignal(signal.SIGTERM))
                _thread.interrupt_main(signal.SIGTERM if ends else signal.SIGINT)
                return

    watch = threading.Thread(target=look, name="ray-watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        watch.join()


def _of_session() -> list[Any]:
    """Processes of the node that this driver belongs to; none for a driver that is only a client of another."""
    import ray

    node = ray._private.worker.global_worker.node
    if node is None:
        return []
    options = {
        "raylet": f"--raylet_socket_name={node.raylet_socket_name}",  # this host may have several of a session
        "gcs_server": f"--session-name={node.session_name}",
    }
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if options.get(process.info["name"]) in (process.info["cmdline"] or ())
    ]


def _runs(process: Any) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
