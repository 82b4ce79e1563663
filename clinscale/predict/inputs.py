"""What users hand to `clinscale predict`, and what they get back."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clinscale.errors import DataError
from clinscale.predict.card import TaskCard
from clinscale.records import RECORD_SUFFIXES, data_suffix, list_files, read_records, read_text
from clinscale.storage import atomic_path
from clinscale.tasks import Example, Prediction

_TEXTS = (".txt", ".text")


def read_documents(uris: Sequence[str], card: TaskCard) -> Iterator[Example]:
    """Documents from text files (one each) and tables.

    Columns are as the task names them; a question about the text is in `question`, an id in `id` where there is one.

    Raises:
        DataError: missing file, absent column, row without text, invalid UTF-8.
    """
    columns = card.task.columns
    pair = columns.text_pair or {"pair": "text_pair", "spans": "question"}.get(card.task.kind)
    for uri in uris:
        for path in list_files(uri, [*_TEXTS, *RECORD_SUFFIXES]):
            if data_suffix(path) not in RECORD_SUFFIXES:
                text = read_text(path)
                if not text.strip():
                    raise DataError(f"{path} has no text; fill it or leave it out")
                yield Example(id=Path(path).name, text=text)
                continue
            for record in read_records(path, [*columns.texts, *([pair] if pair else [])]):
                yield Example(
                    id=str(record.fields.get(columns.id or "id") or record.number),
                    text="\n".join(record.text(column) for column in columns.texts),
                    text_pair=record.text(pair) if pair else None,
                )


def write_predictions(path: str | Path, examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    """JSON lines of `id` and the prediction, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for example, prediction in zip(examples, predictions, strict=True):
            stream.write(prediction_line(example, prediction))


def prediction_line(example: Example, prediction: Prediction) -> str:
    """The JSON line of one document."""
    return json.dumps({"id": example.id, **prediction}, ensure_ascii=False) + "\n"
