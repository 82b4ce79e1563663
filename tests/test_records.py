import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from clinscale.errors import ConfigError, DataError
from clinscale.records import (
    ODD_TEXTS,
    RECORD_SUFFIXES,
    ContinuedRows,
    Record,
    TableFormat,
    cut_length,
    data_suffix,
    has_escaped_breaks,
    list_files,
    part_of,
    read_records,
    read_text,
)

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
    "name",
    [
        "n.csv",
        "n.csv.gz",
        "n.tsv",
        "n.jsonl",
        "n.JSONL.GZ",
        "n.ndjson",
        "n.json",
        "n.parquet",
        "n.arrow",
        "n.feather",
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name):
    content = {
        ".csv": csv_bytes(),
        ".tsv": csv_bytes("\t"),
        ".jsonl": "\n\n".join(json.dumps(row) for row in ROWS).encode(),
        ".ndjson": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
        ".json": json.dumps(ROWS).encode(),
        ".parquet": parquet_bytes(tmp_path, ROWS),
        ".arrow": arrow_bytes(ROWS),
        ".feather": feather_bytes(ROWS),
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
    "unknown format": ("n.docx", b"x", ["no known format", ".json, .jsonl"]),
    "csv column": ("n.csv", f'id,Text\n1,"{SECRET}"\n'.encode(), ["no column 'text'", "did you mean Text?"]),
    "jsonl column": ("n.jsonl", b'{"id": 1, "text": "x"}\n{"id": 2, "note_text": "x"}', ["line 2", "note_text?"]),
    "json column": ("n.json", b'[{"id": 1, "txt": "x"}]', ["row 1", "did you mean txt?"]),
    "csv other columns": ("n.csv", b"id,Z\n1,x\n", ["no column 'text'; known: Z, id"]),
    "csv without header": ("n.csv", f'1,"{SECRET}"\n'.encode(), ["no column 'id'", "names of its columns?"]),
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
    "jsonl is a list": ("n.jsonl", b'[{"id": 1, "text": "x"}]', ["line 1", "got a list", "named .json"]),
    "csv is a workbook": ("n.csv", b"PK\x03\x04" + bytes(30), ["begins like a workbook", ".xlsx"]),
    "csv is gzip": ("n.csv", gzip.compress(b"id,text\n1,a\n"), ["begins like gzip", ".gz"]),
    "json is a pointer": ("n.json", b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
    "json broken": ("n.json", b"[" + GOOD_JSON + b", {]", ["not valid JSON at line 1"]),
    "json by column": ("n.json", b'{"id": {"0": 1}, "text": {"0": "x"}}', ["by its columns", "orient='records'"]),
    "json split": ("n.json", b'{"columns": ["id", "text"], "index": [0], "data": [[1, "x"]]}', ["by its columns"]),
    "json below a key": ("n.json", b'{"rows": [{"row": {"id": 1, "text": "x"}}]}', ["a list at 'rows'"]),
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


def test_a_linked_folder_is_read_once(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "a.csv").write_text("")
    (tmp_path / "there" / "deep" / "b.csv").write_text("")
    for name, leads in [("link", "there"), ("link/deep/back", "here"), ("again", "there/deep")]:
        (tmp_path / "here" / name).symlink_to(tmp_path / leads)
    found = list_files(str(tmp_path / "here"), [".csv"])
    assert [name.rsplit("/", 1)[1] for name in found] == ["a.csv", "b.csv"]


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


def read(tmp_path, name, content, columns=("text",), **table):
    """The fields of all rows, and what is wrong with the others."""
    faults = []
    uri = write(tmp_path, name, content if isinstance(content, bytes) else content.encode())
    records = read_records(
        uri, columns, table=TableFormat(**table), on_bad_row=lambda fault, place: faults.append((fault, place))
    )
    return [record.fields for record in records], faults


@pytest.mark.parametrize("separator", list(";|\t,"))
@pytest.mark.parametrize("name", ["n.csv", "n.tsv"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path, name, separator):
    text = f'text{separator}label\n"a, b; c | d\te"{separator}x\n'
    assert read(tmp_path, name, text)[0] == [{"text": "a, b; c | d\te", "label": "x"}]
    assert read(tmp_path, name, text, ())[0] == [{"text": "a, b; c | d\te", "label": "x"}]


def test_the_separator_can_be_told(tmp_path):
    for told, text in [
        (":", "text:label\na,b:x\n"),
        (";", "id,text;label\na,b;x\n"),
        ("tab", "text\tlabel\na,b\tx\n"),
    ]:
        assert list(read(tmp_path, "n.csv", text, (), delimiter=told)[0][0].values()) == ["a,b", "x"]
    assert read(tmp_path, "n.csv", "sep=;\r\ntext;label\r\na,b;x\r\n")[0] == [{"text": "a,b", "label": "x"}]


@pytest.mark.parametrize("given", ["", ";;", '"', "\n", "\r", "\0"])
def test_a_separator_that_cannot_be_one_is_refused(given):
    with pytest.raises(ConfigError, match="delimiter must be one character"):
        TableFormat(delimiter=given)


def test_blanks_around_the_names_of_columns_do_not_hide_them(tmp_path):
    assert read(tmp_path, "n.csv", " text ,label\na,x\n")[0] == [{"text": "a", "label": "x"}]
    assert read(tmp_path, "n.csv", "text ,label\na,x\n", ["text "])[0] == [{"text ": "a", "label": "x"}]
    with pytest.raises(DataError, match="column 2 is that with blanks"):
        read(tmp_path, "n.parquet", parquet_bytes(tmp_path, [{"id": "1", "text ": "a"}]))


def test_a_column_that_is_there_twice_is_refused_when_it_is_asked_for(tmp_path):
    for name, text in [("n.csv", "text,label,text\na,x,b\n"), ("n.tsv", "text\tl\ttext \na\tx\tb\n")]:
        with pytest.raises(DataError, match="columns 1 and 3 repeat one name"):
            read(tmp_path, name, text)
        with pytest.raises(DataError, match="columns 1 and 3 repeat one name"):
            read(tmp_path, name, text, ())
    assert read(tmp_path, "n.csv", "text,unit,unit,,\na,x,b,,\n")[0] == [{"text": "a"}]
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "n.parquet")
    with pytest.raises(DataError, match="columns 1 and 2 repeat one name"):
        next(read_records(str(tmp_path / "n.parquet"), ["text"]))


def test_a_json_object_with_a_key_twice_is_a_bad_row(tmp_path):
    rows, faults = read(tmp_path, "n.jsonl", '{"text": "a", "text": "b"}\n{"text": "c"}\n')
    assert rows == [{"text": "c"}]
    assert "same key twice" in faults[0][0]


def test_rows_that_do_not_fit_the_header_are_bad_rows(tmp_path):
    rows, faults = read(tmp_path, "n.csv", "text,a,b\nx,1,0\ny\nz,1\nw,1,0,1\n\nv,0,0\n")
    assert [row["text"] for row in rows] == ["x", "v"]
    assert [fault.split(";")[0] for fault, _ in faults] == [
        "has fewer fields than the header",
        "has fewer fields than the header",
        "has more fields than the header",
    ]
    assert [place.rsplit(" ", 1)[1] for _, place in faults] == ["2", "3", "4"]


def test_the_header_of_a_file_that_was_joined_is_no_row(tmp_path):
    rows, faults = read(tmp_path, "n.csv", "text, label\na,x\n\ufefftext, label\nb,x\ntext,label\ntext,x\n")
    assert [row["text"] for row in rows] == ["a", "b", "text"]
    assert [(fault.split(",")[0], place[-5:]) for fault, place in faults] == [
        ("repeats the header", "row 2"),
        ("repeats the header", "row 4"),
    ]
    header, row = {"text": "text", "label": "label"}, {"text": "a", "label": "text"}
    for name, content in [
        ("n.jsonl", "".join(json.dumps(one) + "\n" for one in (row, header))),
        ("n.parquet", parquet_bytes(tmp_path, [row, header])),
        ("n.xlsx", workbook(tmp_path, {"s": [[*header], [*row.values()], [*header]]})),
    ]:
        rows, faults = read(tmp_path, name, content)
        assert (rows, len(faults)) == ([row], 1)


@pytest.mark.parametrize("again", ["label,text,id", "\ufeffid,label,text"])
def test_files_that_were_joined_with_their_columns_in_two_orders_are_refused(tmp_path, again):
    with pytest.raises(DataError, match="row 2 repeats the header in another order"):
        read(tmp_path, "n.csv", f"id,text,label\n1,a,x\n{again}\nx,b,2\n")
    rows, _ = read(tmp_path, "n.csv", "id,text,label\ntext,label,label\n")
    assert len(rows) == 1


LITERAL = 'text\tlabel\nnote 0\ta\n"soft abdomen\tb\nnote 2\ta\nno pain"\tb\nnote 4\ta\n'


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_row_of_one_column_may_be_its_name(tmp_path, name):
    rows = {"a.csv": "text\ntext\npain\n", "a.jsonl": '{"text": "text"}\n{"text": "pain"}\n'}
    (tmp_path / name).write_text(rows[name])
    assert [row.text("text") for row in read_records(str(tmp_path / name), ["text"])] == ["text", "pain"]


def test_a_quotation_mark_behind_a_blank_is_no_text_unless_it_is_told_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id, text\n1, no pain\n2, "no fever"\n')
    with pytest.raises(
        DataError, match=r"a.csv row 2 has a blank between the separator and a quotation mark"
    ) as caught:
        list(read_records(str(path), ["text"]))
    assert "fever" not in str(caught.value)
    read = list(read_records(str(path), ["text"], table=TableFormat(quoting="standard")))
    assert [row.text("text") for row in read] == [" no pain", ' "no fever"']


@pytest.mark.parametrize(
    ("rows", "continued"),
    [
        (
            [{"NOTE": "7", "LINE": "1"}, {"NOTE": "7", "LINE": "2"}, {"NOTE": "8", "LINE": "1"}],
            [False, True, False],
        ),
        ([{"NOTE": 7}, {"NOTE": 7.0}, {"NOTE": None}, {"NOTE": None}], [False, True, False, False]),
        (
            [{"line_nbr": 1.0}, {"line_nbr": 2.0}, {"line_nbr": 2.0}, {"line_nbr": 4.0}],
            [False, True, False, False],
        ),
        ([{"note_seq": 1}, {"note_seq": 2}], [False, False]),  # MIMIC-IV numbers whole notes by it
        ([{"LINE": "x"}, {"LINE": 0.5}, {"LINE": [1]}], [False] * 3),
    ],
)
def test_rows_that_go_on_with_a_note_are_seen(rows, continued):
    seen = ContinuedRows("NOTE")
    assert [seen.goes_on(Record("a.csv", number, row)) for number, row in enumerate(rows, 1)] == continued


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"Pain.\nNo fever.\n\nGo home.", True),
        ("Pain.\\r\\nNo fever.\\r\\n\n", True),
        ("Pain.\nNo fever.", False),
        (r"see C:\notes", False),
        ("C:\\notes, C:\\new\n\n\n", False),
    ],
)
def test_line_breaks_as_two_characters_are_seen(text, escaped):
    assert has_escaped_breaks(text) is escaped


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Patient\u00e2\u20ac\u2122s temperature 37\u00c2\u00b0C", "encoding"),
        ("Gr\u00c3\u00b6\u00c3\u0178e", "encoding"),
        ("Temperature 37\ufffdC", "encoding"),
        (r"Gr\u00f6\u00dfe 1,80", "digits in place of letters"),
        ("<p>Pain</p>", "HTML"),
        ("Pain &amp; fever", "HTML"),
        (" notes/12.txt\n", "name of a file"),
        ("--- * ---", "neither a letter nor a digit"),
        ("BP <90/60, R&D; see scan.pdf", None),
        ("l\u00e0\u00a0\u00bb \u00c9\u2026 N\u00c3O, 37\u00b0C", None),
        (r"C:\users", None),
        ("Total", "below its rows"),
        (" Grand total: ", "below its rows"),
        ("(1,234 rows affected)", "below its rows"),
        ("(5 rows)", "below its rows"),
        ("12 rows selected.", "below its rows"),
        ("Total abdominal hysterectomy.", None),
        ("5 rows of sutures", None),
    ],
)
def test_what_an_export_likely_did_not_mean_is_seen(text, word):
    found = [what for what, applies in ODD_TEXTS.items() if applies(text)]
    assert [word in what for what in found] == [True] * (word is not None)


