"""What users hand to `clinscale predict`."""

import json

import pytest

from clinscale.errors import DataError
from clinscale.predict import TaskCard, read_documents, write_predictions
from clinscale.tasks import Example, load_task

CARD = TaskCard(task=load_task("demo_documents"), labels=("a", "b"), max_tokens=64, stride_tokens=8)


def test_texts_tables_and_folders_become_documents(tmp_path):
    (tmp_path / "note.txt").write_text("first line\nsecond")
    (tmp_path / "notes.csv").write_text('id,text\nn1,"a, b"\n')
    (tmp_path / "notes.jsonl").write_text('{"text": "no id here"}\n')
    found = list(read_documents([str(tmp_path / name) for name in ("note.txt", "notes.csv", "notes.jsonl")], CARD))
    assert [(document.id, document.text) for document in found] == [
        ("note.txt", "first line\nsecond"),
        ("n1", "a, b"),
        ("1", "no id here"),
    ]
    assert {document.id for document in read_documents([str(tmp_path)], CARD)} == {"note.txt", "n1", "1"}


def test_questions_and_pairs_bring_a_second_text(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps({"text": "context", "question": "why?"}) + "\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"premise": "p", "hypothesis": "h"}) + "\n")
    spans = CARD.model_copy(update={"task": load_task("demo_questions")})
    pairs = CARD.model_copy(update={"task": load_task("demo_pairs")})
    assert [d.text_pair for d in read_documents([str(tmp_path / "q.jsonl")], spans)] == ["why?"]
    assert [(d.text, d.text_pair) for d in read_documents([str(tmp_path / "p.jsonl")], pairs)] == [("p", "h")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,txt\n1,canary\n", "no column 'text'"),
        ("a.csv", b"id,text\n1, \n", "row 1: column 'text' has no text"),
        ("a.csv", b"id,text\n1,canary \xff\n", "not valid UTF-8 at byte 17"),
        ("a.jsonl", b'{"text": "canary"\n', "line 1 is not valid JSON"),
        ("a.txt", b"canary \xff", "not valid UTF-8 at byte 7"),
        ("a.txt", b" \n", "a.txt has no text"),
        ("a.csv", b"", "a.csv is empty"),
    ],
)
def test_bad_input_is_named_without_its_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_documents([str(tmp_path / name)], CARD))
    assert "canary" not in str(caught.value)


def test_predictions_are_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out.jsonl"
    documents = [Example(id="ä", text="x"), Example(id="2", text="y")]
    write_predictions(out, documents, [{"label": "a"}, {"label": "b"}])
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "ä", "label": "a"},
        {"id": "2", "label": "b"},
    ]
    with pytest.raises(ValueError, match="zip"):
        write_predictions(out, documents, [{"label": "c"}])
    assert '"c"' not in out.read_text()
    assert list(tmp_path.iterdir()) == [out]
