"""The file of answers: a line for each document, in three formats, whole or not at all."""

import csv
import json
import re

import pyarrow.parquet
import pytest

from clinscale.errors import ConfigError, DataError
from clinscale.predict import Document, Tally, TaskCard, answer, check_out, is_of_answers, open_answers
from clinscale.tasks import Example, kind_of, load_task

LINES = [
    {"id": "ä", "file": "n.csv", "row": 1, "label": "-a", "labels": ["-a"], "scores": {"-a": 0.9, "b": 0.1}},
    {"id": "=1+1", "file": "n.csv", "row": 2, "error": "column 'text' has no text"},
]


def card(task="demo_documents", labels=("-a", "b")):
    return TaskCard(task=load_task(task), labels=labels, max_tokens=64, stride_tokens=8)


@pytest.fixture
def written(tmp_path):
    def write(name, lines=LINES, of=None):
        with open_answers(tmp_path / name, of or card()) as add:
            for line in lines:
                add([line])
        assert [path.name for path in tmp_path.iterdir()] == [name]
        return tmp_path / name

    return write


def test_json_lines_are_the_lines(written):
    assert [json.loads(line) for line in written("o.jsonl").read_text().splitlines()] == LINES


def test_a_line_break_of_unicode_breaks_no_line(written):
    lines = [{"id": "a\u2028\x85", "file": "f", "row": 1, "error": "\u2029é"}] * 2
    assert [json.loads(line) for line in written("o.jsonl", lines).read_text().splitlines()] == lines