@pytest.mark.parametrize(
    ("texts", "cut"),
    [
        ([f"{n}".ljust(4000, "x") for n in range(3)], (3, 4000, "characters")),
        ([f"{n}".ljust(4000, "x") for n in range(2)], None),
        ([("\u00e9" * n).ljust(4000 - n, "x") for n in range(3)], (3, 4000, "bytes")),
        (["x" * 32_767], (1, 32_767, "characters")),
        (["ab", "cd", "ef"], None),
        ([], None),
    ],
)
def test_texts_that_were_cut_are_seen_by_their_length(texts, cut):
    assert cut_length(texts) == cut


def test_a_quotation_mark_that_swallows_lines_is_refused_until_it_is_told_what_it_means(tmp_path):
    for name, text in [("n.tsv", LITERAL), ("n.csv", LITERAL.replace("\t", ","))]:
        with pytest.raises(DataError, match=r"row 2 takes in 3 lines by a quotation mark.*quoting: none"):
            read(tmp_path, name, text)
        rows, faults = read(tmp_path, name, text, quoting="none")
        assert [row["text"] for row in rows] == ["note 0", '"soft abdomen', "note 2", 'no pain"', "note 4"]
        assert not faults
        assert len(read(tmp_path, name, text, quoting="standard")[0]) == 3
    last = 'label\ttext\na\tnote 0\nb\t"soft abdomen\na\tno pain"\nb\tnote 4\n'
    with pytest.raises(DataError, match="quotation mark"):
        read(tmp_path, "n.tsv", last)
    with pytest.raises(DataError, match="quoting: none"):
        read(tmp_path, "n.tsv", 'text\tlabel\n"soft" abdomen\ta\n')
    with pytest.raises(DataError, match="quotation mark"):
        read(tmp_path, "n.tsv", LITERAL.replace("note 0", '"note\n0"'))
    [(fault, _)] = read(tmp_path, "n.tsv", 'label\ttext\na\tb\na\t"soft\nb\tno pain"\tb\n')[1]
    assert "several lines by a quotation mark; set quoting: none" in fault


