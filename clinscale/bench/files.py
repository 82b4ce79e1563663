"""Invented files of any size in each format, out of the demo's texts; the same seed writes the same bytes."""

import csv
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from clinscale.bench import scripts
from clinscale.synthetic import write_demo_data

_NOTEEVENTS = (
    "ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME", "CATEGORY", "DESCRIPTION", "CGID",
    "ISERROR", "TEXT",
)  # fmt: skip
_SCALE = 0.2
"""Share of the demo's data; its texts are taken in turns, again and again."""


@dataclass(frozen=True)
class Texts:
    """The demo's texts, each with its gold."""

    notes: list[tuple[str, None]]
    annotated: list[tuple[str, scripts.Gold]]
    asked: list[tuple[str, list[dict[str, Any]]]]
    """The paragraphs with their questions."""


def invent_texts(seed: int) -> Texts:
    """The invented texts that the files are made of."""
    with tempfile.TemporaryDirectory() as temporary:
        demo = Path(temporary)
        write_demo_data(demo, seed=seed, scale=_SCALE)
        notes = scripts.read_json_lines([demo / "notes" / "notes.jsonl.gz"])
        annotated = scripts.read_brat(demo / "entities" / "train")
        articles = json.loads((demo / "questions" / "train.json").read_text(encoding="utf-8"))["data"]
    return Texts(
        [(note["text"], None) for note in notes],
        [(text, gold) for _, text, _, gold in annotated],
        [(part["context"], part["qas"]) for article in articles for part in article["paragraphs"]],
    )


def write_invented(name: str, folder: Path, texts: Texts, num_bytes: int) -> None:
    """Write about `num_bytes` of the format `name` into `folder`, which is made."""
    folder.mkdir(parents=True)
    _WRITERS[name](folder, texts, num_bytes)


def write_parquet(file: Path, rows: list[scripts.Row]) -> None:
    """The rows as one Parquet file."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def write_arrow(file: Path, rows: list[scripts.Row]) -> None:
    """The rows as HF's `save_to_disk` writes them: a stream of batches of 1,000."""
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)


def _write_csv(folder: Path, texts: Texts, num_bytes: int) -> None:
    _write_table(folder / "notes.csv", ("id", "category", "text"), map(dict.values, _rows(texts, num_bytes)))


def _write_noteevents(folder: Path, texts: Texts, num_bytes: int) -> None:
    rows = (
        (number, number // 40, number // 20, "2150-01-02", "", "", "Discharge summary", "Report", "", "", text)
        for number, text, _ in _endless(texts.notes, num_bytes)
    )
    _write_table(folder / "NOTEEVENTS.csv", _NOTEEVENTS, rows)


def _write_jsonl(folder: Path, texts: Texts, num_bytes: int) -> None:
    with (folder / "notes.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in _rows(texts, num_bytes))


def _write_json(folder: Path, texts: Texts, num_bytes: int) -> None:
    rows = {row.pop("id"): row for row in _rows(texts, num_bytes)}
    (folder / "notes.json").write_text(json.dumps(rows), encoding="utf-8")


def _write_bio(folder: Path, texts: Texts, num_bytes: int) -> None:
    with (folder / "notes.tsv").open("w", encoding="utf-8") as stream:
        for _, text, gold in _endless(texts.annotated, num_bytes):
            stream.writelines(f"{line}\n" for line in [*_tagged(text, gold), ""])


def _write_brat(folder: Path, texts: Texts, num_bytes: int) -> None:
    for number, text, gold in _endless(texts.annotated, num_bytes):
        lines = (f"T{n}\t{label} {a} {b}\t{text[a:b]}\n" for n, (a, b, label) in enumerate(gold, 1))
        (folder / f"{number:06d}.txt").write_text(text, encoding="utf-8")
        (folder / f"{number:06d}.ann").write_text("".join(lines), encoding="utf-8")


def _write_i2b2_xml(folder: Path, texts: Texts, num_bytes: int) -> None:
    for number, text, gold in _endless(texts.annotated, num_bytes):
        tags = "".join(
            f'<PHI id="P{n}" start="{a}" end="{b}" text={quoteattr(text[a:b])} TYPE="{label}" comment="" />\n'
            for n, (a, b, label) in enumerate(gold)
        )
        document = f"<deIdi2b2>\n<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{tags}</TAGS>\n</deIdi2b2>\n"
        head = '<?xml version="1.0" encoding="UTF-8" ?>\n'
        (folder / f"{number:06d}.xml").write_text(head + document, encoding="utf-8")


def _write_squad(folder: Path, texts: Texts, num_bytes: int) -> None:
    paragraphs = [
        {"context": text, "qas": [{**question, "id": f"{number}-{question['id']}"} for question in questions]}
        for number, text, questions in _endless(texts.asked, num_bytes)
    ]
    data = {"version": "1.1", "data": [{"title": "invented notes", "paragraphs": paragraphs}]}
    (folder / "questions.json").write_text(json.dumps(data), encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, Texts, int], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "json": _write_json,
    "bio": _write_bio,
    "brat": _write_brat,
    "i2b2_xml": _write_i2b2_xml,
    "squad": _write_squad,
    "noteevents": _write_noteevents,
}


def _rows(texts: Texts, num_bytes: int) -> Iterator[dict[str, str]]:
    for number, text, _ in _endless(texts.notes, num_bytes):
        yield {"id": f"note-{number}", "category": "Discharge summary", "text": text}


def _endless(texts: Sequence[tuple[str, Any]], num_bytes: int) -> Iterator[tuple[int, str, Any]]:
    """Number, text and gold, each text distinguished by its last line, until text and gold have about `num_bytes`."""
    for number, (text, gold) in enumerate(itertools.cycle(texts)):
        yield number, f"{text}\nNote {number}.", gold  # at the end, so that offsets hold
        num_bytes -= len(text) + (len(str(gold)) if gold else 0)
        if num_bytes <= 0:
            return


def _tagged(text: str, gold: scripts.Gold) -> Iterator[str]:
    """Token, tab, tag; nothing where the text has a line break."""
    tags = {at: f"{'I' if at > start else 'B'}-{label}" for start, end, label in gold for at in range(start, end)}
    for token in re.finditer(r"\w+|[^\w\s]|\n", text):
        yield f"{token[0]}\t{tags.get(token.start(), 'O')}" if token[0] != "\n" else ""


def _write_table(file: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
