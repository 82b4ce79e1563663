"""Output of `clinscale predict`: one line per document, its answer or the reason why there is none."""

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.errors import ConfigError, DataError
from clinscale.predict.card import CARD_FILE
from clinscale.predict.inputs import Document
from clinscale.storage import atomic_path, is_remote, refuse_device
from clinscale.tasks import OnError, column, kind_of

if TYPE_CHECKING:
    import pyarrow

    from clinscale.predict.card import TaskCard
    from clinscale.predict.predictor import Predictor

Line = dict[str, Any]
"""JSON-ready: `id`, `file` and `row` of a document; then the keys of its prediction, or `error`, a sentence."""

Write = Callable[[Sequence[Line]], None]
"""Adds lines to a file."""


_BEFORE = (column("id", "string"), column("file", "string"), column("row", "long"))
_AFTER = (column("error", "string", required=False),)
_BETWEEN = ("label", "labels", "scores", "threshold", "entities", "relations", "answer", "start", "end", "score")
"""Names of the columns of answers of every kind."""

FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")
"""The endings that name the format of a file of answers; the first two are JSON lines."""


def answer(
    predictor: "Predictor",
    documents: Sequence[Document],
    on_error: OnError,
    on_progress: Callable[[int], None] | None = None,
) -> list[Line]:
    """The line of each document, in order; `on_progress` as in `Predictor.predict`.

    Raises:
        DataError: a document cannot be answered, where such are not skipped.
    """
    asked = [document for document in documents if document.example]
    answers = iter(_answers(predictor, asked, on_error, on_progress))
    return [
        {
            "id": one.id,
            "file": one.file,
            "row": one.row,
            **(next(answers) if one.example else {"error": one.fault}),
        }
        for one in documents
    ]


def _answers(
    predictor: "Predictor",
    documents: Sequence[Document],
    on_error: OnError,
    on_progress: Callable[[int], None] | None,
) -> list[Line]:
    """The predictions of documents with an example; of one by one when together they cannot be asked."""
    try:
        return predictor.predict([one.example for one in documents if one.example], on_progress)
    except (ConfigError, DataError) as error:  # a question, say, that leaves no room for the text
        if len(documents) > 1:
            return [line for one in documents for line in _answers(predictor, [one], on_error, on_progress)]
        if on_error == "raise":
            raise documents[0].refusal(str(error)) from None
        return [{"error": str(error)}]


class Tally:
    """Counts lines as they are written."""

    def __init__(self) -> None:
        self.documents = 0
        self.errors = 0
        """Number of documents with an error line."""
        self.repeated_ids = 0
        """Number of documents whose id an earlier one has; `file` and `row` distinguish them."""
        self._ids: set[str] = set()
        self._first_error = ""

    def add(self, lines: Sequence[Line]) -> None:
        """Count these, too."""
        for line in lines:
            self.documents += 1
            self.repeated_ids += line["id"] in self._ids
            self._ids.add(line["id"])
            if "error" in line:
                self.errors += 1
                self._first_error = self._first_error or f"{line['file']} row {line['row']}: {line['error']}"

    def check(self) -> None:
        """Refuse lines of errors alone: not the documents are wrong then, but what was asked.

        Raises:
            DataError: no document was answered; with the first reason.
        """
        if self.errors == self.documents:
            raise DataError(f"none of {self.documents} documents can be answered; the first: {self._first_error}")


_FIRST_BYTES = 2**16
"""Length of a line within which `id`, `file` and `row` are."""


def check_out(out: str | Path) -> None:
    """Refuse a file for answers that could not be written, before there are any.

    Raises:
        ConfigError: an ending that names no format, a folder, a place in an object store, or one in a model's folder,
            which would be another model by that, to its digest and to who pulls it.
    """
    if is_remote(out):
        raise ConfigError(f"{out} must be a local file, got a remote one; write it here and copy it there")
    if Path(out).suffix.lower() not in FORMATS:
        raise ConfigError(f"{out} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; give it such an ending")
    if Path(out).is_dir():
        raise ConfigError(f"{out} must be a file, got a folder; name a file in it")
    refuse_device(Path(out))
    model = next((one for one in Path(out).resolve().parents if (one / CARD_FILE).is_file()), None)
    if model:
        raise ConfigError(f"{out} must not be in a model's folder, got {model}; name a file elsewhere")