def test_quoted_notes_over_lines_are_read(tmp_path):
    """Letters have a line with one comma and a next line with none, as a row of two fields would."""
    text = "text,label\n" + '"Dear colleague, thank you\nNo pain\n\nRegards",a\n"Dear all, hello\nNo pain",b\n' * 3
    rows, faults = read(tmp_path, "n.csv", text)
    assert [row["label"] for row in rows] == ["a", "b"] * 3
    assert not faults


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["n.csv", "n.jsonl", "n.json", "n.csv.gz"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, name, encoding):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    text = {".csv": "text,l\nna\u0457ve \u0a0d,x\n", ".json": '[{"text": "na\u0457ve \u0a0d", "l": "x"}]'}
    text[".jsonl"] = text[".json"].strip("[]") + "\n"
    content = (mark + text[data_suffix(name)]).encode(encoding)
    for told in ("utf-8", "UTF8", "U8", "latin-1"):
        assert read(tmp_path, name, content, encoding=told)[0] == [{"text": "na\u0457ve \u0a0d", "l": "x"}]
    assert read_text(write(tmp_path, "n.txt", content)) == text[data_suffix(name)]


def test_utf_16_without_a_mark_is_named_and_then_read(tmp_path):
    for order in ("le", "be"):
        content = "text,l\nabc,x\n".encode(f"utf-16-{order}")
        for told in ("utf-8", "latin-1", "utf-16"):
            with pytest.raises(DataError, match=f"encoding: .*utf-16-{order}"):
                read(tmp_path, "n.csv", content, encoding=told)
        assert read(tmp_path, "n.csv", content, encoding=f"utf-16-{order}")[0] == [{"text": "abc", "l": "x"}]
        with pytest.raises(DataError, match=f"utf-16-{order}"):
            read_text(write(tmp_path, "n.txt", content))


