"""A watch over the Ray processes that this one depends on here.

Ray ends a driver whose raylet is gone on the spot, as soon as it needs it: nothing is closed, nothing of ours is said.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from clinscale.errors import ClusterError

_LOOK_S = 0.5


@contextlib.contextmanager
def interrupted_without_ray(*, own: bool) -> Iterator[None]:
    """Interrupt the block, as Ctrl-C does, once this machine's raylet, or the head's server of our own Ray, is gone.

    For the main thread, which alone can be interrupted.

    Args:
        own: this process started Ray, so that whatever the raylet has begun ends with it: without the head's server
            Ray's agents would stay.

    Raises:
        ClusterError: that was so; names what is gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    processes, is_over, lost = _of_session(own=own), threading.Event(), list[str]()
    orphans = list[Any]()

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            lost.extend(one.info["name"] for one in processes if not _runs(one))
            if lost:
                orphans.extend(_descendants(processes) if own else ())
                # a job of a shell's background ignores SIGINT, but our commands listen to SIGTERM as well
                heard = callable(signal.getsignal(signal.SIGINT))
                signal.pthread_kill(main, signal.SIGINT if heard else signal.SIGTERM)
                return

    main = threading.get_ident()
    watch = threading.Thread(target=look, name="ray-watch", daemon=True)
    watch.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
        _kill(orphans)
        raise ClusterError(
            f"Ray's {lost[0]} on this machine was lost: it was killed, perhaps for memory. What is saved is kept, and "
            "the same command goes on from there; a Ray that you started yourself must be started again first"
        ) from ProcessLookupError(lost[0])  # a cause, so that nobody takes it for the user's Ctrl-C
    finally:
        is_over.set()
        watch.join()


def _of_session(*, own: bool) -> list[Any]:
    """Processes of the node that this driver belongs to; none for a driver that is only a client of another.

    The head's server is one for a Ray of our own: that of a cluster may come back.
    """
    import psutil  # type: ignore[import-untyped]
    import ray

    node = ray._private.worker.global_worker.node
    if node is None:
        return []
    options = {
        "raylet": f"--raylet_socket_name={node.raylet_socket_name}",  # this host may have several of a session
        **({"gcs_server": f"--session-name={node.session_name}"} if own else {}),
    }
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if options.get(process.info["name"]) in (process.info["cmdline"] or ())
    ]


def _runs(process: Any) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _descendants(processes: list[Any]) -> Iterator[Any]:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            yield from process.children(recursive=True)


def _kill(processes: list[Any]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
