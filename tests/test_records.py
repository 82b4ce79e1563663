import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from clinscale.errors import DataError
from clinscale.records import Record, data_suffix, list_files, read_records, read_text

SECRET = "Jane Roe, aged 54, HIV positive"
"""Invented patient text that no message may hold."""

ROWS = [{"id": "1", "text": 'Pt said "no",\nleft.'}, {"id": "2", "text": "Größe 1,80 m"}]


def csv_bytes(delimiter=","):
    quoted = [f'{row["id"]}{delimiter}"' + row["text"].replace('"', '""') + '"\r\n' for row in ROWS]
    return (f"id{delimiter}text\r\n" + "".join(quoted)).encode()


def parquet_bytes(tmp_path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "made.parquet")
    return (tmp_path / "made.parquet").read_bytes()


def write(tmp_path, name, content):
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["n.csv", "n.csv.gz", "n.tsv", "n.jsonl", "n.JSONL.GZ", "n.ndjson", "n.json", "n.parquet"]
)
def test_every_format_gives_the_same_rows(tmp_path, name):
    content = {
        ".csv": csv_bytes(),
        ".tsv": csv_bytes("\t"),
        ".jsonl": "\n\n".join(json.dumps(row) for row in ROWS).encode(),
        ".ndjson": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
        ".json": json.dumps(ROWS).encode(),
        ".parquet": parquet_bytes(tmp_path, ROWS),
    }[data_suffix(name)]
    name = name.replace("GZ", "gz")
    records = list(read_records(write(tmp_path, name, content), ["id", "text"]))
    assert [record.fields for record in records] == ROWS
    assert [record.number for record in records] == [1, 2]


def test_byte_order_mark_does_not_hide_the_first_column(tmp_path):
    """Excel writes one in front of every "CSV UTF-8"."""
    uri = write(tmp_path, "n.csv", b"\xef\xbb\xbftext,id\r\nabc,1\r\n")
    assert next(read_records(uri, ["text"])).fields == {"text": "abc", "id": "1"}


def test_notes_longer_than_the_csv_modules_default(tmp_path):
    long = "word " * 100_000
    uri = write(tmp_path, "n.csv", f'text\n"{long}"\n'.encode())
    assert next(read_records(uri)).text("text") == long


def test_remote_files_are_read(tmp_path):
    import fsspec

    with fsspec.open("memory://notes/a.jsonl", "wb") as stream:
        stream.write(json.dumps(ROWS[0]).encode())
    assert [record.fields for record in read_records("memory://notes/a.jsonl")] == ROWS[:1]
    assert list_files("memory://notes", [".jsonl"]) == ["memory:///notes/a.jsonl"]


GOOD_JSON = json.dumps({"id": "1", "text": SECRET}).encode()
PADDING = b"".join(f"{number},plain words\n".encode() for number in range(2000))

BAD_FILES = {
    "empty csv": ("n.csv", b"", ["is empty"]),
    "header only": ("n.csv", b"id,text\n", ["holds no rows"]),
    "empty json lines": ("n.jsonl", b"", ["holds no rows"]),
    "empty json list": ("n.json", b"[]", ["holds no rows"]),
    "empty parquet": ("n.parquet", b"", ["not a readable Parquet file"]),
    "unknown format": ("n.docx", b"x", ["no known format", ".csv, .json, .jsonl"]),
    "csv column": ("n.csv", f'id,Text\n1,"{SECRET}"\n'.encode(), ["no column 'text'", "did you mean Text?"]),
    "jsonl column": ("n.jsonl", b'{"id": 1, "text": "x"}\n{"id": 2, "note_text": "x"}', ["line 2", "note_text?"]),
    "json column": ("n.json", b'[{"id": 1, "txt": "x"}]', ["row 1", "did you mean txt?"]),
    "csv other columns": ("n.csv", b"id,Z\n1,x\n", ["no column 'text'; known: Z, id"]),
    "csv without header": ("n.csv", f'1,"{SECRET}"\n'.encode(), ["no column 'id'", "header row?"]),
    "csv extra field": ("n.csv", f"id,text\n1,{SECRET}\n".encode(), ["row 1 has more fields", "quote"]),
    "csv open quote": ("n.csv", f'id,text\n1,a\n2,"{SECRET}\n'.encode(), ["row 2 is malformed"]),
    "csv stray quote": ("n.csv", f'id,text\n1,"a" {SECRET}\n'.encode(), ["row 1 is malformed"]),
    "csv latin-1": ("n.csv", b"id,text\n" + PADDING + b"9,na\xefve", [f"UTF-8 at byte {8 + len(PADDING) + 4}"]),
    "csv latin-1 with mark": ("n.csv", b"\xef\xbb\xbfid,text\n1,na\xefve\n", ["UTF-8 at byte 15"]),
    "csv utf-16 without mark": ("n.csv", "id,text\n1,x\n".encode("utf-16-be"), ["UTF-8", "encoding: utf-16-be"]),
    "jsonl latin-1": ("n.jsonl", GOOD_JSON + b'\n{"text": "\xe9"}', [f"UTF-8 at byte {len(GOOD_JSON) + 11}"]),
    "jsonl latin-1 with mark": ("n.jsonl", b'\xef\xbb\xbf{"text": "\xe9"}', ["UTF-8 at byte 13"]),
    "jsonl broken": ("n.jsonl", GOOD_JSON + b"\n" + GOOD_JSON[:-1], ["line 2", "column"]),
    "jsonl no object": ("n.jsonl", b'{"id": 1, "text": "x"}\n["x"]', ["line 2", "must be a JSON object", "list"]),
    "json broken": ("n.json", b"[" + GOOD_JSON + b", {]", ["not valid JSON at line 1"]),
    "json no record": ("n.json", b'"x"', ["row 1", "must be a JSON object", "str"]),
    "json no objects": ("n.json", b'["x"]', ["row 1", "must be a JSON object"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_place_and_never_its_text(tmp_path, case):
    name, content, words = BAD_FILES[case]
    uri = write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        list(read_records(uri, ["id", "text"]))
    for word in [uri, *words]:
        assert word in str(error.value)
    for part in SECRET.split(", "):
        assert part not in str(error.value)


@pytest.mark.parametrize("name", ["n.csv", "n.jsonl", "n.json", "n.parquet"])
def test_missing_file_and_folder(tmp_path, name):
    with pytest.raises(DataError, match=f"{name} does not exist"):
        list(read_records(str(tmp_path / name)))
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="is a folder where a file is needed"):
        list(read_records(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["n.csv.gz", "n.jsonl.gz", "n.json.gz"])
def test_truncated_gzip(tmp_path, name):
    rows = [{"id": str(number), "text": f"note {number * 7919 % 1000}"} for number in range(5000)]
    content = {
        ".csv": b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in rows),
        ".jsonl": "\n".join(map(json.dumps, rows)).encode(),
        ".json": json.dumps(rows).encode(),
    }[data_suffix(name)]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content)[:-2000])
    with pytest.raises(DataError, match="truncated"):
        list(read_records(str(path)))