@pytest.mark.parametrize(
    "name", ["punycode", "IDNA", "unicode_escape", "raw_unicode_escape", "undefined", "rot13", "hex"]
)
def test_what_is_no_character_set_is_refused(name):
    with pytest.raises(ConfigError, match="must be a character set"):
        TableFormat(encoding=name)
    with pytest.raises(ConfigError, match="unknown to Python"):
        TableFormat(encoding="utf-9")


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "utf-16-le"])
def test_the_first_bad_byte_is_named_in_any_encoding(tmp_path, encoding):
    start = "text,l\n".encode(encoding) + "abc,x\n".encode(encoding) * 30_000
    bad = {"cp1252": b"\x81", "shift_jis": b"\xff", "utf-16-le": b"\x00\xdc\x41\x00"}[encoding]
    with pytest.raises(DataError, match=f"at byte {len(start)};"):
        read(tmp_path, "n.csv", start + bad + ",x\n".encode(encoding), encoding=encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "iso8859-15"])
def test_what_windows_wrote_is_not_read_as_latin_1(tmp_path, encoding):
    start = "text\n" + "Größe\n" * 30_000
    content = f"{start}the patient’s\n".encode("cp1252")
    with pytest.raises(
        DataError, match=f"at byte {len(start) + 11}, where Windows has a letter; set encoding: cp1252"
    ):
        read(tmp_path, "n.csv", content, encoding=encoding)
    with pytest.raises(DataError, match=f"at byte {len(start) + 11},"):
        read_text(str(tmp_path / "n.csv"), encoding)
    assert read(tmp_path, "n.csv", content, encoding="cp1252")[0][-1]["text"] == "the patient’s"
    assert read(tmp_path, "n.csv", start.encode(encoding), encoding=encoding)[0][-1]["text"] == "Größe"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_what_is_utf_8_is_not_read_as_latin_1(tmp_path, encoding):
    (tmp_path / "n.csv").write_text(f"text\n{'x' * 2**17}Größe\n")
    for read in (
        lambda: read_text(str(tmp_path / "n.csv"), encoding),
        lambda: list(read_records(str(tmp_path / "n.csv"), table=TableFormat(encoding=encoding))),
    ):
        with pytest.raises(DataError, match=r"is UTF-8 and not .*; set encoding: utf-8"):
            read()
    for text in ("text\nGröße 1,80, née Müller\n", "text\nSpaß»\n", "text\nplain\n"):
        (tmp_path / "n.csv").write_bytes(text.encode(encoding))
        assert read_text(str(tmp_path / "n.csv"), encoding) == text


