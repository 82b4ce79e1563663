"""Segments in forks of one process of this machine, without Ray: for tests and for development."""

import contextlib
import multiprocessing.connection
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinscale.errors import ClusterError
from clinscale.runtime import Fork
from clinscale.sweep.controller import SweepController
from clinscale.sweep.segments import Work
from clinscale.sweep.trial import Segment


def run(
    controller: SweepController, work: Work, *, folder: Path, resources: Mapping[str, float], reuse_processes: bool
) -> None:
    """See SegmentRunner; ClusterError when work is left and no trial can start.

    Every segment is a fork of its own, which costs less than keeping one.
    """
    running: dict[Any, tuple[str, Fork]] = {}
    begun = 0
    try:
        while True:
            while segment := controller.next_segment(str(begun)):
                fork = Fork(_live, work, segment)
                running[fork.connection] = str(begun), fork
                begun += 1
            if not running:
                if controller.finished:
                    return
                raise ClusterError(
                    f"sweep {controller.name} must have room for a trial while work is left, and has room for none and "
                    "none runs; lower runtime.cpus_per_trial or runtime.workers_per_trial, then run the same command "
                    "to resume it"
                )
            for connection in multiprocessing.connection.wait(list(running)):
                segment_id, fork = running[connection]
                if not _goes_on(controller, segment_id, fork):
                    del running[connection]
                    fork.end()
    finally:
        for _, fork in running.values():
            fork.end()


def _goes_on(controller: SweepController, segment_id: str, fork: Fork) -> bool:
    """Pass a fork's message to the controller, and return whether the fork will send more."""
    try:
        message = fork.receive()
    except EOFError:
        controller.died(segment_id, "lost", "its process was killed")
        return False
    if isinstance(message, dict):
        on = controller.report(segment_id, message)
        if on:
            with contextlib.suppress(ConnectionError):  # it was killed meanwhile, as the next look at it says
                fork.connection.send(True)
        return on
    if message is None:
        controller.ended(segment_id)
    else:
        controller.died(segment_id, "error", str(message))
    return False


def _live(connection: Any, work: Work, segment: Segment) -> None:
    def report(result: Mapping[str, Any]) -> None:
        connection.send(dict(result))
        connection.recv()  # without a yes the process is ended here

    work(report, segment)
