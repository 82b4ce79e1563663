"""The demo's data on disk: one folder per task in that task's public format, and the pretraining notes."""

import csv
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clinscale.errors import ConfigError
from clinscale.permissions import make_folder
from clinscale.synthetic.annotations import brat, entity_note, pair, squad_paragraph
from clinscale.synthetic.documents import balanced_labels, labelled_document, pretraining_note

SIZES = {
    "notes": {"notes": 400},
    "documents": {"train": 240, "dev": 60, "test": 80},
    "pairs": {"train": 600, "dev": 120, "test": 150},
    "entities": {"train": 120, "dev": 30, "test": 40},
    "questions": {"train": 90, "dev": 20, "test": 30},
}
"""Numbers of notes, documents, pairs, annotated notes and question contexts are written at scale 1."""


def write_demo_data(folder: Path, *, seed: int = 0, scale: float = 1.0) -> None:
    """Write all of the demo's data below `folder`; the same seed and scale write the same bytes.

    Args:
        folder: made when absent; files of the same names are replaced.
        seed: of the generator; each file has its own stream, so none depends on the size of another.
        scale: multiplies the sizes in `SIZES`.

    Raises:
        ConfigError: scale is not positive.
    """
    if scale <= 0:
        raise ConfigError(f"the scale of the demo data must be above 0, got {scale:g}; 1 is the usual size")
    writers = {
        "notes": _write_notes,
        "documents": _write_documents,
        "pairs": _write_pairs,
        "entities": _write_entities,
        "questions": _write_questions,
    }
    for kind, write in writers.items():
        make_folder(folder / kind)
        for split, size in SIZES[kind].items():
            write(folder / kind / split, random.Random(f"{seed}/{kind}/{split}"), max(4, round(size * scale)))


def new_document(*, seed: int) -> tuple[str, str]:
    """A labelled document that is in no split: its text and its label."""
    rng = random.Random(f"{seed}/new")
    [label] = balanced_labels(rng, 1)
    return labelled_document(rng, label), label


def _write_notes(stem: Path, rng: random.Random, count: int) -> None:
    rows = ({"id": f"note-{number:05d}", "text": pretraining_note(rng)} for number in range(count))
    text = "".join(_json_lines(rows))
    # mtime=0: a gzip header holds the time of writing, and the same seed must write the same bytes
    stem.with_suffix(".jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def _write_documents(stem: Path, rng: random.Random, count: int) -> None:
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "text", "label"])
        for number, label in enumerate(balanced_labels(rng, count)):
            rows.writerow([f"{stem.name}-{number:04d}", labelled_document(rng, label), label])


def _write_pairs(stem: Path, rng: random.Random, count: int) -> None:
    labels = ["entailment", "contradiction", "neutral"]
    rows = ({"id": f"{stem.name}-{number:04d}", **pair(rng, labels[number % 3])} for number in range(count))
    stem.with_suffix(".jsonl").write_text("".join(_json_lines(rows)), encoding="utf-8")


def _write_entities(folder: Path, rng: random.Random, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        note = entity_note(rng)
        (folder / f"{number:03d}.txt").write_text(note.text, encoding="utf-8", newline="")
        (folder / f"{number:03d}.ann").write_text(brat(note), encoding="utf-8", newline="")


def _write_questions(stem: Path, rng: random.Random, count: int) -> None:
    contexts = [squad_paragraph(rng, f"{stem.name}-{number:03d}") for number in range(count)]
    data = {"version": "1.1", "data": [{"title": "invented notes", "paragraphs": contexts}]}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row) + "\n" for row in rows)
