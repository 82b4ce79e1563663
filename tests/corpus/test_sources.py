import csv
import gzip
import json
from collections import Counter

import pytest

from clinscale.corpus import CleaningConfig, SourceConfig, check_sources, read_documents
from clinscale.corpus.sources import PATIENT, source_digest, text_digest
from clinscale.errors import DataError


def csv_file(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def texts(uri, cleaning=None, counts=None, **source):
    sources = [SourceConfig(uri=uri, **source)]
    return [document.text for document in read_documents(sources, cleaning or CleaningConfig(), counts=counts)]


def test_a_folder_of_text_files_is_one_note_per_file(tmp_path):
    (tmp_path / "b.txt").write_text("second\n\nnote")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("first nöte".encode()))
    (tmp_path / "ignored.pdf").write_text("x")
    documents = list(read_documents([SourceConfig(uri=str(tmp_path))], CleaningConfig()))
    assert [(document.id, document.text) for document in documents] == [
        ("a.txt.gz:1", "first nöte"),
        ("b.txt:1", "second\n\nnote"),
    ]


def test_sources_are_read_in_order_and_rows_are_named(tmp_path):
    first = csv_file(tmp_path / "z.csv", [{"TEXT": "one", "ROW_ID": 7}, {"TEXT": "two", "ROW_ID": 8}])
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "three"}))
    sources = [
        SourceConfig(uri=first, text_column="TEXT", id_column="ROW_ID"),
        SourceConfig(uri=str(tmp_path / "a.jsonl")),
    ]
    assert [(document.id, document.text) for document in read_documents(sources, CleaningConfig())] == [
        ("7", "one"),
        ("8", "two"),
        ("a.jsonl:1", "three"),
    ]


def test_what_is_left_out_is_counted(tmp_path):
    rows = ["a long note", " ", "a long note", "tiny", "", "[**x**]          ", "another note"]
    uri = csv_file(tmp_path / "n.csv", [{"text": row, "n": 1} for row in rows])
    counts = Counter()
    cleaning = CleaningConfig(min_characters=5, placeholders="remove")
    assert texts(uri, cleaning, counts) == ["a long note", "another note"]
    assert counts == {"empty": 2, "duplicate": 1, "short": 2}


def test_duplicates_are_found_after_cleaning_and_across_sources(tmp_path):
    for name, text in (("a.txt", "Note"), ("b.txt", "NOTE")):
        (tmp_path / name).write_text(text)
    sources = [SourceConfig(uri=str(tmp_path / name)) for name in ("a.txt", "b.txt")]
    assert len(list(read_documents(sources, CleaningConfig(lower_case=True)))) == 1
    assert len(list(read_documents(sources, CleaningConfig()))) == 2
    assert len(list(read_documents(sources, CleaningConfig(lower_case=True, drop_duplicates=False)))) == 2


def test_rows_are_chosen_by_column(tmp_path):
    """MIMIC-III: one note category, and none that is marked as an error; its categories end in blanks."""
    rows = [
        {"CATEGORY": "Nursing ", "ISERROR": "", "text": "kept"},
        {"CATEGORY": "Nursing", "ISERROR": "1", "text": "wrong"},
        {"CATEGORY": "ECG", "ISERROR": "", "text": "other"},
    ]
    uri, counts = csv_file(tmp_path / "n.csv", rows), Counter()
    source = {"keep_rows": {"CATEGORY": ["Nursing"]}, "drop_rows": {"ISERROR": ["1"]}}
    assert texts(uri, None, counts, **source) == ["kept"]
    assert counts == {"filtered": 2}


