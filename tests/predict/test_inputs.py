"""What users hand to `clinscale predict` is read as training read it, and nothing of it is lost."""

import gzip
import json

import pytest

from clinscale.errors import ClinscaleError, ConfigError, DataError
from clinscale.predict import Inputs, TaskCard
from clinscale.tasks import TaskConfig, load_task

CARD = TaskCard(task=load_task("demo_documents"), labels=("a", "b"), max_tokens=64, stride_tokens=8)


def card_of(task):
    return CARD.model_copy(update={"task": load_task(task) if isinstance(task, str) else task})


def records_task(kind="sequence", **more):
    splits = {"all": "."}
    return TaskConfig(name="t", kind=kind, format="records", splits=splits, split_ratios=(0.6, 0.2, 0.2), **more)


def read(uris, card=CARD, **how):
    return list(Inputs.find([str(uri) for uri in uris], card, **how).documents())


def texts(documents):
    return [document.example.text if document.example else None for document in documents]


def test_texts_tables_and_folders_become_documents(tmp_path):
    (tmp_path / "note.txt").write_text("first line\nsecond")
    (tmp_path / "notes.csv").write_text('id,text\nn1,"a, b"\n')
    (tmp_path / "more.jsonl").write_text('{"text": "no id here"}\n')
    found = read(tmp_path / name for name in ("note.txt", "notes.csv", "more.jsonl"))
    assert [(document.id, document.example.text) for document in found] == [
        ("note.txt", "first line\nsecond"),
        ("n1", "a, b"),
        ("more:1", "no id here"),
    ]
    assert {document.id for document in read([tmp_path])} == {"note.txt", "n1", "more:1"}


