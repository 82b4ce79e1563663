"""The obvious script for each format: what people write when a folder of files must become texts and gold.

They believe the files: nothing is checked, repaired or named when it is wrong. Rows are dictionaries; examples are
(id, text, second text, gold), gold being (start, end, label) of entities or (start, answer). pandas and pyarrow are
imported late, since the other benches run where they are not.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

Row = dict[str, Any]
Gold = tuple[tuple[Any, ...], ...]
Plain = tuple[str, str, str | None, Gold]


def read_csv(files: Sequence[Path]) -> list[Row]:
    """Every cell as the text that it is."""
    import pandas

    rows: list[Row] = []
    for file in files:
        rows += pandas.read_csv(file, dtype=str, keep_default_na=False).to_dict("records")
    return rows


def read_csv_in_chunks(files: Sequence[Path]) -> list[Row]:
    """Read in chunks, as a file larger than the memory needs it."""
    import pandas

    rows: list[Row] = []
    for file in files:
        for chunk in pandas.read_csv(file, dtype=str, keep_default_na=False, chunksize=10_000):
            rows += chunk.to_dict("records")
    return rows


def read_json_lines(files: Sequence[Path]) -> list[Row]:
    """One object per line."""
    rows: list[Row] = []
    for file in files:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8") as stream:
            rows += [json.loads(line) for line in stream]
    return rows


def read_json(files: Sequence[Path]) -> list[Row]:
    """Objects by id."""
    rows: list[Row] = []
    for file in files:
        with file.open(encoding="utf-8") as stream:
            rows += [{"id": key, **fields} for key, fields in json.load(stream).items()]
    return rows


def read_parquet(files: Sequence[Path]) -> list[Row]:
    """The rows as pandas reads them."""
    import pandas

    rows: list[Row] = []
    for file in files:
        rows += pandas.read_parquet(file).to_dict("records")
    return rows


def read_arrow(files: Sequence[Path]) -> list[Row]:
    """The streams that `datasets` writes, by the library beneath it."""
    import pyarrow

    rows: list[Row] = []
    for file in files:
        with pyarrow.memory_map(str(file)) as stream:
            rows += pyarrow.ipc.open_stream(stream).read_all().to_pylist()
    return rows


def read_bio(folder: Path) -> list[Plain]:
    """Token, tab, tag; a blank line ends a sentence."""
    examples: list[Plain] = []
    for file in sorted(folder.glob("*.tsv")):
        number = 0
        tokens: list[str] = []
        tags: list[str] = []
        with file.open(encoding="utf-8") as stream:
            for line in [*stream, ""]:
                line = line.strip()
                if line:
                    token, tag = line.split("\t")
                    tokens.append(token)
                    tags.append(tag)
                elif tokens:
                    number += 1
                    examples.append((f"{file.stem}:{number}", " ".join(tokens), None, _spans(tokens, tags)))
                    tokens, tags = [], []
    return examples


def _spans(tokens: Sequence[str], tags: Sequence[str]) -> Gold:
    spans: list[tuple[int, int, str]] = []
    start, previous = 0, "O"
    for token, tag in zip(tokens, tags, strict=True):
        end = start + len(token)
        if tag[0] == "I" and previous[1:] == tag[1:]:
            spans[-1] = (spans[-1][0], end, tag[2:])
        elif tag != "O":
            spans.append((start, end, tag[2:]))
        start, previous = end + 1, tag
    return tuple(spans)


def read_brat(folder: Path) -> list[Plain]:
    """A `.txt` and a `.ann` per document."""
    examples: list[Plain] = []
    for file in sorted(folder.glob("*.txt")):
        spans = []
        with file.with_suffix(".ann").open(encoding="utf-8") as stream:
            for line in stream:
                if line[0] == "T":
                    label, offsets = line.split("\t")[1].split(" ", 1)
                    numbers = offsets.replace(";", " ").split()
                    spans.append((int(numbers[0]), int(numbers[-1]), label))
        with file.open(encoding="utf-8", newline="") as stream:
            examples.append((file.stem, stream.read(), None, tuple(spans)))
    return examples


def read_i2b2_xml(folder: Path) -> list[Plain]:
    """TEXT and TAGS."""
    examples: list[Plain] = []
    for file in sorted(folder.glob("*.xml")):
        root: Any = ElementTree.parse(file).getroot()
        spans = [(int(tag.get("start")), int(tag.get("end")), tag.get("TYPE")) for tag in root.find("TAGS")]
        examples.append((file.stem, root.findtext("TEXT"), None, tuple(spans)))
    return examples


def read_squad(folder: Path) -> list[Plain]:
    """Articles, paragraphs, questions; an answer without the blanks around it."""
    examples: list[Plain] = []
    for file in sorted(folder.glob("*.json")):
        with file.open(encoding="utf-8") as stream:
            articles = json.load(stream)["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = tuple(_answer(**answer) for answer in question["answers"])
                    examples.append((str(question["id"]), paragraph["context"], question["question"], answers))
    return examples


def _answer(answer_start: int, text: str, **_: Any) -> tuple[int, str]:
    return answer_start + len(text) - len(text.lstrip()), text.strip()


ROWS: dict[str, Callable[[Sequence[Path]], list[Row]]] = {
    "csv": read_csv,
    "jsonl": read_json_lines,
    "json": read_json,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "noteevents": read_csv_in_chunks,
}
"""Formats of rows, by their files."""

EXAMPLES: dict[str, Callable[[Path], list[Plain]]] = {
    "bio": read_bio,
    "brat": read_brat,
    "i2b2_xml": read_i2b2_xml,
    "squad": read_squad,
}
"""Formats of annotated texts, by their folder."""
