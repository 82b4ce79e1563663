"""Run one function on N Ray Train workers, again and again until it has come to its end on all of them."""

import concurrent.futures
import contextlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from clinscale.errors import ClinscaleError, ClusterError, own_cause
from clinscale.runtime.forks import Forks, call_fork, failed, run_forks
from clinscale.runtime.group import GroupConfig
from clinscale.runtime.memory import out_of_memory_as
from clinscale.runtime.session import Cluster, current_cluster, variables

Metrics = dict[str, float]
log = logging.getLogger(__name__)

_START_PATIENCE_S = 30.0
_POLL_S = 0.2


class WorkerContext(Protocol):
    """The group as the function on each worker sees it."""

    rank: int
    world_size: int
    attempt: int
    """0, 1, ...: how many groups of this call started before this one."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send rank 0's metrics to the driver without waiting."""

    def preempted(self) -> bool:
        """Whether a node of the group is about to be taken away: time to save. Call it once a step on every rank.

        All ranks get the same answer at the same call, at most one call after the first of them was informed.
        """


class _RayContext:
    """The `WorkerContext` of a Ray Train worker."""

    def __init__(self, mailbox: Any, collective_timeout_s: float) -> None:
        import ray.train

        from clinscale.runtime.controller import ATTEMPT

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.attempt = int(os.environ[ATTEMPT])
        self._mailbox = mailbox
        self._notice = _Notice(self.world_size, collective_timeout_s)

    def log(self, metrics: Mapping[str, float]) -> None:
        """See WorkerContext. It is not `ray.train.report`, which is a barrier of all ranks."""
        if self.rank == 0:
            self._mailbox.put.remote(dict(metrics))

    def preempted(self) -> bool:
        """See WorkerContext."""
        return self._notice.given()


