"""Overrides of Ray Train's controller; loads Ray Train, so import it only to start a group.

All classes here but the trainer live in the controller's process.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ray
import torch.distributed
from ray._private import state as ray_state
from ray.exceptions import OutOfMemoryError as KilledForMemory
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.placement_group import remove_placement_group

from clinscale.errors import CapacityError, ClinscaleError, ClusterError, OutOfMemoryError, own_cause
from clinscale.runtime.session import ray_logs

ATTEMPT = "CLINSCALE_ATTEMPT"
"""Environment variable of each worker: how many groups of this call started before its own."""

_COORDINATOR_TIMEOUT_S = 5.0

SendEvent = Callable[[str], None]
"""Takes a sentence to the driver's `on_event`."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A trainer whose `fit` leaves Ctrl-C to the caller, and that does not try again what cannot work.

    Ray Train takes SIGINT for itself, for good, aborts within half a minute and exits with 0; a command that must
    close its runs and say how to resume needs the KeyboardInterrupt.
    """

    def __init__(
        self,
        function: Any,
        *,
        send_event: SendEvent,
        start_timeout_s: float,
        start_patience_s: float,
        **options: Any,
    ) -> None:
        super().__init__(function, **options)
        self._send_event, self._start_timeout_s = send_event, start_timeout_s
        self._start_patience_s = start_patience_s

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's callbacks without the actor that hands out data sets of Ray Data, of which our workers get none."""
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]

    def _initialize_and_run_controller(self, *, callbacks: list[Any], **options: Any) -> Any:
        options["failure_policy"] = _FailurePolicy(self.run_config.failure_config, self._send_event)
        if self.scaling_config.elasticity_enabled:
            options["scaling_policy"] = _ElasticPolicy(self.scaling_config, self._start_timeout_s)
        groups = _Groups(self._send_event, self._start_patience_s)
        return super()._initialize_and_run_controller(callbacks=[*callbacks, groups], **options)

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def fit(self) -> Any:
        """Run to the end; as Ray's, but a KeyboardInterrupt kills the group and goes through."""
        try:
            return super().fit()
        except KeyboardInterrupt:
            ray.kill(self._controller)  # and with it the workers that it owns
            raise


_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.GetTimeoutError,
    ray.exceptions.ActorPlacementGroupRemoved,
)
"""Errors of Ray that say that an actor is gone, with its process or its node."""


class _FailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's, except that an error of ours is an answer and not a fault: the group is not started again."""

    def __init__(self, config: Any, send_event: SendEvent) -> None:
        super().__init__(config)
        self._send_event = send_event

    def make_decision(self, training_failed_error: Any) -> Any:
        """Answer to Ray after each failure: to retry or to raise.

        A worker that is lost while its group starts counts as one that is lost later: Ray calls it a failure of its
        controller, which it does not retry.
        """
        if _own_error(training_failed_error):
            return FailureDecision.RAISE
        self._send_event(f"the group ended: {_describe(training_failed_error)}")
        failure = _controller_failure(training_failed_error)
        if isinstance(failure, _LOST) or isinstance(getattr(failure, "cause", None), torch.distributed.DistError):
            training_failed_error = WorkerGroupError("a worker was lost as the group started", {0: failure})
        return super().make_decision(training_failed_error)


_own_nodes: list[str] = []
"""Node of each worker of the group that holds resources, running or failed; set in the controller."""


class _WorkerGroup(WorkerGroup):  # type: ignore[misc]
    """Ray's, except that a start ends one way or another.

    One that fails at its last steps ends its workers, too: Ray's keep their resources. One in which a worker does not
    answer, because it is stopped or hangs, fails: Ray waits for its answers without end.
    """

    start_patience_s: float
    """Seconds until workers that do not answer while their group starts are given up."""

    _watch: threading.Timer | None = None

    def _start(self) -> None:
        try:
            super()._start()
        except Exception:
            if self.has_started():
                self.abort()
            raise
        finally:
            if self._watch:
                self._watch.cancel()

    def _create_workers(self, num_workers: int, placement_group: Any, *arguments: Any, **options: Any) -> Any:
        # Ray kills what runs in a placement group that is removed, and so the answers waited for are errors
        self._watch = threading.Timer(self.start_patience_s, remove_placement_group, [placement_group])
        self._watch.daemon = True
        self._watch.start()
        return super()._create_workers(num_workers, placement_group, *arguments, **options)


