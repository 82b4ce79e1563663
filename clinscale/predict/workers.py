"""Prediction by many processes: documents stream in, answers stream out in the same order, little is in between."""

import functools
from collections.abc import Callable, Generator

from clinscale.errors import CapacityError
from clinscale.predict.answers import Line, answer
from clinscale.predict.inputs import Document, Inputs
from clinscale.predict.predictor import CHUNK, Predictor
from clinscale.runtime import Cluster, out_of_memory_as, stream
from clinscale.tasks import OnError

_SHARES = 4
"""Chunks for each worker at least, where there are few documents, so that all of them end at about the same time."""


def answers_of_workers(
    load: Callable[[], Predictor], inputs: Inputs, total: int, *, num_workers: int, cluster: Cluster
) -> Generator[list[Line]]:
    """Yield the lines that `answer` makes of the documents on the workers of a `ray_session`, in their order.

    A worker that dies is started again, and its documents with it.

    Args:
        load: makes the predictor of each worker.
        inputs: files that all nodes see.
        total: documents in `inputs`.
        num_workers: processes that each load the model.
        cluster: of the session.

    Raises:
        DataError: as `load_predictor` and `answer`. CapacityError: the workers' memory is too small. ClusterError:
            they died again and again.
    """
    cpus = max(1, min(cluster.num_cpus // num_workers, cluster.num_cpus // cluster.num_nodes))
    gpus = 1 / -(-num_workers // cluster.num_gpus) if cluster.num_gpus else 0
    return stream(
        [functools.partial(inputs.chunks, max(1, min(CHUNK, total // (_SHARES * num_workers))))],
        functools.partial(_Worker, load, inputs.on_error, cpus),
        read={"num_cpus": 0, "concurrency": 1},
        do={"num_cpus": cpus, "num_gpus": gpus},
        num_actors=num_workers,
        in_order=True,
    )


def check_workers(num_workers: int, cluster: Cluster) -> None:
    """CapacityError for more workers than a Ray that we started has CPUs."""
    if cluster.started_here and num_workers > cluster.num_cpus:
        raise CapacityError(
            f"{num_workers} workers need a CPU each, this machine has {cluster.num_cpus}; lower --workers, or join a "
            "larger cluster with --address"
        )


class _Worker:
    """A predictor in a process of its own: documents in, lines out."""

    def __init__(self, load: Callable[[], Predictor], on_error: OnError, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._predictor, self._on_error = load(), on_error

    def __call__(self, documents: list[Document]) -> list[Line]:
        with out_of_memory_as(
            lambda memory: f"a worker ran out of {memory} memory; lower --batch-size or --workers"
        ):
            return answer(self._predictor, documents, self._on_error)