def is_of_answers(file: str | Path) -> bool:
    """Whether a file holds answers, or nothing, so that others may take its place without loss of anything else.

    A column that no answer has is somebody's: remarks on answers are lost with the file.
    """
    path = Path(file)
    if not path.stat().st_size:
        return True
    names = _columns_of(path)
    before, after = ([column["name"] for column in part] for part in (_BEFORE, _AFTER))
    return names[: len(before)] == before and {*_BETWEEN, *after}.issuperset(names[len(before) :])


def _columns_of(path: Path) -> list[str]:
    """Names of the columns in the head, or first line, of a file; none where it cannot be read as its ending says."""
    if path.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_schema(path).names)
        except (OSError, pyarrow.ArrowException):
            return []
    with path.open("rb") as stream:
        line = stream.readline(_FIRST_BYTES).decode(errors="replace")
    if path.suffix.lower() == ".csv":
        return line.rstrip("\r\n").split(",")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):  # it goes on for long, as an answer with very many entities does
        return [*found.groups()] if (found := _BEGINNING.match(line)) else []
    return list(values) if isinstance(values, dict) else []


_BEGINNING = re.compile(r'\{"(id)": .*?, "(file)": .*?, "(row)": [0-9]+, "(\w+)": ')


@contextlib.contextmanager
def open_answers(out: str | Path, card: "TaskCard") -> Iterator[Write]:
    """A function that writes lines to `out`, which is there, whole, once the block has ended without an error.

    The ending of its name gives the format (`check_out`): JSON lines as the lines are; CSV with lists and scores as
    JSON, and an apostrophe before what a spreadsheet would take for a formula and before apostrophes that lead there
    already, so that who takes one away has what it was; Parquet with columns of lists and structs.

    Raises:
        ConfigError: as `check_out`.
    """
    check_out(out)
    write = {".csv": _csv, ".parquet": _parquet}.get(Path(out).suffix.lower(), _json_lines)
    with atomic_path(Path(out).resolve()) as temporary, write(temporary, card) as add:  # a link stays one
        yield add


_LINE_BREAKS = {ord(one): f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"}
"""Line breaks of Unicode, as escapes: some readers, `str.splitlines` for one, end a line at them."""


@contextlib.contextmanager
def _json_lines(path: Path, card: "TaskCard") -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda lines: file.writelines(
            json.dumps(line, ensure_ascii=False).translate(_LINE_BREAKS) + "\n" for line in lines
        )


@contextlib.contextmanager
def _csv(path: Path, card: "TaskCard") -> Iterator[Write]:
    names = [column["name"] for column in (*_BEFORE, *kind_of(card.task).output_columns, *_AFTER)]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        yield lambda lines: rows.writerows([_cell(line.get(name)) for name in names] for line in lines)


_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
"""The beginning, with wide characters too, of a cell that a spreadsheet computes (OWASP, CSV Injection)."""


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


@contextlib.contextmanager
def _parquet(path: Path, card: "TaskCard") -> Iterator[Write]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow, which is not installed here; pip install pyarrow") from None

    columns = (*_BEFORE, *kind_of(card.task).output_columns, *_AFTER)
    schema = pyarrow.schema([(column["name"], _arrow_type(column, card.labels)) for column in columns])
    waiting: list[Line] = []

    with pyarrow.parquet.ParquetWriter(path, schema) as file:

        def write(lines: Sequence[Line], at_least: int = 4096) -> None:
            waiting.extend(lines)
            if len(waiting) >= at_least:  # readers are slow on small row groups
                file.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting.clear()

        yield write
        write([], at_least=1)


def _arrow_type(column: Mapping[str, Any], labels: Sequence[str]) -> "pyarrow.DataType":
    import pyarrow

    match column["type"]:
        case "array":
            return pyarrow.list_(_arrow_type(column["items"], labels))
        case "object":
            return pyarrow.struct([(name, _arrow_type(of, labels)) for name, of in column["properties"].items()])
        case "map":  # a struct of the labels, which readers show as the dict that it is
            return pyarrow.struct([(label, _arrow_type(column["values"], labels)) for label in labels])
    return {"string": pyarrow.string(), "long": pyarrow.int64(), "double": pyarrow.float64()}[column["type"]]