def test_json_lines_are_read_by_whatever_name(tmp_path):
    lines = '{"text": "a"}\n\n{"text": "b"}\n'
    assert [row["text"] for row in read(tmp_path, "n.json", lines)[0]] == ["a", "b"]
    assert len(read(tmp_path, "n.json", '{"text": "a"}\n')[0]) == 1
    rows, faults = read(tmp_path, "n.json", lines + '{"text": \n')
    assert (len(rows), len(faults)) == (2, 1)
    with pytest.raises(DataError, match=r"named \.json"):
        list(read_records(write(tmp_path, "n.jsonl", b'[\n{"text": "a"}\n]\n'), ["text"]))


def test_an_object_of_objects_is_one_row_where_it_has_the_columns(tmp_path):
    nested = {"report": {"findings": "clear"}, "patient": {"id": "7"}}
    assert read(tmp_path, "n.json", json.dumps(nested), ["report.findings", "patient.id"])[0] == [nested]
    assert read(tmp_path, "n.json", json.dumps({"n1": {"text": "a"}}))[0] == [{"id": "n1", "text": "a"}]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"text": ' + "1" * 5000 + "}", '[{"text": ' + "9" * 5000 + "}]"]
)
@pytest.mark.parametrize("name", ["n.json", "n.jsonl"])
def test_json_that_python_refuses_is_a_data_error(tmp_path, name, content):
    with pytest.raises(DataError, match=r"nested too deeply|thousands of digits|JSON object|not valid JSON"):
        list(read_records(write(tmp_path, name, content.encode()), ["text"]))


def test_a_path_that_leads_nowhere_is_an_error(tmp_path):
    rows = [{"report": {"findings": "clear"}}, {"report": {"findings": None, "more": "x"}}]
    lines = "\n".join(map(json.dumps, rows))
    for name, content in [
        ("n.jsonl", lines),
        ("n.json", json.dumps(rows)),
        ("n.parquet", parquet_bytes(tmp_path, rows)),
    ]:
        assert len(read(tmp_path, name, content, ["report.findings", "report.more"])[0]) == 2
        for path in ("report.findigs", "report.findings.text", "report.0"):
            with pytest.raises(DataError, match=f"nothing at column '{path}' in any of its rows"):
                read(tmp_path, name, content, [path])
        with pytest.raises(DataError, match=r"has no column 'rapport\.findings'"):
            read(tmp_path, name, content, ["rapport.findings"])
    with pytest.raises(DataError, match="has no column"):
        read(tmp_path, "n.csv", "report\nclear\n", ["report.findings"])


def test_one_row_without_a_key_is_a_bad_row(tmp_path):
    rows, faults = read(tmp_path, "n.jsonl", '{"text": "a"}\n{"id": 1}\n')
    assert rows == [{"text": "a"}]
    assert "has no column 'text'" in faults[0][0]
    with pytest.raises(DataError, match="no row that can be used, 1 are malformed"):
        read(tmp_path, "n.csv", "text,label\na\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.csv", "Roe,positive,HIV\nDoe,negative,HIV\n"),
        ("n.csv", "Jane Roe is HIV positive\nsecond\n"),
        ("n.tsv", "Roe\tpositive\nDoe\tnegative\n"),
        ("n.jsonl", '{"Roe": 1, "HIV positive": 2}\n'),
        ("n.json", '{"Roe": {"positive": 1}, "HIV": {"negative": 1}}'),
    ],
)
def test_what_may_be_data_is_never_shown_as_names_of_columns(tmp_path, name, content):
    with pytest.raises(DataError, match="has no column 'text'") as error:
        list(read_records(write(tmp_path, name, content.encode()), ["text", "label"]))
    for word in ("Roe", "Doe", "positive", "negative", "HIV"):
        assert word not in str(error.value)


