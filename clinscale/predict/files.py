"""Files in, one file of answers out: by this process or by many, in the same order."""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale import models
from clinscale.errors import ChangedDataError
from clinscale.predict.answers import Line, Tally, answer, check_out, open_answers
from clinscale.predict.card import TaskCard
from clinscale.predict.inputs import Inputs
from clinscale.predict.predictor import CHUNK, Predictor, load_predictor
from clinscale.tasks import DocumentFormat, OnError

if TYPE_CHECKING:
    from clinscale.runtime import Cluster

OnProgress = Callable[[int, int, int], None]
"""Called with the documents done, all documents, and the windows of the model that this process has read."""


def predict_files(
    folder: str | Path,
    uris: Sequence[str],
    out: str | Path | None,
    *,
    on_error: OnError | None = None,
    format: DocumentFormat | None = None,
    num_workers: int | None = None,
    cluster: "Cluster | None" = None,
    batch_size: int = 8,
    attention: models.Attention = "exact",
    precision: models.InferencePrecision = "fp32",
    on_lines: Callable[[Sequence[Line]], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Tally:
    """A line for each document, its answer or why there is none; documents stream, so that few are in memory.

    All documents are read once before any work starts, so that a bad one is refused at once.

    Args:
        folder: HF folder of a fine-tuned model; with workers it and `uris` are where all nodes see them.
        uris: files and folders.
        out: as in `open_answers`, in the order of the documents; whole or not at all. None: only `on_lines`.
        on_error: as in `Inputs.find`.
        format: as in `Inputs.find`.
        num_workers: processes that each load the model; None: this one.
        cluster: of a `ray_session`, for workers.
        batch_size: windows of one forward pass.
        attention: as in `load_predictor`.
        precision: as in `load_predictor`.
        on_lines: called with the lines as they come.
        on_progress: called when documents or windows are done.

    Returns:
        How many documents there are, and what is odd about them.

    Raises:
        ConfigError: as `open_answers` and `Inputs.find`; `out` is among the files to read.
        DataError: as `load_predictor`, `Inputs.documents` and `Tally.check`.
        ChangedDataError: the inputs had another number of documents before.
        ClinscaleError: as `answers_of_workers`.
    """
    models.check_hf_folder(folder)
    card = TaskCard.read(folder)
    if out is not None:
        check_out(out)
    if cluster is not None:
        # late: the one module here that needs the room of clusters, which no registered version carries
        from clinscale.predict.workers import answers_of_workers, check_workers

        check_workers(num_workers or 1, cluster)
    inputs = Inputs.find(uris, card, on_error=on_error, format=format)
    if out is not None:
        inputs.check_out(out)
    total = inputs.count()
    tally, windows = Tally(), 0

    def on_windows(number: int) -> None:
        nonlocal windows
        windows += number
        if on_progress:
            on_progress(tally.documents, total, windows)

    load = functools.partial(load_predictor, batch_size=batch_size, attention=attention, precision=precision)
    if cluster is None:
        answers = _answers_here(load(folder), inputs, on_windows)
    else:
        load = functools.partial(load, str(Path(folder).absolute()))
        answers = answers_of_workers(load, inputs, total, num_workers=num_workers or 1, cluster=cluster)
    with (
        contextlib.closing(answers),  # on Ctrl-C the workers end at once
        open_answers(out, card) if out is not None else contextlib.nullcontext() as write,
    ):
        for lines in answers:
            tally.add(lines)
            for keep in (write, on_lines):
                if keep:
                    keep(lines)
            on_windows(0)
        tally.check()
        if tally.documents != total:
            raise ChangedDataError(
                f"the inputs must stay as they are while they are answered, got {total} documents before and "
                f"{tally.documents} then; wait until they are written, then run the same command again"
            )
    return tally


def _answers_here(
    predictor: Predictor, inputs: Inputs, on_windows: Callable[[int], None]
) -> Generator[list[Line]]:
    for documents in inputs.chunks(CHUNK):
        yield answer(predictor, documents, inputs.on_error, on_windows)