def test_questions_and_pairs_bring_a_second_text(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps({"text": "context", "question": "why?"}) + "\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"premise": "p", "hypothesis": "h"}) + "\n")
    [asked] = read([tmp_path / "q.jsonl"], card_of("demo_questions"))
    [pair] = read([tmp_path / "p.jsonl"], card_of("demo_pairs"))
    assert asked.example.text_pair == "why?"
    assert (pair.example.text, pair.example.text_pair) == ("p", "h")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,txt\n1,canary\n", "no column 'text'"),
        ("a.csv", b"id,text\n1, \n", "row 1: column 'text' has no text"),
        ("a.csv", b"id,text\n1,canary \xff\n", "not valid UTF-8 at byte 17"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "canary"\n', "line 2 is not valid JSON"),
        ("a.txt", b"canary \xff", "not valid UTF-8 at byte 7"),
        ("a.txt", b" \n", r"a\.txt row 1: has no text"),
        ("a.txt", b"canary \0", "holds zero bytes"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.tsv", b"canary\tO\n.\tO\n", "no column 'text'"),
        ("a.ann", b"T1\tcanary 0 1\tc\n", r"give the \.txt beside it"),
    ],
)
def test_bad_input_is_named_without_its_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read([tmp_path / name])
    assert "canary" not in str(caught.value)


def test_every_row_that_cannot_be_read_has_its_place_and_reason_in_order(tmp_path):
    lines = ['{"id": 0, "text": "a"}', '{"id": 1, "text": " "}', "canary", '{"id": 3.0, "text": ["canary"]}']
    (tmp_path / "n.jsonl").write_text("\n".join([*lines, '{"id": "four", "text": "e"}']) + "\n")
    (tmp_path / "x.txt").write_text("\n")
    (tmp_path / "y.txt").write_text("f")
    found = read([tmp_path], on_error="skip")
    assert [(one.id, one.row) for one in found] == [
        *[("0", 1), ("1", 2), ("n:3", 3), ("3", 4), ("four", 5)],
        *[("x.txt", 1), ("y.txt", 1)],
    ]
    assert texts(found) == ["a", None, None, None, "e", None, "f"]
    assert [bool(one.fault) for one in found] == [text is None for text in texts(found)]
    assert "canary" not in "".join(one.fault for one in found)


def test_what_becomes_of_a_bad_row_is_as_the_task_says_unless_it_is_told(tmp_path):
    (tmp_path / "n.csv").write_text("text\na\n \n")
    skips = card_of(records_task(on_error="skip"))
    assert texts(read([tmp_path / "n.csv"], skips)) == ["a", None]
    with pytest.raises(DataError, match=r"n\.csv row 2: .*--on-error skip"):
        read([tmp_path / "n.csv"], skips, on_error="raise")


def test_columns_encoding_and_delimiter_are_those_of_the_task(tmp_path):
    columns = {"id": "meta.nid", "text": ("title", "body")}
    (tmp_path / "n.jsonl").write_text('{"meta": {"nid": "n0"}, "title": "", "body": "b"}\n')
    [found] = read([tmp_path / "n.jsonl"], card_of(records_task(columns=columns)))
    assert (found.id, found.example.text) == ("n0", "b")
    (tmp_path / "n.csv").write_bytes("id;text\n7;caf\xe9, say\n".encode("latin-1"))
    [found] = read([tmp_path / "n.csv"], card_of(records_task(encoding="latin-1", delimiter=";")))
    assert (found.id, found.example.text) == ("7", "café, say")
    (tmp_path / "n.txt").write_bytes(b"caf\xe9")
    assert texts(read([tmp_path / "n.txt"], card_of(records_task(encoding="latin-1")))) == ["café"]


def test_lists_of_tokens_are_joined_as_in_training_and_texts_will_do(tmp_path):
    card = card_of(records_task("tokens", columns={"tokens": "words"}))
    (tmp_path / "n.jsonl").write_text('{"words": ["no", "pain", "."]}\n')
    (tmp_path / "t.jsonl").write_text('{"text": "no pain."}\n')
    assert texts(read([tmp_path / "n.jsonl", tmp_path / "t.jsonl"], card)) == ["no pain .", "no pain."]


@pytest.mark.parametrize("task", ["ncbi_disease", "demo_entities"])
@pytest.mark.parametrize("name", ["n.tsv", "n.bio", "n.txt"])
def test_sentences_of_tokens_and_tags_are_joined_as_in_training(task, name, tmp_path):
    (tmp_path / name).write_text("No\tO\npain\tB-Disease\n\nStable\tO\n")
    found = read([tmp_path / name], card_of(task))
    assert [(one.id, one.row) for one in found] == [("n:1", 1), ("n:2", 2)]
    assert texts(found) == ["No pain", "Stable"]


def test_a_model_of_token_files_reads_tokens_without_tags_and_prose_as_prose(tmp_path):
    (tmp_path / "tokens.txt").write_text("No\npain\n\nStable\n")
    (tmp_path / "prose.txt").write_text("Chest pain since Monday.\nBlood group O\n\nGiven aspirin.\n")
    (tmp_path / "cut.bio").write_text("No\tO\npain\n\nStable\tO\n")
    card = card_of("ncbi_disease")
    assert texts(read([tmp_path / "tokens.txt"], card)) == ["No pain", "Stable"]
    assert texts(read([tmp_path / "prose.txt"], card)) == [(tmp_path / "prose.txt").read_text()]
    bad, good = read([tmp_path / "cut.bio"], card, on_error="skip")
    assert (bad.fault, good.example.text) == (
        "line 2 has no token, or other columns than the first line",
        "Stable",
    )


def test_squad_and_xml_are_read_without_their_gold(tmp_path):
    paragraph = {"context": "c", "qas": [{"id": 0, "question": "why?"}, {"id": 1, "question": " "}]}
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    (tmp_path / "x.xml").write_text("<a><TEXT><![CDATA[pain]]></TEXT></a>")
    first, second = read([tmp_path / "q.json"], card_of("demo_questions"), on_error="skip")
    assert (first.id, first.example.text, first.example.text_pair) == ("0", "c", "why?")
    assert (second.id, second.fault) == ("1", "has no second text")
    [found] = read([tmp_path / "x.xml"], card_of("demo_entities"))
    assert (found.id, found.example.text) == ("x", "pain")
    (tmp_path / "x.xml").write_text("<a><TEXT>canary")
    with pytest.raises(DataError, match="malformed XML") as caught:
        read([tmp_path / "x.xml"], card_of("demo_entities"))
    assert "canary" not in str(caught.value)


def test_a_folder_of_brat_gives_its_texts_under_the_ids_of_training(tmp_path):
    (tmp_path / "n.txt").write_text("pain")
    (tmp_path / "n.ann").write_text("T1\tproblem 0 4\tpain\n")
    assert [one.id for one in read([tmp_path], card_of("demo_entities"))] == ["n"]


def test_a_text_alone_is_no_question(tmp_path):
    (tmp_path / "n.txt").write_text("pain")
    with pytest.raises(DataError, match="has no question; give a table with both"):
        read([tmp_path], card_of("demo_questions"))


def test_files_of_one_name_keep_their_documents_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n.txt").write_text("text")
        (tmp_path / folder / "t.csv").write_text("text\nx\n")
    (tmp_path / "only.csv").write_text("text\nx\n")
    found = read([tmp_path / "a", tmp_path / "b", tmp_path / "only.csv"])
    assert [one.id for one in found] == ["a/n.txt", "a/t.csv:1", "b/n.txt", "b/t.csv:1", "only:1"]
    assert len({(one.file, one.row) for one in found}) == 5


def test_a_file_is_given_once_and_answers_go_to_none_of_them(tmp_path):
    (tmp_path / "n.txt").write_text("text")
    with pytest.raises(ConfigError, match=r"n\.txt must be given once"):
        read([tmp_path / "n.txt", tmp_path])
    with pytest.raises(ConfigError, match="must not be among the inputs"):
        Inputs.find([str(tmp_path)], CARD).check_out(tmp_path / "n.txt")
    for name in ("answers.jsonl", "below/answers.jsonl"):
        with pytest.raises(ConfigError, match=r"must not be in a folder of inputs, .* write it beside it"):
            Inputs.find([str(tmp_path)], CARD).check_out(tmp_path / name)
        Inputs.find([str(tmp_path / "n.txt")], CARD).check_out(tmp_path / name)


def test_a_format_that_is_told_is_believed(tmp_path):
    (tmp_path / "n.tsv").write_text("a\tb\n")
    assert texts(read([tmp_path / "n.tsv"], format="text")) == ["a\tb\n"]
    with pytest.raises(ClinscaleError):
        read([tmp_path / "n.tsv"], format="records")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.xmi", "<xmi:XMI/>", r"n\.xmi holds annotations of UIMA by its name, .* export its text to \.txt"),
        ("n.hl7", "MSH|", "holds messages of HL7 by its name"),
        ("n.PubTator", "1|t|x", "holds annotated abstracts by its name"),
        ("n.docx", "x", r"holds a document by its name, .* or one row for each note to \.jsonl"),
        ("n.pdf.gz", "x", "holds a document by its name"),
        ("n.xls", "x", r"save it as \.xlsx or \.csv"),
        ("n.zip", "x", "holds an archive by its name, .* unpack it"),
        ("n.txt", '\ufeff<?xml version="1.0"?>\n<canary/>', r"n\.txt row 1: holds XML where the text of a note"),
        ("n.txt", '<doc id="1">\n<p>canary</p>\n</doc>\n', "holds XML where"),
        ("n.txt", r"MSH|^~\&|canary|", "holds messages of HL7 where"),
        ("n", "7|t|canary\n7|a|canary\n7\t0\t6\tcanary\tx\ty\n", "holds abstracts of PubTator where"),
        ("n.txt", '{"text": "canary"}\n{"text": "b"}\n', "holds JSON where"),
        ("n.txt", '[{"text": "canary"}]', "holds JSON where"),
        ("n.txt", "id,text,label\n" + '1,"canary\n fell",a\n' * 3, "holds a table where"),
        ("n", "-DOCSTART- O\n\n" + "no\tO\ncanary\tB-X\n\n" * 5, "holds tokens with their tags where"),
        ("n.txt", "ID\tTEXT\tERROR\n" + "1\tcanary\t0\n" * 9000, "holds a table where"),
        ("n.txt", "id|text|label\n" + f'1|"canary {"x" * 500}"|a\n' * 200, "holds a table where"),
        ("n.xml", "<a><body>canary</body></a>", "no element TEXT, as i2b2's XML has"),
    ],
)
def test_what_is_of_another_format_is_no_note(name, content, message, tmp_path):
    """Its mark-up would be answered as if somebody had written it in the note."""
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        read([tmp_path / name])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "<NAME> was seen by <DOCTOR>.",
        "<NAME> was seen by <NAME>",
        "<note>No pain.</note>",
        "[**2101-3-4**] Seen by [**Name**]",
        "[1]",
        "{no pain}",
        "1|t|a: 5\n2|a|",
        "BP < 90 | HR > 100",
        "name,age,sex\nJ.,52,f\nWas seen today.\n",
        "Na, K, Cl\n140, 4, 100\n139, 4, 99\n141, 5, 101\nAll well, no change.\n",
        "pain,fever,cough\nall denied,since Monday,now\n",
        "Vitamin B-12\n" * 9 + "Blood group O\nNo pain\n",
        "Sent as MSH|^~\\&|",
        "a <?xml b",
    ],
)
def test_a_note_may_hold_any_mark(text, tmp_path):
    (tmp_path / "n.txt").write_text(text)
    assert texts(read([tmp_path / "n.txt"])) == [text]