def test_columns_with_odd_names_go_by_number(tmp_path):
    with pytest.raises(DataError, match=r"no column 'outcome'; known: id, text; column 2, 4$"):
        read(tmp_path, "n.csv", "text,free remark,id,\x1b[31m\na,b,c,d\n", ["text", "outcome"])


def test_what_programs_leave_beside_the_data_is_not_data(tmp_path):
    for name in (
        ".ipynb_checkpoints/a-checkpoint.csv",
        "._a.csv",
        "__MACOSX/a.csv",
        "~$a.xlsx",
        "_temporary/0/part-0.csv",
        "cache-1.arrow",
        "a.csv",
    ):
        (tmp_path / ".home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".home" / name).write_text("")
    assert list_files(str(tmp_path / ".home"), RECORD_SUFFIXES) == [str(tmp_path / ".home" / "a.csv")]


def test_what_a_release_says_of_itself_is_no_note(tmp_path):
    for name in ("LICENSE.txt", "SHA256SUMS.txt", "deep/ReadMe.txt", "deep/readme-12.txt", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [name.rsplit("/", 1)[1] for name in list_files(str(tmp_path), [".txt"])]
    assert found == ["readme-12.txt", "note.txt"]
    assert list_files(str(tmp_path / "LICENSE.txt"), [".txt"]) == [str(tmp_path / "LICENSE.txt")]


def test_what_is_of_another_format_is_no_text_in_any_encoding(tmp_path):
    (tmp_path / "n.txt").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match="must be text, but begins with bytes of which many are none"):
        read_text(str(tmp_path / "n.txt"), "latin-1")
    for page in (b"<!doctype HTML>\n<p>", b"\xef\xbb\xbf\r\n<HTML lang=en>"):
        (tmp_path / "n.txt").write_bytes(page)
        with pytest.raises(DataError, match="begins like a web page"):
            read_text(str(tmp_path / "n.txt"))
    (tmp_path / "n.txt").write_bytes(b"page 1\x0c\x1b[1mpage 2\x1b[0m\r\n" * 4 + b"\0" * 100)
    assert read_text(str(tmp_path / "n.txt"), "latin-1").startswith("page 1")


@pytest.mark.parametrize("name", ["n.txt.bz2", "n.txt.xz", "n.txt.zip", "n.txt.tar"])
def test_what_is_packed_otherwise_is_named_and_not_taken_for_its_content(tmp_path, name):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("n.txt"))
    content = {
        ".bz2": bz2.compress(b"x"),
        ".xz": lzma.compress(b"x"),
        ".zip": b"PK\x03\x04",
        ".tar": packed.getvalue(),
    }
    (tmp_path / name).write_bytes(content[name[5:]])
    with pytest.raises(DataError, match=r"must be text, but begins like .*, which is "):
        read_text(str(tmp_path / name))


def test_of_a_saved_dataset_its_tables_are_listed(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in (
            "data-00000-of-00001.arrow",
            "data-00001-of-00002.arrow",
            "cache-1.arrow",
            "dataset_info.json",
        ):
            (tmp_path / part / name).write_text("{}")
        named = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / part / "state.json").write_text(json.dumps(named))
    (tmp_path / "dataset_dict.json").write_text("{}")
    found = [str(tmp_path / part / "data-00000-of-00001.arrow") for part in ("test", "train")]
    assert list_files(str(tmp_path), RECORD_SUFFIXES) == found


def test_a_table_of_which_parts_are_missing_is_refused(tmp_path):
    for name in (
        "a-00000-of-00002.csv",
        "a-00001-of-00002.csv",
        "b-00001-of-00003.csv.gz",
        "b-00002-of-00003.csv.gz",
    ):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"b-\*-of-00003\.csv\.gz must be 3 files, got 2 of them"):
        list_files(str(tmp_path), [".csv"])
    (tmp_path / "b-00000-of-00003.csv.gz").write_text("")
    assert len(list_files(str(tmp_path), [".csv"])) == 5
    assert part_of(str(tmp_path / "a-00001-of-00002.csv")) == (str(tmp_path / "a-*-of-00002.csv"), 1, 2)