class _Groups(ControllerCallback, WorkerGroupCallback, WorkerCallback):  # type: ignore[misc]
    """Numbers the groups: counts in the controller, and travels to each new worker with the count."""

    def __init__(self, send_event: SendEvent, start_patience_s: float) -> None:
        self._send_event, self._start_patience_s = send_event, start_patience_s
        self._attempt = -1

    def after_controller_start(self, train_run_context: Any) -> None:
        TrainController.worker_group_cls = _WorkerGroup
        _WorkerGroup.start_patience_s = self._start_patience_s

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        self._attempt += 1
        if self._attempt:
            self._send_event(
                f"starting again (attempt {self._attempt}, world size {worker_group_context.num_workers})"
            )

    def after_init_train_context(self) -> None:
        os.environ[ATTEMPT] = str(self._attempt)

    def after_worker_group_start(self, worker_group: Any) -> None:
        _own_nodes[:] = [worker.metadata.node_id for worker in worker_group.get_workers()]

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        _own_nodes.clear()

    after_worker_group_abort = after_worker_group_shutdown


class _ElasticPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's, except that it sees the cluster as it is now, takes nothing from others, and does not wait for ever.

    Ray's looks at the nodes every 20 s, counts draining nodes and what other jobs use, and would tear a group down
    for workers that cannot start.
    """

    def __init__(self, config: Any, start_timeout_s: float) -> None:
        super().__init__(config)
        self._start_timeout_s = start_timeout_s
        self._waits_since: float | None = None

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Answer to Ray after each look at the group: to leave it or to let it grow.

        It never shrinks a group that runs: one that lost a node fails by itself, and one whose node is being taken
        away still has time to save.
        """
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision) and decision.num_workers <= worker_group_state.num_workers:
            return NoopDecision()
        return decision

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Answer to Ray, again and again, while no group runs."""
        decision = super().make_decision_for_non_running_worker_group()
        now = time.monotonic()
        if isinstance(decision, ResizeDecision):
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        elif now - self._waits_since > self._start_timeout_s:
            raise CapacityError(
                f"the cluster has not had room for {self.scaling_config.min_workers} workers again within "
                f"{self._start_timeout_s:g} s; add nodes or lower runtime.num_workers, and run the command again"
            )
        if isinstance(decision, NoopDecision):
            time.sleep(self.GET_RESERVED_RESOURCES_INTERVAL_S)  # Ray asks again at once
        return decision

    def _get_reserved_resources(self) -> Any:
        """Resources by node that Ray's coordinator grants us and that are free or ours already; None if unknown."""
        try:
            granted = ray.get(
                self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, recompute=True),
                timeout=_COORDINATOR_TIMEOUT_S,
            )
        except RayError:
            return None
        free, draining = ray_state.available_resources_per_node(), ray_state.state.get_draining_nodes()
        share = self.scaling_config._resources_per_worker_not_none

        def usable(node: str, kind: str) -> float:
            return float(free.get(node, {}).get(kind, 0) + _own_nodes.count(node) * share.get(kind, 0))

        return {
            node: {kind: min(amount, usable(node, kind)) for kind, amount in granted[node].items()}
            for node in _answering(granted)
            if node not in draining
        }


def _answering(ids: Collection[str]) -> Iterator[str]:
    """The nodes that answer on their port; Ray itself notices only after 15 s that a node is gone."""
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] in ids:
            with contextlib.suppress(OSError):
                socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=1).close()
                yield node["NodeID"]


def as_ours(error: Any) -> ClinscaleError:
    """The user's error for a failed group: ranks and kinds of errors, not their text, which may quote data."""
    if own := _own_error(error):
        return own
    if isinstance(_controller_failure(error), WorkerGroupStartupTimeoutError):
        return CapacityError(
            "the workers ended, and the cluster had no room for them again within runtime.start_timeout_s; add nodes "
            "or lower runtime.num_workers, and run the command again"
        )
    return ClusterError(
        f"the group of workers failed ({_describe(error)}); start it again after a look at {ray_logs()}"
    )


def _own_error(error: Any) -> ClinscaleError | None:
    """The error of ours that ended the group, if one did; a worker that Ray killed for its memory is one, too."""
    for rank, failure in _failures(error).items():
        if own := own_cause(failure):
            return own
        if isinstance(failure, KilledForMemory):
            return OutOfMemoryError(
                f"worker {rank} was killed because its node ran out of memory; use smaller micro batches"
            )
    return own_cause(_controller_failure(error))


def _describe(error: Any) -> str:
    described = (f"worker {rank}: {type(failure).__name__}" for rank, failure in sorted(_failures(error).items()))
    return ", ".join(described) or type(_controller_failure(error) or error).__name__


def _failures(error: Any) -> Mapping[int, BaseException]:
    """Errors by rank; empty when the controller failed, or a node was taken away, rather than a worker."""
    failures = getattr(error, "worker_failures", None) or {}
    return {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}


def _controller_failure(error: Any) -> BaseException | None:
    return getattr(error, "controller_failure", None)
