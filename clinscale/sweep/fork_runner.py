"""Stints in forks of one process of this machine, without Ray: for tests and for development."""

import multiprocessing.connection
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinscale.runtime import Fork
from clinscale.sweep.conductor import Conductor
from clinscale.sweep.stints import Work
from clinscale.sweep.trial import Stint


def run(
    conductor: Conductor, work: Work, *, folder: Path, resources: Mapping[str, float], reuse_processes: bool
) -> None:
    """See StintRunner; every stint is a fork of its own, which costs less than keeping one."""
    running: dict[Any, tuple[str, Fork]] = {}
    begun = 0
    try:
        while True:
            while stint := conductor.next_stint(str(begun)):
                fork = Fork(_live, work, stint)
                running[fork.connection] = str(begun), fork
                begun += 1
            if not running:
                break
            for connection in multiprocessing.connection.wait(list(running)):
                stint_id, fork = running[connection]
                if not _goes_on(conductor, stint_id, fork):
                    del running[connection]
                    fork.end()
    finally:
        for _, fork in running.values():
            fork.end()


def _goes_on(conductor: Conductor, stint_id: str, fork: Fork) -> bool:
    """Pass a fork's message to the conductor, and return whether the fork will send more."""
    try:
        said = fork.hear()
    except EOFError:
        conductor.died(stint_id, "lost", "its process was killed")
        return False
    if isinstance(said, dict):
        on = conductor.report(stint_id, said)
        if on:
            fork.connection.send(True)
        return on
    if said is None:
        conductor.ended(stint_id)
    else:
        conductor.died(stint_id, "error", str(said))
    return False


def _live(connection: Any, work: Work, stint: Stint) -> None:
    def report(result: Mapping[str, Any]) -> None:
        connection.send(dict(result))
        connection.recv()  # without a yes the process is ended here

    work(report, stint)