def test_class_labels_are_named_at_any_depth(tmp_path):
    label = {"_type": "ClassLabel", "names": ["a", "b"]}
    features = {
        "label": label,
        "tags": {"_type": "Sequence", "feature": label},
        "entities": [{"kind": label, "start": {"_type": "Value"}}],
        "turns": {"_type": "Sequence", "feature": {"kind": label}},
        "note": {"kind": label},
    }
    row = {"label": -1, "tags": [1, 0], "entities": [{"kind": 1, "start": 1}], "turns": {"kind": [0, 1]}}
    table = pyarrow.Table.from_pylist([{**row, "note": {"kind": 1}}])
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "n.parquet")
    assert next(read_records(str(tmp_path / "n.parquet"))).fields == {
        "label": None,
        "tags": ["b", "a"],
        "entities": [{"kind": "b", "start": 1}],
        "turns": {"kind": ["a", "b"]},
        "note": {"kind": "b"},
    }


def test_times_beyond_those_of_python_hide_no_other_column(tmp_path):
    times = pyarrow.array([2**60], pyarrow.timestamp("us"))
    zones = pyarrow.array([1], pyarrow.timestamp("us", tz="Mars/Base"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "at": times, "z": zones}), tmp_path / "n.parquet")
    assert next(read_records(str(tmp_path / "n.parquet"), ["text"])).fields == {"text": "a"}
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        next(read_records(str(tmp_path / "n.parquet"), ["text", "at"]))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "z": zones}), tmp_path / "n.parquet")
    assert next(read_records(str(tmp_path / "n.parquet"), ["text"])).fields["text"] == "a"


def arrow_bytes(rows):
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def feather_bytes(rows):
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def test_feather_by_the_name_of_arrow_and_of_long_ago(tmp_path):
    assert [row.fields for row in read_records(write(tmp_path, "n.arrow", feather_bytes(ROWS)))] == ROWS
    with pytest.raises(DataError, match="Feather of version 1"):
        list(read_records(write(tmp_path, "n.feather", b"FEA1" + b"\0" * 40)))


def test_a_damaged_arrow_file_is_refused_before_a_value_is_read(tmp_path):
    """Offsets that point outside of the file end the process, unless they are looked at first."""
    whole = bytearray(arrow_bytes([{"text": "a" * 10}, {"text": "b" * 10}]))
    at = whole.index((10).to_bytes(4, "little") + (20).to_bytes(4, "little"))
    whole[at + 4 : at + 8] = (2**30).to_bytes(4, "little")
    unnamed = arrow_bytes(ROWS).replace(b"text", b"\xfe" * 4)
    for content in (
        bytes(whole),
        bytes(whole[:-40]),
        arrow_bytes(ROWS)[:100],
        b"",
        feather_bytes(ROWS)[:-9],
        b"ARROW1\0\0",
        unnamed,
    ):
        with pytest.raises(DataError, match="truncated or damaged"):
            list(read_records(write(tmp_path, "n.arrow", content), ["text"]))