def test_a_spreadsheet_computes_nothing_in_csv(written):
    rows = list(csv.DictReader(written("o.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == {
        **{"id": "ä", "file": "n.csv", "row": "1", "label": "'-a", "error": ""},
        **{"labels": '["-a"]', "scores": '{"-a": 0.9, "b": 0.1}'},
    }
    assert (rows[1]["id"], rows[1]["label"], rows[1]["error"]) == ("'=1+1", "", "column 'text' has no text")


@pytest.mark.parametrize("value", ["=1", "+1", "-1", "@a", "\ta", "\ra"])
def test_no_cell_begins_a_formula(value, written):
    line = {"id": "1", "file": "f", "row": 1, "answer": value, "start": 0, "end": 2, "score": 1.0}
    [row] = csv.DictReader(written("o.csv", [line], card("demo_questions", ())).open(newline=""))
    assert row["answer"] == f"'{value}"


@pytest.mark.parametrize("value", ["=1", "'=1", "''=1", "'n abend", "''", "'", "-", "a=1"])
def test_what_was_neutralised_can_be_read_back_and_no_two_ids_become_one(value, written):
    line = {"id": value, "file": "f", "row": 1, "answer": "a", "start": 0, "end": 1, "score": 1.0}
    [row] = csv.DictReader(written("o.csv", [line], card("demo_questions", ())).open(newline=""))
    assert re.sub("^'('*[=+\\-@])", r"\1", row["id"]) == value


def test_parquet_holds_what_the_lines_hold(written):
    found = pyarrow.parquet.read_table(written("o.parquet")).to_pylist()
    none = dict.fromkeys(["label", "labels", "scores", "error"])
    assert found == [{**none, **line} for line in LINES]


@pytest.mark.parametrize("task", ["demo_documents", "demo_pairs", "demo_entities", "demo_questions"])
def test_tables_have_a_column_for_every_key_of_an_answer(task, written):
    of = card(task)
    [prediction] = kind_of(of.task).trivial([], [Example("1", "text", "question")], of.labels)
    rows = csv.DictReader(
        written("o.csv", [{"id": "1", "file": "f", "row": 1, **prediction}], of).open(newline="")
    )
    assert set(rows.fieldnames) == {"id", "file", "row", "error", *prediction}


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet"])
def test_answers_are_known_from_other_files(name, written, tmp_path):
    assert is_of_answers(written(name))
    (tmp_path / name).write_bytes(b"")
    assert is_of_answers(tmp_path / name)
    others = (
        *(b'{"id": 1, "text": "file: row"}\n', b"id,text,file,row\n", b"id,file,rows,text\n", b"PAR1", b"[]\n"),
        # what people add to answers is lost with them
        *(
            b"id,file,row,label,labels,scores,error,seen by\n",
            b'{"id": "1", "file": "f", "row": 1, "gold": "A"}\n',
        ),
    )
    for other in others:
        (tmp_path / name).write_bytes(other)
        assert not is_of_answers(tmp_path / name)
    for table in ({"id": ["1"], "text": ["pain"]}, {"id": ["1"], "file": ["f"], "row": [1], "seen by": ["E"]}):
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / name)
        assert not is_of_answers(tmp_path / name)


def test_a_line_of_very_many_entities_is_an_answer(written):
    entities = [{"start": 0, "end": 1, "label": "A", "score": 1.0}] * 2000
    assert is_of_answers(written("o.jsonl", [{"id": "1", "file": "f", "row": 1, "entities": entities}]))


@pytest.mark.parametrize(
    "task", ["demo_documents", "demo_pairs", "demo_entities", "demo_questions", "maccrobat_relations"]
)
@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet"])
def test_answers_of_every_kind_are_known(task, name, written):
    of = card(task)
    [prediction] = kind_of(of.task).trivial([], [Example("1", "text", "question")], of.labels)
    assert is_of_answers(written(name, [{"id": "1", "file": "f", "row": 1, **prediction}], of))


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet"])
def test_a_file_is_whole_or_not_there(name, tmp_path):
    (tmp_path / name).write_text("old")

    def stop_halfway():
        with open_answers(tmp_path / name, card()) as add:
            add(LINES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


@pytest.mark.parametrize(
    ("name", "says"), [("o.xlsx", r"must end in \.jsonl"), ("s3://b/o.csv", "must be a local file")]
)
def test_a_file_that_could_not_be_written_is_refused_at_once(name, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        check_out(name)
    (tmp_path / "o.csv").mkdir()
    with pytest.raises(ConfigError, match="must be a file, got a folder"):
        check_out(tmp_path / "o.csv")
    card().write(tmp_path)
    with pytest.raises(ConfigError, match="must not be in a model's folder"):
        check_out(tmp_path / "answers" / "o.jsonl")


class Asked:
    """A predictor that finds no room for one question."""

    def predict(self, examples, on_progress=None):
        if any(example.text == "long" for example in examples):
            raise ConfigError("a question of 99 tokens leaves no room")
        return [{"label": example.text} for example in examples]


def test_one_document_that_cannot_be_answered_keeps_none_from_its_answer():
    texts = ["a", None, "long", "b"]
    asked = [
        Document(str(n), "f", n, text and Example(str(n), text), "" if text else "has no text")
        for n, text in enumerate(texts, 1)
    ]
    lines = answer(Asked(), asked, "skip")
    assert [line.get("label") for line in lines] == ["a", None, None, "b"]
    assert [line.get("error") for line in lines[1:3]] == ["has no text", "a question of 99 tokens leaves no room"]
    with pytest.raises(DataError, match="f row 3: a question of 99 tokens"):
        answer(Asked(), asked, "raise")


def test_repeated_ids_are_counted_and_errors_alone_are_refused():
    tally = Tally()
    tally.add([*LINES, {**LINES[0], "row": 3}])
    tally.check()
    assert (tally.documents, tally.errors, tally.repeated_ids) == (3, 1, 1)
    wrong = Tally()
    wrong.add(LINES[1:])
    with pytest.raises(DataError, match=r"none of 1 documents can be answered; the first: n\.csv row 2: column"):
        wrong.check()


def test_a_file_that_is_a_link_stays_one(tmp_path):
    """Who reads where it leads would go on with the answers of before."""
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "o.jsonl").symlink_to("there.jsonl")
    with open_answers(tmp_path / "o.jsonl", card()) as add:
        add(LINES)
    assert (tmp_path / "o.jsonl").is_symlink()
    assert len((tmp_path / "there.jsonl").read_text().splitlines()) == 2
