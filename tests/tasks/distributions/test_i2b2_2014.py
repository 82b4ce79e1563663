"""i2b2 2014, track 1, as its archives unpack, with invented notes."""

from xml.sax.saxutils import quoteattr

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task
from clinscale.tasks.readers.align import OFF

SETS = ("training-PHI-Gold-Set1", "training-PHI-Gold-Set2")
TEST = "testing-PHI-Gold-fixed"
TEXT = "\nRecord date: 2070-01-02\nDr. Invento saw a 91 yo at Imaginary Clinic.\n"
PHI = [
    ("DATE", "DATE", "2070-01-02"),
    ("NAME", "DOCTOR", "Invento"),
    ("AGE", "AGE", "91"),
    ("LOCATION", "HOSPITAL", "Imaginary Clinic"),
]
SURFACES = [(surface, label) for _, label, surface in PHI]


def tag(number, category, label, start, surface, shown=None):
    return (
        f'<{category} id="P{number}" start="{start}" end="{start + len(surface)}" '
        f'text={quoteattr(shown or surface)} TYPE="{label}" comment="" />\n'
    )


def note(text=TEXT, phi=PHI, tags=None):
    if tags is None:
        tags = [tag(n, category, label, text.index(part), part) for n, (category, label, part) in enumerate(phi)]
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<deIdi2b2>\n'
        f"<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{''.join(tags)}</TAGS>\n</deIdi2b2>\n"
    )


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.xml").write_text(content, encoding="utf-8")


@pytest.fixture
def make(tmp_path):
    """Ten training patients with two notes in Set1 and one in Set2, and one test note, which `content` replaces."""
    data = tmp_path / "data"

    def make(content=None):
        for patient in range(100, 110):
            for number in range(1, 4):
                name = f"{patient}-{number:02}"
                write(data / SETS[number == 3], name, note(f"{TEXT}{name}\n"))
        write(data / TEST, "220-01", content or note())
        write(data / "training-RiskFactors-Complete-Set1", "100-01", "<root/>")
        return data

    return make


def read(data, *changes, on_error="skip"):
    return read_task(load_task("i2b2_2014", list(changes)), str(data), findings=Findings(on_error))


def test_set(found):
    (example,) = found.splits["test"]
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


test_set.__test__ = False


def test_both_sets_are_split_by_patient(make):
    data = make()
    devs = set()
    for seed in range(4):
        found = read(data, f"options.seed={seed}", on_error="raise")
        assert {split: len(notes) for split, notes in found.splits.items()} == {"train": 27, "dev": 3, "test": 1}
        patients = {split: {e.id.split("-")[0] for e in found.splits[split]} for split in ("train", "dev")}
        assert not patients["train"] & patients["dev"]
        devs.add(frozenset(patients["dev"]))
    assert len(devs) > 1
    assert test_set(found) == SURFACES
    assert [example.id for example in found.splits["test"]] == ["220-01"]
    assert found.findings.found == {"documents": 31, "annotations": 124}
    assert found.findings.remarks[:3] == [
        "training notes: found 30, i2b2 2014 has 790",
        "test notes: found 1, i2b2 2014 has 514",
        "patients: found 11, i2b2 2014 has 296",
    ]


def test_lines_of_one_patient_stay_together_too(make):
    found = read(make(), "unit=line")
    patients = {split: {e.id.split("-")[0] for e in found.splits[split]} for split in ("train", "dev")}
    assert not patients["train"] & patients["dev"]
    assert found.splits["test"][0].text == "Record date: 2070-01-02"


def test_a_type_that_training_lacks_is_a_label_all_the_same(make):
    content = note("\nhttp://invented.example or id 12-345\n", [("ID", "BIOID", "12-345")])
    found = read(make(content), on_error="raise")
    assert test_set(found) == [("12-345", "BIOID")]
    assert len(found.labels) == 29
    assert "LOCATION-OTHER" in found.labels


def test_offsets_four_off_are_repaired(make):
    text = "\n0808 O\N{RIGHT SINGLE QUOTATION MARK}invent Court, Madeup\n"
    street, city = text[1:20], "Madeup"
    tags = [
        tag(0, "LOCATION", "STREET", 1, street + "    ", shown=street),
        tag(1, "LOCATION", "CITY", text.index(city) + 4, city),
    ]
    found = read(make(note(text, tags=tags)), on_error="raise")
    assert test_set(found) == [(street, "STREET"), (city, "CITY")]
    assert found.findings.repaired == {OFF: 1}


