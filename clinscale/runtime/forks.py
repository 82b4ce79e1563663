"""Worker processes without Ray: forks of one process of this machine that has imported everything.

A fork starts in a fraction of a second, where a Ray worker imports for ten. What the ranks of a group run, how an error
of ours ends a group and how often one starts again are as in `run_workers`. What only Ray does is not here: placement,
several nodes, elastic groups, preemption.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from clinscale.errors import CapacityError, ClinscaleError, ClusterError
from clinscale.permissions import make_folder
from clinscale.runtime import session
from clinscale.runtime.group import GroupConfig
from clinscale.runtime.session import Cluster, cpu_model

_REASONS_WAIT_S = 2.0
"""Seconds in which ranks may still say why they end, after the first of them failed."""


@dataclass(frozen=True)
class Forks(Cluster):
    """The cluster of a `fork_session`, which is this machine."""

    def hardware(self) -> str:
        """The CPUs of this machine in words."""
        return f"{self.num_cpus} CPUs of {cpu_model()} on 1 node"

    def now(self) -> "Forks":
        """The same machine."""
        return self


@contextlib.contextmanager
def fork_session(*modules: str, num_cpus: int) -> Iterator[Forks]:
    """A session without Ray, for tests and for development on one machine.

    Args:
        modules: what is imported once, in the process of which all workers are forks; its environment stays as it is at
            the first of them.
        num_cpus: how many workers of one CPU may run at once.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules, "clinscale.runtime.frozen"])
    cluster = Forks("this machine", num_cpus, 0, 1, started_here=True)
    before, session.without_ray = session.without_ray, cluster
    try:
        yield cluster
    finally:
        session.without_ray = before


class Fork:
    """A process that runs a function, and the connection to it.

    `function(connection, *arguments)` may send anything except None, texts and our errors, which are final messages.
    The process ends with this one, however this one ends.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        from ray import cloudpickle  # functions of a test or a notebook travel by value

        forks = multiprocessing.get_context("forkserver")
        self.connection, theirs = forks.Pipe()
        payload = cloudpickle.dumps((session.without_ray, function, arguments))
        self._process = forks.Process(target=_live, args=(payload, theirs))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Id of the fork's process."""
        assert self._process.pid is not None
        return self._process.pid

    def receive(self) -> Any:
        """The fork's next message: something that its function sent, or its final message.

        The final message is None where the function has ended, one of our errors, or the kind of another error without
        its text, which may quote data. EOFError when the process was killed.
        """
        try:
            return self.connection.recv()
        except ConnectionError:  # it was killed before it had read what was sent to it
            raise EOFError from None

    def end(self) -> None:
        """Kill it, unless it has ended."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _live(payload: bytes, connection: Any) -> None:
    """The main function of a fork."""
    from ray import cloudpickle

    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    message: Any = None
    try:
        session.without_ray, function, arguments = cloudpickle.loads(payload)
        function(connection, *arguments)
    except ClinscaleError as error:
        message = error
    except BaseException as error:  # noqa: BLE001  its text may quote data: only its kind travels
        message = type(error).__name__
    connection.send_bytes(cloudpickle.dumps(message))  # an error's class may be a test's or a notebook's
    connection.close()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


def _end_with_the_driver() -> None:
    """End this process with its driver, so that it does not write where the next driver goes on."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def call_fork(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(*arguments)` in a fork and return its result; errors as `run_once`."""
    fork = Fork(_send_answer, function, arguments)
    try:
        message = fork.receive()
    except EOFError:
        message = "a kill"
    finally:
        fork.end()
    if isinstance(message, ClinscaleError):
        raise message
    if isinstance(message, str):
        raise failed(what, message)
    return message[0]


def failed(what: str, kind: str) -> ClusterError:
    """ClusterError for work that ended with a foreign error of this kind."""
    return ClusterError(
        f"{what} failed with {kind}; look at Ray's logs, or lower batch_size if memory may be short"
    )