def test_truncated_and_foreign_parquet(tmp_path):
    whole = parquet_bytes(tmp_path, ROWS * 500)
    for content in (whole[: len(whole) // 2], whole[:-4], csv_bytes()):
        with pytest.raises(DataError, match="not a readable Parquet file"):
            list(read_records(write(tmp_path, "n.parquet", content)))


def test_damage_inside_a_parquet_file(tmp_path):
    whole = bytearray(parquet_bytes(tmp_path, [{"text": f"{i * 7919}"} for i in range(5000)]))
    whole[4:2000] = bytes(1996)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_records(write(tmp_path, "n.parquet", bytes(whole))))


def test_parquet_column_is_checked_before_reading(tmp_path):
    uri = write(tmp_path, "n.parquet", parquet_bytes(tmp_path, [{"TEXT": SECRET}]))
    with pytest.raises(DataError, match="did you mean TEXT"):
        next(read_records(uri, ["text"]))


@pytest.mark.parametrize("value", [None, "", " \n", float("nan")])
def test_a_row_without_text_is_named(value):
    with pytest.raises(DataError, match=r"notes\.csv row 7: column 'text' has no text"):
        Record("notes.csv", 7, {"text": value}).text("text")


@pytest.mark.parametrize("value", [5, ["a"], {"a": "b"}])
def test_a_row_whose_text_is_none_is_named_with_its_type(value):
    with pytest.raises(
        DataError, match=rf"notes\.csv row 7: column 'text' must hold text, .* {type(value).__name__}"
    ):
        Record("notes.csv", 7, {"text": value}).text("text")


def test_read_text(tmp_path):
    assert read_text(write(tmp_path, "n.txt.gz", "a\r\nü".encode("utf-8-sig"))) == "a\r\nü"
    with pytest.raises(DataError, match="UTF-8 at byte 5"):
        read_text(write(tmp_path, "n.txt", b"\xef\xbb\xbfna\xefve"))


def test_list_files_sorts_and_selects(tmp_path):
    for name in ("b.csv", "a.CSV.gz", "c.txt", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = list_files(str(tmp_path), [".csv"])
    assert found == [str(tmp_path / name) for name in ("a.CSV.gz", "b.csv", "deep/d.csv")]
    assert list_files(str(tmp_path / "c.txt"), [".csv"]) == [str(tmp_path / "c.txt")]
    with pytest.raises(DataError, match=r"folder without \.parquet files"):
        list_files(str(tmp_path), [".parquet"])
    with pytest.raises(DataError, match="does not exist"):
        list_files(str(tmp_path / "none"), [".csv"])


def test_a_folder_is_listed_alike_here_and_in_an_object_store(tmp_path):
    import fsspec

    for name in ("b.csv", "deep/er/a.jsonl.gz", ".hidden.csv", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        fsspec.filesystem("memory").pipe_file(f"/listed/{name}", b"")
    here, there = (list_files(uri, [".csv", ".jsonl"]) for uri in (str(tmp_path), "memory://listed"))
    assert [name.removeprefix(str(tmp_path)) for name in here] == [
        name.removeprefix("memory:///listed") for name in there
    ]
    assert len(here) == 2
    assert list_files(f"file://{tmp_path}", [".csv", ".jsonl"]) == here


def test_one_json_object_is_one_row(tmp_path):
    path = tmp_path / "n.json"
    path.write_bytes(GOOD_JSON)
    assert [record.number for record in read_records(str(path), ["text"])] == [1]