def test_a_name_spelled_with_an_ampersand_or_a_word_is_the_same(make):
    text = "\nWorks at Made & Up and at Zed &amp; Co, for Invento  and\nSons.\n"
    tags = [
        tag(0, "LOCATION", "ORGANIZATION", text.index("Made"), "Made & Up", shown="Made and Up"),
        tag(1, "LOCATION", "ORGANIZATION", text.index("Zed"), "Zed &amp; Co", shown="Zed & Co"),
        tag(2, "LOCATION", "ORGANIZATION", text.index("Inv"), "Invento  and\nSons", shown="Invento & Sons"),
    ]
    found = read(make(note(text, tags=tags)), on_error="raise")
    assert [surface for surface, _ in test_set(found)] == ["Made & Up", "Zed &amp; Co", "Invento  and\nSons"]
    assert not found.findings.repaired


def test_entities_may_be_parts_of_tokens(make):
    text = "\nSeen2070-01-02at ward,91yo\n"
    found = read(make(note(text, [PHI[0], PHI[2]])), on_error="raise")
    assert test_set(found) == [("2070-01-02", "DATE"), ("91", "AGE")]


def test_a_type_that_the_guideline_does_not_know_is_named_by_note(make):
    data = make(note(phi=[("NAME", "NICKNAME", "Invento"), PHI[0]]))
    with pytest.raises(DataError, match="test example 220-01: label is not among the task's"):
        read(data, on_error="raise")
    assert test_set(read(data)) == SURFACES[:1]


def test_a_missing_set_is_told_and_the_reading_goes_on(make):
    data = make()
    (data / SETS[1]).rename(data / "elsewhere")
    found = read(data)
    assert sum(len(found.splits[split]) for split in ("train", "dev")) == 20
    assert found.findings.remarks[:2] == [
        "a part of the training notes is missing; unpack training-PHI-Gold-Set2.tar.gz",
        "training notes: found 20, i2b2 2014 has 790",
    ]


def test_without_test_notes_the_archive_is_named(make):
    data = make()
    (data / TEST).rename(data / "elsewhere")
    with pytest.raises(DataError, match=r"unpack testing-PHI-Gold-fixed\.tar\.gz of the n2c2 portal"):
        read(data)
    (data / f"{TEST}.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=rf"holds no .*{TEST}/\*\.xml; unpack {data}/{TEST}\.tar\.gz"):
        read(data)


def test_a_patient_on_both_sides_of_the_official_split_is_told(make):
    data = make()
    write(data / TEST, "100-09", note())
    assert "1 patients have notes both in training and in test; check the folders" in read(data).findings.remarks


def test_one_malformed_note_among_many_is_named_by_line_and_left_out(make):
    data = make()
    write(data / SETS[0], "103-01", note().replace("</TAGS>", ""))
    with pytest.raises(DataError, match=r"103-01\.xml line \d+, column \d+: malformed XML") as error:
        read(data, on_error="raise")
    assert "Invento" not in str(error.value)
    found = read(data)
    assert sum(len(found.splits[split]) for split in ("train", "dev")) == 29
    assert found.findings.rejected == {"malformed XML": 1}
    assert found.findings.places["malformed XML"][0].startswith(f"{data}/{SETS[0]}/103-01.xml line")


def test_a_note_without_annotations_or_not_in_utf_8_is_left_out(make):
    data = make()
    write(data / SETS[0], "103-01", "<deIdi2b2><TEXT>Not annotated.</TEXT></deIdi2b2>")
    (data / SETS[0] / "104-01.xml").write_bytes(note(TEXT + "Größer").encode("latin-1"))
    assert read(data).findings.rejected == {"no element TAGS": 1, "not readable": 1}


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(make):
    data = make()
    plain = read(data).fingerprint
    for file in data.glob("*-PHI-Gold-*/*.xml"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(data, on_error="raise").fingerprint == plain


def test_all_archives_may_lie_in_one_folder_with_other_data(make):
    data = make()
    plain = read(data).fingerprint
    (data / "other").mkdir()
    (data / "other" / "110-01.xml").write_text("<deIdi2b2/>")
    (data / SETS[0] / "._100-01.xml").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves these
    assert read(data.parent).fingerprint == plain