class _Notice:
    """Agreement of all ranks on whether a node is being taken away, without waiting for one another.

    Ray's `get_preemption_info` is a barrier through an actor. Here each call reads what the call before it asked,
    which has been answered while the step ran.
    """

    def __init__(self, world_size: int, timeout_s: float) -> None:
        import torch
        import torch.distributed
        from ray.train.v2._internal.execution.context import get_train_context

        self._preemption = get_train_context().preemption_context
        self._answer = torch.zeros(1, dtype=torch.int32)
        self._group: Any = None
        if world_size > 1:  # CPU ranks talk, so that no GPU has to stop for it
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._pending: Any = None

    def given(self) -> bool:
        from torch import distributed

        if self._pending:
            self._pending.wait()
        if given := bool(self._answer):
            self._pending = None
            return given
        self._answer.fill_(self._preemption.preemption_info is not None)
        if self._group:
            self._pending = distributed.all_reduce(
                self._answer, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return False


def run_workers(
    function: Callable[[WorkerContext, Any], None],
    config: Any,
    *,
    group: GroupConfig,
    scratch: str | Path,
    on_log: Callable[[Metrics], None],
    on_event: Callable[[str], None] | None = None,
    resize_interval_s: float = 60,
    start_patience_s: float | None = None,
) -> None:
    """Run `function(context, config)` on every worker of a Ray Train group; needs a `ray_session` or a `fork_session`.

    After a failure all workers start again with the same arguments: going on from saved work is the function's part.
    `on_log` is called in this process with what rank 0 logs; what it raises is raised here when the workers are done.
    `on_event` is called with a sentence when the group waits, fails or starts again.

    Args:
        function: what each worker runs, e.g. a training loop.
        config: its second argument; travels by pickle.
        group: how many workers, what each is given, and how long and how often they are waited for.
        scratch: a folder that all nodes see, for what Ray Train itself keeps; nothing is left there.
        on_log: takes metrics.
        on_event: takes sentences.
        resize_interval_s: of an elastic group, how often to look whether the cluster grew. Each resize costs the
            work since the last save and a start.
        start_patience_s: how long workers of a group that starts may leave the controller without an answer, until
            they are killed and the start is tried again; by default the longer of the group's two timeouts.

    Raises:
        CapacityError: the workers never became free.
        OutOfMemoryError: the memory of one did not hold its share.
        ClinscaleError: another of our own, from a worker.
        ClusterError: the workers failed more often than allowed; names rank and kind of the last error. Or some of
            what rank 0 logged was lost on its way here.
    """
    cluster = current_cluster()
    if isinstance(cluster, Forks):
        run_forks(
            _Call(function),
            config,
            cluster=cluster,
            group=group,
            scratch=Path(scratch),
            on_log=on_log,
            on_event=on_event,
        )
        return
    from ray import exceptions, train
    from ray.train.torch import TorchConfig

    from clinscale.runtime.controller import Trainer, as_ours

    # a group that does not find its place had better look at the cluster again
    patience_s = min(_START_PATIENCE_S, group.start_timeout_s)
    cluster.wait_for(
        processes=group.least_workers,
        cpus=group.cpus_per_worker,
        gpus=group.gpus_per_worker,
        timeout_s=group.start_timeout_s,
        on_wait=on_event,
    )
    driver = _Driver(on_log, on_event)
    name = uuid.uuid4().hex  # Ray Train would return the old result of a name that it knows
    with _ray_train_environment(cluster, patience_s, group.collective_timeout_s), driver:
        try:
            Trainer(
                _Entry(function),
                send_event=driver.send_event,
                start_timeout_s=group.start_timeout_s,
                start_patience_s=start_patience_s or max(group.start_timeout_s, group.collective_timeout_s),
                train_loop_config={
                    "config": config,
                    "mailbox": driver.mailbox,
                    "collective_timeout_s": group.collective_timeout_s,
                },
                scaling_config=train.ScalingConfig(
                    num_workers=group.num_workers,
                    use_gpu=group.gpus_per_worker > 0,
                    resources_per_worker={
                        "CPU": group.cpus_per_worker,
                        **({"GPU": group.gpus_per_worker} if group.gpus_per_worker else {}),
                    },
                    elastic_resize_monitor_interval_s=resize_interval_s,
                ),
                torch_config=TorchConfig(
                    backend="nccl" if group.gpus_per_worker > 0 else "gloo", timeout_s=group.collective_timeout_s
                ),
                run_config=train.RunConfig(
                    name=name,
                    storage_path=str(Path(scratch).absolute()),
                    failure_config=train.FailureConfig(
                        max_failures=group.max_failures,
                        max_preemption_failures=group.max_preemption_failures,
                        controller_failure_limit=max(2, int(group.start_timeout_s / patience_s)),
                    ),
                    logging_config=train.LoggingConfig(log_level="ERROR"),
                ),
            ).fit()
        except (train.TrainingFailedError, exceptions.RayError) as error:  # the second: the controller was lost
            raise as_ours(error) from None
        finally:
            shutil.rmtree(Path(scratch) / name, ignore_errors=True)


def run_once(what: str, function: Callable[..., Any], *arguments: Any, cpus: float, gpus: float) -> Any:
    """Call `function(*arguments)` in one worker and return its result; needs a `ray_session` or a `fork_session`.

    Args:
        what: names the work in the message of an error.
        function: the work; it, its arguments and what it returns travel by pickle.
        arguments: of `function`.
        cpus: that Ray sets aside for it.
        gpus: that Ray sets aside for it.

    Raises:
        ClinscaleError: one of our own, from the worker.
        ClusterError: another error, named by its kind: as text it would be a traceback, with whatever of the notes the
            lines of the failure hold.
    """
    if isinstance(current_cluster(), Forks):
        return call_fork(what, function, *arguments)
    import ray

    try:
        return ray.get(ray.remote(function).options(num_cpus=cpus, num_gpus=gpus).remote(*arguments))
    except ray.exceptions.RayError as error:
        kind = type(getattr(error, "cause", None) or error).__name__
        raise own_cause(error) or failed(what, kind) from None


@contextlib.contextmanager
def _ray_train_environment(
    cluster: Cluster, start_timeout_s: float, collective_timeout_s: float
) -> Iterator[None]:
    """The settings that Ray Train takes from nowhere else; it hands them on to its controller and workers."""
    from ray.train.v2._internal import constants

    # with two clusters on one host, Ray's helper that frees the workers of an interrupted group finds neither
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    settings = {
        constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: start_timeout_s,
        constants.WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR: collective_timeout_s,
    }
    if cluster.started_here:  # nobody takes its node away, so none of our processes need ask whether somebody does
        settings[constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR] = 0
    with variables(**{key: str(value) for key, value in settings.items()}):
        yield


class _Call:
    """The user's function, whose lack of memory becomes an error of ours."""

    def __init__(self, function: Callable[[WorkerContext, Any], None]) -> None:
        self._function = function

    def __call__(self, context: WorkerContext, config: Any) -> None:
        who = f"worker {context.rank} of {context.world_size}"
        with out_of_memory_as(lambda memory: f"{who} ran out of {memory} memory; use smaller micro batches"):
            self._function(context, config)


class _Entry:
    """The callable that Ray runs on each worker; a class, so that the user's function travels by reference."""

    def __init__(self, function: Callable[[WorkerContext, Any], None]) -> None:
        self._call = _Call(function)

    def __call__(self, loop_config: dict[str, Any]) -> None:
        context = _RayContext(loop_config["mailbox"], loop_config["collective_timeout_s"])
        self._call(context, loop_config["config"])


class _Mailbox:
    """The actor that holds what workers and controller send until the driver takes it, each sender's in its order.

    Calls of Ray's own `ray.util.queue.Queue` overtake one another: its actor is asynchronous.
    """

    def __init__(self) -> None:
        self._items: list[Metrics | str | None] = []

    def put(self, item: Metrics | str | None) -> None:
        """Keep it for the driver."""
        self._items.append(item)

    def take(self) -> list[Metrics | str | None]:
        """Messages that came since the last call."""
        items, self._items = self._items, []
        return items


class _Driver:
    """Carries rank 0's metrics and the controller's sentences to a thread of the driver, the one writer of the run."""

    def __init__(self, on_log: Callable[[Metrics], None], on_event: Callable[[str], None] | None) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # on another node it would die with that node; one that dies alone is started again, and what it held is lost
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1}
        mailbox = ray.remote(_Mailbox).options(**options).remote()
        self.mailbox = mailbox
        # without waiting, from whichever process
        self.send_event: Callable[[str], None] = lambda sentence: mailbox.put.remote(sentence)
        self._on_log, self._on_event = on_log, on_event
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._error: ClinscaleError | None = None
        self._closed = threading.Event()

    def __enter__(self) -> None:
        self._drained: concurrent.futures.Future[None] = self._thread.submit(self._drain)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # on a lost cluster nothing is left to drain
            if kind is None or issubclass(kind, ClinscaleError):
                while not self._drained.done():
                    ray.get(self.mailbox.put.remote(None))  # again, should it be lost with the mailbox
                    concurrent.futures.wait([self._drained], timeout=_POLL_S)
        self._closed.set()
        with contextlib.suppress(RayError):
            ray.kill(self.mailbox)
        self._thread.shutdown()  # before Ray shuts down: a thread that still talks to it would end the process
        if kind is None:
            self._drained.result()
            if self._error:
                raise self._error

    def _drain(self) -> None:
        for item in self._items():
            try:
                if not isinstance(item, str):
                    self._on_log(item)
                elif self._on_event:
                    self._on_event(item)
            except ClinscaleError as error:  # training goes on; the driver gets it at the end
                self._keep(error)

    def _keep(self, error: ClinscaleError) -> None:
        """Warn of the first one; the driver gets the last one at the end."""
        if self._error is None:
            log.warning("%s", error)
        self._error = error

    def _items(self) -> Iterator[Metrics | str]:
        """Messages to the mailbox until the None that ends it."""
        import ray

        while True:
            items = []
            try:
                items = ray.get(self.mailbox.take.remote())
            except ray.exceptions.RayError:
                if self._closed.is_set():  # the group was interrupted and its mailbox is gone
                    return
                self._keep(
                    ClusterError(
                        "the process that carries the workers' metrics here was lost, and some of them with it; "
                        "training goes on to its end, and the same command then reads them from the checkpoint"
                    )
                )
            for item in items:
                if item is None:
                    return
                yield item
            self._closed.wait(_POLL_S)