@pytest.mark.parametrize(
    ("cleaning", "source", "says"),
    [
        ({"empty": "raise"}, {}, "row 2: column 'text' has no text"),
        ({}, {"text_column": "Text"}, "no column 'Text'.*did you mean text"),
        ({}, {"id_column": "note"}, "no column 'note'"),
        ({}, {"id_column": "id"}, "row 3: column 'id' has no id"),
        ({}, {"keep_rows": {"kind": ["a"]}}, "no column 'kind'"),
    ],
)
def test_bad_rows_and_columns_are_data_errors(tmp_path, cleaning, source, says):
    rows = [{"id": 1, "text": "one"}, {"id": 2, "text": ""}, {"id": "", "text": "three"}]
    with pytest.raises(DataError, match=says):
        texts(csv_file(tmp_path / "n.csv", rows), CleaningConfig(**cleaning), **source)


def test_a_number_where_text_belongs_is_no_empty_row(tmp_path):
    (tmp_path / "n.jsonl").write_text('{"text": 5}')
    with pytest.raises(DataError, match="row 1: column 'text' must hold text, got a value of type int"):
        texts(str(tmp_path / "n.jsonl"))


def test_text_files_have_no_columns_to_choose_by(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="text file without column 'kind'"):
        texts(str(tmp_path), keep_rows={"kind": ["a"]})


def test_missing_source(tmp_path):
    with pytest.raises(DataError, match="none does not exist"):
        texts(str(tmp_path / "none"))


def test_documents_stream(tmp_path):
    """The first note is there before the last row is read: memory does not grow with the corpus."""
    (tmp_path / "n.jsonl").write_text('{"text": "first"}\n{broken')
    documents = read_documents([SourceConfig(uri=str(tmp_path / "n.jsonl"))], CleaningConfig())
    assert next(documents).text == "first"
    with pytest.raises(DataError, match="line 2"):
        next(documents)


def test_source_digest_follows_content_not_compression_or_place(tmp_path):
    (tmp_path / "n.csv").write_text("text\nabc\n")
    (tmp_path / "moved.csv.gz").write_bytes(gzip.compress(b"text\nabc\n"))
    before = source_digest(SourceConfig(uri=str(tmp_path / "n.csv")))
    assert source_digest(SourceConfig(uri=str(tmp_path / "moved.csv.gz"))) == before
    assert before[1] == len("text\nabc\n")
    (tmp_path / "n.csv").write_text("text\nabd\n")
    assert source_digest(SourceConfig(uri=str(tmp_path / "n.csv"))) != before


def test_text_digest_is_the_same_everywhere():
    # frozen: another value would move notes between training and validation
    assert text_digest("note") == 11506375746987711999
    assert text_digest("note", 1) != text_digest("note")


@pytest.mark.parametrize(("group", "remarked"), [(None, 4), ("SUBJECT_ID", 0)])
def test_notes_of_patients_whom_no_group_column_names_are_remarked_on(tmp_path, group, remarked):
    rows = [f"{number // 3},note {number}" for number in range(6)]
    (tmp_path / "notes.csv").write_text("\n".join(["SUBJECT_ID,text", *rows, "7,alone", ",nobody's", ",nobody's"]))
    counts = Counter()
    source = SourceConfig(uri=str(tmp_path / "notes.csv"), group_column=group)
    list(read_documents([source], CleaningConfig(), counts=counts))
    assert counts[PATIENT] == remarked


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("n.txt", "<?xml version='1.0'?><a/>", r"n\.txt holds XML where the text of a note is needed; export"),
        ("n.text", "MSH|^~\\&|", "holds messages of HL7"),
        ("n.docx", "x", "holds a document by its name"),
        ("n.csv", 'text\n"<?xml version=""1.0""?><a/>"\n', "row 1: column 'text' holds XML where text is needed"),
    ],
)
def test_what_is_of_another_format_is_no_note(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        texts(str(tmp_path / name))


def test_what_of_a_folder_is_not_read_is_said(tmp_path, caplog):
    for name in ("a.txt", "b.text", "c.docx", "d.docx"):
        (tmp_path / name).write_text(name)
    assert texts(str(tmp_path)) == ["a.txt", "b.text"]
    check_sources([SourceConfig(uri=str(tmp_path))], CleaningConfig())
    assert [message.partition(" holds ")[2] for message in caplog.messages] == [
        "files that are not read: 2 .docx; export those that are notes"
    ]