def workbook(tmp_path, sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        page = book.create_sheet(title)
        for row in rows:
            page.append(row)
    book.save(tmp_path / "n.xlsx")
    return (tmp_path / "n.xlsx").read_bytes()


def test_a_workbook_is_read(tmp_path):
    rows = [["id", "text ", None, "truth"], [7, "a_x000D_\nb", "odd", True], [None] * 4, [8, "c"]]
    content = workbook(tmp_path, {"empty": [], "notes": rows})
    found, faults = read(tmp_path, "n.xlsx", content)
    assert found == [{"id": 7, "text": "a\r\nb", "truth": True}, {"id": 8, "text": "c", "truth": ""}]
    assert not faults


def test_cells_that_are_not_what_they_seem_are_bad_rows(tmp_path):
    rows = [["id", "text"], [1, "=A1"], [2, "#REF!"], [3, "x" * 32_767], [4, "a"]]
    found, faults = read(tmp_path, "n.xlsx", workbook(tmp_path, {"notes": rows}))
    assert found == [{"id": 4, "text": "a"}]
    for (fault, place), (number, word) in zip(faults, [(1, "formula"), (2, "error"), (3, "cuts")], strict=True):
        assert word in fault
        assert place.endswith(f"row {number}")


def test_numbers_of_which_excel_keeps_no_more_digits_are_no_ids(tmp_path):
    content = workbook(tmp_path, {"a": [["id", "text", "count"], [1234567890123450, "a", 1], [7, "b", 10**17]]})
    (tmp_path / "n.xlsx").write_bytes(content)
    faults = []
    rows = read_records(str(tmp_path / "n.xlsx"), ["id"], on_bad_row=lambda fault, place: faults.append(fault))
    assert [row.fields["id"] for row in rows] == [7]
    assert "more than 15 digits" in faults[0]
    (tmp_path / "n.xlsx").write_bytes(workbook(tmp_path, {"a": [["id"], [1234567890123451]]}))
    exact = [row.fields for row in read_records(str(tmp_path / "n.xlsx"), ["id"])]
    assert exact == [{"id": 1234567890123451}], "which Excel did not write"


def changed_workbook(tmp_path, old, new):
    """One sheet of two rows, with another XML."""
    content = workbook(tmp_path, {"a": [["id", "text"], [1, "a"], [2, "b", "c"]]})
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(tmp_path / "m.xlsx", "w") as made:
        for name in archive.namelist():
            made.writestr(name, archive.read(name).replace(old, new), zipfile.ZIP_DEFLATED)
    return str(tmp_path / "m.xlsx")


def test_a_workbook_is_read_beyond_the_size_that_it_states(tmp_path):
    """As some exporters write `A1:A1`, whatever follows."""
    uri = changed_workbook(tmp_path, b'<dimension ref="A1:C3"', b'<dimension ref="A1:A1"')
    rows = [record.fields for record in read_records(uri, ["text"])]
    assert rows == [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]


def test_a_row_beyond_the_rows_of_excel_is_refused_and_not_counted_up_to(tmp_path, monkeypatch):
    monkeypatch.setattr("clinscale.records.workbook._MOST_ROWS", 100)
    for number in (b"101", b"99999999999"):
        uri = changed_workbook(tmp_path, b'<row r="3"', b'<row r="%s"' % number)
        with pytest.raises(DataError, match="at most 100 rows in a sheet"):
            list(read_records(uri, ["text"]))


@pytest.mark.parametrize("kind", ["page", "repeats", "sheet", "arrow"])
def test_a_few_bytes_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("clinscale.storage._UNPACKED_FREELY_BYTES", 2**16)
    uri = str(tmp_path / f"n.{kind}.parquet")
    long = pyarrow.table({"text": ["x" * 2**21]})
    if kind == "page":
        pyarrow.parquet.write_table(long, uri, compression="zstd", use_dictionary=False)
    elif kind == "repeats":  # a column's size in the file is that of its one value and a count
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 50] * 2**16}), uri)
    elif kind == "arrow":
        uri = str(tmp_path / "n.feather")
        pyarrow.feather.write_feather(long, uri, compression="zstd")
    else:
        uri = changed_workbook(tmp_path, b"<sheetData>", b" " * 2**21 + b"<sheetData>")
    with pytest.raises(DataError, match="must unpack to at most 100 times its size"):
        list(read_records(uri, ["text"]))


def test_cells_that_are_merged_over_rows_are_refused_where_they_are_read(tmp_path):
    book = openpyxl.Workbook()
    for row in (["patient", "text", "seen"], ["p1", "a", 1], [None, "b", None], ["p2", "c", 1]):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    book.save(tmp_path / "n.xlsx")
    content = (tmp_path / "n.xlsx").read_bytes()
    with pytest.raises(DataError, match="cells of column 'patient' that are merged over rows"):
        list(read_records(str(tmp_path / "n.xlsx"), ["text", "patient"]))
    found, _ = read(tmp_path, "n.xlsx", content)
    assert [row["text"] for row in found] == ["a", "b", "c"]


def test_of_several_sheets_one_must_be_named(tmp_path):
    content = workbook(tmp_path, {"a": [["text"], ["x"]], "b": [["text"], ["y"]]})
    with pytest.raises(DataError, match="rows in 2 sheets; set sheet:"):
        read(tmp_path, "n.xlsx", content)
    assert read(tmp_path, "n.xlsx", content, sheet="b")[0] == [{"text": "y"}]
    with pytest.raises(DataError, match="no sheet 'c'"):
        read(tmp_path, "n.xlsx", content, sheet="c")


def test_a_damaged_or_empty_workbook_is_a_data_error(tmp_path):
    whole = workbook(tmp_path, {"a": [["text"], ["x"]]})
    for content in (
        b"",
        b"\xd0\xcf\x11\xe0" * 100,
        whole[: len(whole) // 2],
        whole[:200] + bytes(200) + whole[400:],
    ):
        with pytest.raises(DataError, match="not a readable XLSX workbook"):
            read(tmp_path, "n.xlsx", content)
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path, "n.xlsx", workbook(tmp_path, {"a": []}))


def test_a_line_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clinscale.records.files.MAX_LINE_BYTES", 2**20)
    for name in ("n.csv", "n.jsonl"):
        with pytest.raises(DataError, match="lines of at most"):
            list(
                read_records(write(tmp_path, name, b"text\n" + bytes(2**21)), ["text"], on_bad_row=lambda *_: None)
            )
