"""i2b2 2006 as its two zip files unpack, with invented records."""

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task

TRAIN, TEST = "deid_surrogate_train_all_version2", "deid_surrogate_test_all_groundtruth_version2"


def record(number, body='Seen by <PHI TYPE="DOCTOR">Zed Invento</PHI> .\n'):
    return f'<RECORD ID="{number}">\n<TEXT>\nNote {number} .\n{body}[ report_end ]\n</TEXT>\n</RECORD>\n'


def write(folder, stem, records):
    folder.mkdir(parents=True, exist_ok=True)
    text = f'<?xml version="1.0" ?>\n<ROOT>\n{"".join(records)}</ROOT>\n'
    (folder / f"{stem}.xml").write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def make(tmp_path):
    """Ten training records, of which `bodies` replaces the first ones, and two of the test set."""

    def make(*bodies):
        train = [record(n, *bodies[n : n + 1]) for n in range(10)]
        write(tmp_path, TRAIN, train)
        write(tmp_path, TEST, [record(n) for n in (20, 21)])
        return tmp_path

    return make


def read(data, *changes, on_error="skip"):
    return read_task(load_task("i2b2_2006", list(changes)), str(data), findings=Findings(on_error))


def surfaces(example):
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


def test_offsets_are_those_of_the_text_without_tags(make):
    body = (
        'Patient <PHI TYPE="PATIENT">Zed Invento</PHI> was seen on <PHI TYPE="DATE">03/04</PHI>/1999 .\n'
        'Weight &gt; 70 kg &amp; more , 1995<PHI TYPE="DATE">0101</PHI> at '
        '<PHI TYPE="HOSPITAL">St. Made &amp; Up</PHI> , age <PHI TYPE="AGE">91</PHI> .\n'
        'Zed was seen by <PHI TYPE="DOCTOR">Zed</PHI> .\n'
    )
    data = make(body)
    example = read(data).splits["train"][0]
    assert (example.id, example.text[:8], example.text.split()[-1]) == ("0", "Note 0 .", ".")
    assert "report_end" not in example.text
    assert "Weight > 70 kg & more" in example.text
    assert surfaces(example) == [
        ("Zed Invento", "PATIENT"),
        ("03/04", "DATE"),
        ("0101", "DATE"),
        ("St. Made & Up", "HOSPITAL"),
        ("91", "AGE"),
        ("Zed", "DOCTOR"),
    ]
    assert example.entities[-1].start == example.text.rindex("Zed")


def test_a_record_can_begin_with_personal_data(make):
    data = make()
    head = '<RECORD ID="30">\n<TEXT>\n<PHI TYPE="ID">123</PHI>\nNote .\n[ report_end ]\n</TEXT>\n</RECORD>\n'
    write(data, TEST, [head])
    (example,) = read(data).splits["test"]
    assert (example.text, surfaces(example)) == ("123\nNote .", [("123", "ID")])


def test_dev_is_the_end_of_the_training_file(make):
    data = make()
    found = read(data)
    ids = {split: [example.id for example in examples] for split, examples in found.splits.items()}
    assert ids == {"train": list("0123456"), "dev": list("789"), "test": ["20", "21"]}
    assert "records of train: found 10, i2b2 2006 has 669" in found.findings.remarks
    assert "records of test: found 2, i2b2 2006 has 220" in found.findings.remarks
    assert found.findings.found == {"documents": 12, "annotations": 12}


def test_or_it_is_drawn(make):
    data = make()
    drawn = [
        {e.id for e in read(data, "options.dev_split=random", f"options.seed={seed}").splits["dev"]}
        for seed in (0, 0, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert len({frozenset(ids) for ids in drawn}) > 1
    assert all(len(ids) == 3 for ids in drawn)


def test_the_date_that_is_closed_by_an_opening_tag_is_mended(make):
    data = make('On <PHI TYPE="DATE">25th of May<PHI TYPE="DOCTOR"> , <PHI TYPE="DOCTOR">Invento</PHI> came .\n')
    found = read(data, on_error="raise")
    assert surfaces(found.splits["train"][0]) == [("25th of May", "DATE"), ("Invento", "DOCTOR")]
    assert found.findings.repaired == {"date closed by an opening tag": 1}
    assert found.findings.places["date closed by an opening tag"] == [f"{data}/{TRAIN}.xml, record at line 3"]


def test_another_malformed_record_is_named_by_line_and_spoils_no_other(make):
    data = make("Fine .\n", 'On <PHI TYPE="DATE">Tuesday .\n')
    place = rf"{TRAIN}\.xml line 15: malformed XML"  # where a tag closes that is not the one opened in line 13
    with pytest.raises(DataError, match=place) as error:
        read(data, on_error="raise")
    assert "Tuesday" not in str(error.value)
    found = read(data)
    assert [e.id for split in ("train", "dev") for e in found.splits[split]] == list("023456789")
    assert found.findings.rejected == {"malformed XML": 1}
    assert found.findings.found["documents"] == 12


def test_a_truncated_file_keeps_its_whole_records(make):
    data = make()
    file = data / f"{TRAIN}.xml"
    file.write_bytes(file.read_bytes()[:-60])
    found = read(data)
    assert sum(len(found.splits[split]) for split in ("train", "dev")) == 9
    assert found.findings.rejected == {"malformed XML": 1}


def test_latin_1_in_one_record_is_named_by_line(make):
    data = make("Fine .\n", "Größer .\n")
    file = data / f"{TRAIN}.xml"
    file.write_bytes(file.read_text(encoding="utf-8").encode("latin-1"))
    with pytest.raises(DataError, match=rf"{TRAIN}\.xml line 13: not valid UTF-8"):
        read(data, on_error="raise")
    assert read(data).findings.rejected == {"not valid UTF-8": 1}


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(make):
    data = make()
    plain = read(data).fingerprint
    for stem in (TRAIN, TEST):
        file = data / f"{stem}.xml"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(data).fingerprint == plain


def test_files_are_found_in_folders_called_like_their_archives(make):
    data = make()
    plain = read(data).fingerprint
    for stem in (TRAIN, TEST):
        (data / stem).mkdir()
        (data / f"{stem}.xml").rename(data / stem / f"{stem}.xml")
        (data / stem / f"._{stem}.xml").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves these
    assert read(data).fingerprint == plain


def test_an_archive_still_packed_is_named(make):
    data = make()
    (data / f"{TEST}.xml").rename(data / f"{TEST}.zip")
    with pytest.raises(DataError, match=rf"holds no {TEST}\.xml; unpack {data}/{TEST}\.zip"):
        read(data)
    (data / f"{TEST}.zip").unlink()
    with pytest.raises(DataError, match=rf"unpack {TEST}\.zip of the n2c2 portal"):
        read(data)
