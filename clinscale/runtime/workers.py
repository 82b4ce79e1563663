"""Run one function on N Ray Train workers, resuming from its last checkpoint."""

import concurrent.futures
import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.errors import ClinscaleError, ClusterError, own_cause
from clinscale.runtime.session import ray_logs

Metrics = dict[str, float]
log = logging.getLogger(__name__)


class WorkerContext:
    """What the function on each worker sees of the group."""

    def __init__(self, queue: Any) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self._queue = queue

    @contextlib.contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """A local folder with the newest checkpoint of this run, from this or an earlier start; None at first.

        The folder is the run's own where workers can read it, else a copy that goes when the block ends.
        """
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Send rank 0's metrics to the driver without waiting.

        Not `ray.train.report`: that is a barrier of all ranks, answered at the controller's poll of 2 s.
        """
        if self.rank == 0:
            self._queue.actor.put.remote(dict(metrics))

    def checkpoint(self, save: Callable[[Path], None]) -> None:
        """Commit a checkpoint of which `save` writes this rank's part; a barrier, so every rank must call it."""
        import ray.train

        with tempfile.TemporaryDirectory(prefix="clinscale-checkpoint-") as folder:
            save(Path(folder))
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))


@dataclass(frozen=True)
class WorkersResult:
    """How a group ended."""

    checkpoint_dir: str
    """Where the newest checkpoint lies."""


def run_workers(
    function: Callable[[WorkerContext, Any], None],
    config: Any,
    *,
    num_workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    storage_path: str,
    name: str,
    num_to_keep: int,
    max_failures: int,
    on_log: Callable[[Metrics], None],
) -> WorkersResult:
    """Run `function(context, config)` on every worker of a Ray Train group; needs a `ray_session`.

    The group starts from the newest checkpoint below `storage_path/name` if there is one: the caller makes sure
    that it belongs to the same recipe. `on_log` is called in this process with what rank 0 logs; what it raises is
    raised here when the workers are done.

    Raises:
        ClinscaleError: of our own, from a worker; it is an answer and not a fault, so the group does not restart.
        ClusterError: the workers failed more than `max_failures` times; names rank and kind of the last error.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    # with two clusters on one host, Ray's helper that frees the workers of an interrupted group finds neither
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    logs = _Logs(on_log)
    trainer = _interruptible(TorchTrainer)(
        _Entry(function),
        train_loop_config={"config": config, "queue": logs.queue},
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus_per_worker, **({"GPU": gpus_per_worker} if gpus_per_worker else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker > 0 else "gloo"),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path,
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=num_to_keep),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with logs:
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _as_cluster_error(name, error) from None
    if result.checkpoint is None:
        raise ClusterError(f"run {name} ended without a checkpoint; {ray_logs()}")
    return WorkersResult(checkpoint_dir=result.checkpoint.path)


class _Entry:
    """What Ray calls on each worker; a class, so that the user's function travels by reference."""

    def __init__(self, function: Callable[[WorkerContext, Any], None]) -> None:
        self.function = function

    def __call__(self, loop_config: dict[str, Any]) -> None:
        self.function(WorkerContext(loop_config["queue"]), loop_config["config"])


def _interruptible(trainer_class: type[Any]) -> type[Any]:
    """A trainer whose `fit` leaves Ctrl-C to the caller, and which does not try again what cannot work.

    Ray Train takes SIGINT for itself, for good, aborts within half a minute and exits with 0; a command that must
    close its runs and say how to resume needs the KeyboardInterrupt.
    """

    class Interruptible(trainer_class):  # type: ignore[misc]
        def _initialize_and_run_controller(self, *, failure_policy: Any, **options: Any) -> Any:
            return super()._initialize_and_run_controller(
                failure_policy=_OwnErrorsAreFinal(failure_policy), **options
            )

        def _register_sigint_handler(self, controller: Any) -> None:
            self._controller = controller

        def fit(self) -> Any:
            import ray

            try:
                return super().fit()
            except KeyboardInterrupt:
                ray.kill(self._controller)  # and with it the workers that it owns
                raise

    return Interruptible


class _OwnErrorsAreFinal:
    """Ray's failure policy, except that a group which ends with an error of ours is not started again."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def make_decision(self, training_failed_error: Any) -> Any:
        """What Ray asks after each failure: to retry or to raise."""
        from ray.train.v2._internal.execution.failure_handling import FailureDecision

        if _own_error(training_failed_error):
            return FailureDecision.RAISE
        return self._policy.make_decision(training_failed_error)


class _Logs:
    """Carries rank 0's metrics to a thread of the driver, the one writer of the run."""

    def __init__(self, on_log: Callable[[Metrics], None]) -> None:
        from ray.util.queue import Queue

        self.queue = Queue(actor_options={"num_cpus": 0})
        self._on_log = on_log
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._error: ClinscaleError | None = None

    def __enter__(self) -> None:
        self._drained: concurrent.futures.Future[None] = self._thread.submit(self._drain)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):  # on a lost cluster nothing is left to drain
            if kind is None:
                self.queue.put(None)
                concurrent.futures.wait([self._drained])
            self.queue.shutdown(force=True)
        self._thread.shutdown()  # before Ray shuts down: a thread that still talks to it would end the process
        if kind is None:
            self._drained.result()
            if self._error:
                raise self._error

    def _drain(self) -> None:
        while (metrics := self._next()) is not None:
            try:
                self._on_log(metrics)
            except ClinscaleError as error:  # training goes on; the driver hears of it at the end
                if self._error is None:
                    log.warning("%s", error)
                self._error = error

    def _next(self) -> Metrics | None:
        from ray.exceptions import RayError

        try:
            metrics: Metrics | None = self.queue.get()
        except RayError:  # the group was interrupted and its queue is gone
            return None
        return metrics


def _as_cluster_error(name: str, error: Any) -> ClinscaleError:
    """Our own errors pass through; others are named by rank and type, without their text (it may quote data)."""
    if own := _own_error(error):
        return own
    failures = _worker_failures(error)
    told = ", ".join(f"worker {rank}: {type(failure).__name__}" for rank, failure in sorted(failures.items()))
    return ClusterError(
        f"run {name} failed ({told or type(error).__name__}); resume it after a look at {ray_logs()}"
    )


def _own_error(error: Any) -> ClinscaleError | None:
    return next((own for failure in _worker_failures(error).values() if (own := own_cause(failure))), None)


def _worker_failures(error: Any) -> dict[int, BaseException]:
    """By rank; empty when the controller failed rather than a worker."""
    return dict(getattr(error, "worker_failures", None) or {})