def _send_answer(connection: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send((function(*arguments),))


class ForkContext:
    """The group as the function on each rank sees it: a `WorkerContext`."""

    def __init__(self, rank: int, world_size: int, attempt: int, connection: Any) -> None:
        self.rank, self.world_size, self.attempt = rank, world_size, attempt
        self._connection = connection

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send rank 0's metrics to the driver."""
        if self.rank == 0:
            self._connection.send(dict(metrics))

    def preempted(self) -> bool:
        """False: nobody takes this machine away."""
        return False


def run_forks(
    call: Callable[[Any, Any], None],
    config: Any,
    *,
    cluster: Forks,
    group: GroupConfig,
    scratch: Path,
    on_log: Callable[[dict[str, float]], None],
    on_event: Callable[[str], None] | None,
) -> None:
    """Run `call(context, config)` on every rank, again after a failure; arguments and errors of `run_workers`."""
    num_workers = group.most_workers
    if num_workers > cluster.slots(cpus=group.cpus_per_worker, gpus=0):
        raise CapacityError(
            f"{num_workers} workers of {group.cpus_per_worker:g} CPU each do not fit into this machine "
            f"({cluster.num_cpus} CPU); lower runtime.num_workers"
        )
    errors: list[ClinscaleError] = []

    def log_metrics(metrics: dict[str, float]) -> None:
        try:
            on_log(metrics)
        except ClinscaleError as error:  # training goes on; the driver gets it at the end
            errors.append(error)

    for attempt in itertools.count():
        make_folder(scratch)
        rendezvous = scratch / f"rendezvous-{uuid.uuid4().hex}"
        seats = [
            _Seat(rank, num_workers, attempt, str(rendezvous), group.collective_timeout_s)
            for rank in range(num_workers)
        ]
        try:
            failures = _group(call, config, seats, log_metrics)
        finally:
            rendezvous.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files are in it
                scratch.rmdir()
        if not failures:
            break
        described = ", ".join(f"worker {rank}: {failures[rank]}" for rank in sorted(failures))
        if attempt == group.max_failures:
            raise ClusterError(
                f"the group of workers failed ({described}); start it again after a look at its logs"
            )
        if on_event:
            on_event(f"the group ended: {described}")
            on_event(f"starting again (attempt {attempt + 1}, world size {num_workers})")
    if errors:
        raise errors[0]


@dataclass(frozen=True)
class _Seat:
    """The place of one rank in its group."""

    rank: int
    world_size: int
    attempt: int
    rendezvous: str
    timeout_s: float


def _group(
    call: Callable[[Any, Any], None],
    config: Any,
    seats: Sequence[_Seat],
    log_metrics: Callable[[dict[str, float]], None],
) -> dict[int, str]:
    """One start of the group: how ranks failed, in words without text of theirs; empty when all came to their end."""
    forks: list[Fork] = []
    failures: dict[int, str] = {}
    try:
        for seat in seats:
            forks.append(Fork(_rank, seat, call, config))
        ranks: dict[Any, int] = {fork.connection: rank for rank, fork in enumerate(forks)}
        while ranks:
            ready = multiprocessing.connection.wait(list(ranks), timeout=_REASONS_WAIT_S if failures else None)
            if not ready:  # the others wait for the one that failed
                break
            for connection in ready:
                rank = ranks[connection]
                try:
                    message = forks[rank].receive()
                except EOFError:
                    failures.setdefault(ranks.pop(connection), "it was killed")
                    continue
                if isinstance(message, ClinscaleError):
                    raise message
                if isinstance(message, dict):
                    log_metrics(message)
                    continue
                del ranks[connection]
                if isinstance(message, str):
                    failures[rank] = message
    finally:
        for fork in forks:
            fork.end()
    return failures


def _rank(connection: Any, seat: _Seat, call: Callable[[Any, Any], None], config: Any) -> None:
    """The work of one rank."""
    import torch.distributed

    numbers = {"RANK": seat.rank, "LOCAL_RANK": seat.rank, "WORLD_SIZE": seat.world_size, "NODE_RANK": 0}
    os.environ.update({key: str(value) for key, value in numbers.items()})
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{seat.rendezvous}",
        rank=seat.rank,
        world_size=seat.world_size,
        timeout=timedelta(seconds=seat.timeout_s),
    )
    call(ForkContext(seat.rank, seat.world_size, seat.attempt, connection), config)