def test_what_of_a_folder_is_not_read_is_said(tmp_path, caplog):
    for name in ("a.txt", "b.text", "b.ann", "c.docx", "d.DOCX", "e.pdf", "f.Mr Smith", "g"):
        (tmp_path / name).write_text("no pain")
    assert [one.id for one in read([tmp_path])] == ["a.txt", "b.text"]
    [said] = caplog.messages
    assert "holds files that are not read: 2 .docx, 2 of other endings, 1 .pdf; name or export" in said
    caplog.clear()
    read([tmp_path / "a.txt"])
    assert caplog.messages == []
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "n.xmi").write_text("x")
    with pytest.raises(DataError, match=r"is a folder without .* files; it holds 1 \.xmi: export these"):
        read([tmp_path / "only"])


@pytest.mark.parametrize("task", ["ncbi_disease", "demo_entities"])
@pytest.mark.parametrize("text", ["Takes vitamin B-12", "Blood group O\n", "Blood group:\tO\nRh:\tO\n"])
def test_a_note_of_few_lines_is_no_file_of_tokens(task, text, tmp_path):
    (tmp_path / "n.txt").write_text(text)
    assert texts(read([tmp_path / "n.txt"], card_of(task))) == [text]


def test_texts_that_an_export_did_not_mean_so_are_said_when_they_are_counted(tmp_path, caplog):
    rows = [
        {"text": "Patient has fever."},
        {"text": '{"note": "fever"}'},
        {"text": "NA"},
        {"text": "TÃ¤glich 5 mg"},
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Inputs.find([str(tmp_path / "notes.jsonl")], CARD).count() == 4
    assert len(caplog.messages) == 3
    assert "1 of 4 documents hold an object of JSON and nothing else" in caplog.text
    assert "fever" not in caplog.text
