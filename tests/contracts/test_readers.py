"""What every reader of an open format must keep; a format that is added inherits it, and needs its file below."""

import json
from dataclasses import replace

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, TaskConfig, document_format, read_examples, read_unlabelled
from clinscale.tasks.task import open_formats

TEXT = "Señor Müller had fever .\nAspirin was given ."
PROBLEM, DRUG = TEXT.index("fever"), TEXT.index("Aspirin")
SECRET = "Xylol"


def records(folder, text, encoding, broken):
    entities = [
        {"start": PROBLEM, "end": PROBLEM + 5, "label": "problem"},
        {"start": DRUG, "end": DRUG + 7, "label": "drug"},
    ]
    rows = [{"id": "one", "text": text, "entities": entities}]
    if broken:
        rows.append({"id": "two", "text": text, "entities": [{"start": 3, "label": SECRET}]})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "f.jsonl").write_bytes(lines.encode(encoding))
    return "f.jsonl"


def bio(folder, text, encoding, broken):
    tags = {"fever": "B-problem", "Aspirin": "B-drug"}
    lines = "".join(f"{word}\t{tags.get(word, 'O')}\n" for word in text.split())
    lines += f"\n{SECRET}\tB{SECRET}\n" if broken else ""
    (folder / "f.bio").write_bytes(lines.encode(encoding))
    return "f.bio"


def brat(folder, text, encoding, broken):
    lines = f"T1\tproblem {PROBLEM} {PROBLEM + 5}\tfever\nT2\tdrug {DRUG} {DRUG + 7}\tAspirin\n"
    lines += f"T3\tdrug {SECRET}\n" if broken else ""
    (folder / "f.txt").write_bytes(text.encode(encoding))
    (folder / "f.ann").write_bytes(lines.encode(encoding))
    return "f.txt"


def i2b2_xml(folder, text, encoding, broken):
    tags = f'<NAME id="P0" start="{PROBLEM}" end="{PROBLEM + 5}" text="fever" TYPE="problem" />'
    tags += f'<NAME id="P1" start="{DRUG}" end="{DRUG + 7}" text="Aspirin" TYPE="drug" />'
    tags += f'<NAME id="P2" start="x" end="y" text="{SECRET}" TYPE="drug" />' if broken else ""
    xml = f"<deIdi2b2><TEXT><![CDATA[{text}]]></TEXT><TAGS>{tags}</TAGS></deIdi2b2>"
    (folder / "f.xml").write_bytes(xml.encode(encoding))
    return "f.xml"


def squad(folder, text, encoding, broken):
    def asked(name, **answer):
        return {"id": name, "question": "What was given?", "answers": [answer], "is_impossible": False}

    questions = [asked("q1", text="Aspirin", answer_start=DRUG), asked("q2", text="fever", answer_start=PROBLEM)]
    questions += [asked("q3", text=SECRET, answer_start=3)] if broken else []
    data = {"data": [{"paragraphs": [{"context": text, "qas": questions}]}]}
    (folder / "f.json").write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    return "f.json"


FILES = {"records": records, "bio": bio, "brat": brat, "i2b2_xml": i2b2_xml, "squad": squad}
"""Format -> what writes one document in it, on request with a fault whose text no message may quote."""


@pytest.fixture(params=sorted(open_formats()))
def format(request):
    return request.param


@pytest.fixture
def make(format, tmp_path):
    """The task, and the file of the document."""

    def make(text=TEXT, encoding="utf-8", *, broken=False):
        file = FILES[format](tmp_path, text, encoding, broken)
        kind = "spans" if format == "squad" else "tokens"
        values = {
            "name": "t",
            "kind": kind,
            "format": format,
            "splits": {"all": "."},
            "split_ratios": [0.4, 0.3, 0.3],
        }
        if format == "records":
            values["columns"] = {"id": "id", "entities": "entities"}
        return TaskConfig.parse({**values, "encoding": encoding}, source="test"), tmp_path / file

    return make


def gold(examples):
    """What is marked, as the text has it."""
    entities = [(e.label, one.text[e.start : e.end]) for one in examples for e in one.entities]
    answers = [one.text[a.start : a.end] for one in examples for a in one.answers]
    return entities or answers


def read(task, file, on_error="raise"):
    findings = Findings(on_error)
    return read_examples(task, str(file.parent), findings), findings


def test_gold_is_where_the_file_says(make, format):
    examples, findings = read(*make())
    expected = ["Aspirin", "fever"] if format == "squad" else [("problem", "fever"), ("drug", "Aspirin")]
    assert gold(examples) == expected
    assert "Müller" in examples[0].text
    assert not findings.rejected
    assert not findings.repaired
    assert len({example.id for example in examples}) == len(examples)


def test_windows_line_ends_and_another_encoding_change_no_gold(make, format):
    plain = gold(read(*make())[0])
    assert gold(read(*make(encoding="cp1252"))[0]) == plain
    _, file = make()
    for one in file.parent.iterdir():
        if format in ("bio", "i2b2_xml", "records"):  # elsewhere a line end is two characters of the text
            one.write_bytes(one.read_bytes().replace(b"\n", b"\r\n"))
    assert gold(read(*make()[:1], file)[0]) == plain


def test_what_is_broken_is_refused_by_its_place_and_left_out_where_the_task_skips(make):
    whole = gold(read(*make())[0])
    task, file = make(broken=True)
    with pytest.raises(DataError) as error:
        read(task, file)
    assert file.stem in str(error.value)
    assert SECRET not in str(error.value)
    examples, findings = read(task, file, "skip")
    assert gold(examples) == whole
    assert sum(findings.rejected.values()) >= 1
    assert SECRET not in str([findings.rejected, findings.places])


def test_a_file_that_is_not_of_its_encoding_is_refused_by_name(make):
    task, file = make(encoding="cp1252")
    with pytest.raises(DataError) as error:
        read(task.model_copy(update={"encoding": "utf-8"}), file)
    assert file.stem in str(error.value)
    assert "ller" not in str(error.value)


def test_a_folder_without_such_files_is_refused_or_empty(make):
    task, file = make()
    for one in file.parent.iterdir():
        one.unlink()
    with pytest.raises(DataError):
        read(task, file)


def test_a_document_to_answer_is_the_one_that_was_learned(make, format):
    task, file = make()
    learned = read(task, file)[0]
    asked = [one.example for one in read_unlabelled(task, str(file), document_format(task, str(file)), "f")]
    assert [(one.text, one.text_pair) for one in asked] == [(one.text, one.text_pair) for one in learned]
    assert all(one == replace(one, labels=(), entities=(), answers=(), gold=()) for one in asked)
