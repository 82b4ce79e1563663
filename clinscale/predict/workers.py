"""Prediction by many processes: documents stream in, answers stream out in the same order, little lies in between."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clinscale import models
from clinscale.errors import CapacityError, OutOfMemoryError
from clinscale.predict.card import TaskCard
from clinscale.predict.inputs import prediction_line, read_documents
from clinscale.predict.predictor import CHUNK, load_predictor
from clinscale.runtime import Cluster, exhausted_memory, stream
from clinscale.storage import atomic_path, filesystem, is_remote
from clinscale.tasks import Example

_SHARES = 4
"""Chunks for each worker at least, where there are few documents, so that all of them end at about the same time."""


def predict_files(
    folder: str | Path,
    uris: Sequence[str],
    out: str | Path,
    *,
    num_workers: int,
    cluster: Cluster,
    batch_size: int = 8,
    attention: models.Attention = "exact",
    precision: models.InferencePrecision = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """What `read_documents`, `Predictor.predict` and `write_predictions` do, on the workers of a `ray_session`.

    All documents are read once before any work starts, so that a bad row is refused at once. A worker that dies is
    started again, and its documents with it.

    Args:
        folder: HF folder of a fine-tuned model, where all nodes see it.
        uris: files and folders, where all nodes see them.
        out: JSON lines, in the order of the documents; whole or not at all.
        num_workers: processes that each load the model.
        cluster: of the session.
        batch_size: windows of one forward pass.
        attention: as in `load_predictor`.
        precision: as in `load_predictor`.
        on_progress: called with the documents done, and all.

    Returns:
        How many documents there are.

    Raises:
        DataError: as `load_predictor` and `read_documents`. CapacityError: too many workers for a Ray that we started,
            or their memory is too small. ClusterError: workers died again and again.
    """
    models.check_hf_folder(folder)
    card = TaskCard.read(folder)
    if cluster.started_here and num_workers > cluster.num_cpus:
        raise CapacityError(
            f"{num_workers} workers need a CPU each, this machine has {cluster.num_cpus}; lower --workers, or join a "
            "larger cluster with --address"
        )
    wherever = [uri if is_remote(uri) else filesystem(uri)[1] for uri in uris]
    total = sum(1 for _ in read_documents(wherever, card))
    cpus = max(1, min(cluster.num_cpus // num_workers, cluster.num_cpus // cluster.num_nodes))
    gpus = 1 / -(-num_workers // cluster.num_gpus) if cluster.num_gpus else 0
    answers = stream(
        [functools.partial(_chunks, wherever, card, max(1, min(CHUNK, total // (_SHARES * num_workers))))],
        functools.partial(_Worker, str(Path(folder).absolute()), batch_size, attention, precision, cpus),
        read={"num_cpus": 0, "concurrency": 1},
        do={"num_cpus": cpus, "num_gpus": gpus},
        num_actors=num_workers,
        in_order=True,
    )
    done = 0
    with (
        contextlib.closing(answers),  # on Ctrl-C the workers end at once
        atomic_path(out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for lines in answers:
            file.writelines(lines)
            done += len(lines)
            if on_progress:
                on_progress(done, total)
    return done


def _chunks(uris: Sequence[str], card: TaskCard, size: int) -> Iterator[list[Example]]:
    documents = read_documents(uris, card)
    while chunk := list(itertools.islice(documents, size)):
        yield chunk


class _Worker:
    """A predictor in a process of its own: examples in, lines out."""

    def __init__(
        self,
        folder: str,
        batch_size: int,
        attention: models.Attention,
        precision: models.InferencePrecision,
        num_threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._predictor = load_predictor(folder, batch_size=batch_size, attention=attention, precision=precision)

    def __call__(self, examples: list[Example]) -> list[str]:
        try:
            predictions = self._predictor.predict(examples)
        except (MemoryError, RuntimeError, OSError) as error:
            if memory := exhausted_memory(error):
                raise OutOfMemoryError(
                    f"a worker ran out of {memory} memory; lower --batch-size or --workers"
                ) from None
            raise
        return [prediction_line(*both) for both in zip(examples, predictions, strict=True)]
