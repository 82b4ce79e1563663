"""i2b2 2012 as its archives unpack, both encodings, with invented records."""

import html
import re

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task
from clinscale.tasks.distributions.line_token import MISCOUNTED
from clinscale.tasks.readers.align import OFF

TRAIN = "2012-07-15.original-annotation.release"
TEST = "2012-08-08.test-data.event-timex-groundtruth"
LATER_TEST = "2012-08-23.test-data.groundtruth/ground_truth"

TEXT = "Admission Date :\n02/03/1999\nHISTORY :\nThe patient&apos;s wound , called &quot;mild&quot; fever#2 .\n"
EVENTS = [
    ("EVENT", "Admission", "OCCURRENCE"),
    ("EVENT", "02/03/1999", "OCCURRENCE"),
    ("EVENT", "patient&apos;s wound", "PROBLEM"),
    ("EVENT", "mild", "PROBLEM"),
    ("EVENT", "fever", "PROBLEM"),
    ("EVENT", "called", ""),
    ("TIMEX3", "02/03/1999", "DATE"),
]
SURFACES = [(surface, label) for tag, surface, label in EVENTS if tag == "EVENT" and label]


def xml(text=TEXT, events=EVENTS, shift=0):
    tags = []
    for number, (tag, surface, label) in enumerate(events):
        start = ("\n" + text).index(surface) + shift
        shown = surface.replace("&apos;", "'")  # what escapes as such in an attribute
        tags.append(
            f'<{tag} id="E{number}" start="{start}" end="{start + len(surface)}" text="{shown}" '
            f'modality="FACTUAL" polarity="POS" type="{label}" />\n'
        )
    tags.append('<SECTIME id="S0" start="18" end="28" text="02/03/1999" type="ADMISSION" dvalue="1999-02-03" />\n')
    tags.append('<TLINK id="TL0" fromID="E1" fromText="x" toID="T0" toText="02/03/1999" type="AFTER" />\n')
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<ClinicalNarrativeTemporalAnnotation>\n'
        f"<TEXT><![CDATA[\n{text}]]></TEXT>\n<TAGS>\n{''.join(tags)}</TAGS>\n"
        "</ClinicalNarrativeTemporalAnnotation>\n"
    )


def extent(text=TEXT, events=EVENTS, shift=0):
    lines = ['SECTIME="02/03/1999" _:_ _:_||type="ADMISSION"||dvalue="1999-02-03"\n']
    for tag, surface, label in events:
        before = text[: text.index(surface)]
        token = len(re.findall(r"\S+", before.rpartition("\n")[2])) - (before[-1:] not in ("", " ", "\n"))
        place = [f"{before.count(chr(10)) + 1 + shift}:{token + more}" for more in (0, surface.count(" "))]
        lines.append(
            f'{tag}="{html.unescape(surface)}" {place[0]} {place[1]}||type="{label}"||modality="FACTUAL"\n'
        )
    return "".join(lines)


def write(folder, name, files):
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in files.items():
        (folder / f"{name}{suffix}").write_text(content, encoding="utf-8")


def record(text=TEXT, events=EVENTS, shift=0):
    return {
        ".xml": xml(text, events, shift),
        ".xml.txt": text,
        ".xml.extent": extent(text, events),
        ".xml.tlink": 'EVENT="x" 1:0 1:0||TIMEX3="02/03/1999" 2:0 2:0||type="AFTER"\n',
    }


@pytest.fixture
def make(tmp_path):
    """Ten training records, and one of the test set, which `changes` are for."""

    def make(**changes):
        for n in range(1, 11):
            write(tmp_path / TRAIN, n, record(f"{TEXT}Record {n} .\n"))
        files = record(**changes)
        write(tmp_path / TEST / "xml", 99, {".xml": files.pop(".xml")})
        write(tmp_path / TEST / "i2b2", 99, files)
        return tmp_path

    return make


def read(data, *changes, on_error="skip"):
    return read_task(load_task("i2b2_2012", list(changes)), str(data), findings=Findings(on_error))


def surfaces(example):
    return [(example.text[e.start : e.end], e.label) for e in example.entities]


@pytest.mark.parametrize("encoding", ["xml", "extent"])
def test_events_are_read_and_nothing_else(make, encoding):
    found = read(make(), f"options.encoding={encoding}", on_error="raise")
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 9, "dev": 1, "test": 1}
    for examples in found.splits.values():
        for example in examples:
            assert surfaces(example) == SURFACES
    assert [example.id for example in found.splits["test"]] == ["99"]
    assert found.findings.found == {"documents": 11, "annotations": 66}
    assert found.findings.rejected == {"annotation with an empty type": 11}
    assert not found.findings.repaired
    assert "training records: found 10, i2b2 2012 has 190" in found.findings.remarks
    assert "test records: found 1, i2b2 2012 has 120" in found.findings.remarks


def test_times_can_be_read_too_and_one_that_is_an_event_counts_once(make):
    labels = "labels=[PROBLEM,TEST,TREATMENT,CLINICAL_DEPT,EVIDENTIAL,OCCURRENCE,DATE,TIME,DURATION,FREQUENCY]"
    data = make(events=[*EVENTS[:1], EVENTS[-1]])
    for encoding in ("xml", "extent"):
        found = read(data, "options.tags=[EVENT,TIMEX3]", labels, f"options.encoding={encoding}")
        assert surfaces(found.splits["test"][0]) == [("Admission", "OCCURRENCE"), ("02/03/1999", "DATE")]
        assert surfaces(found.splits["train"][0]) == SURFACES
        assert found.findings.rejected["overlaps a longer span"] == 10


def test_dev_depends_on_the_seed_and_its_share(make):
    data = make()
    devs = [frozenset(e.id for e in read(data, f"options.seed={seed}").splits["dev"]) for seed in (0, 0, 1, 2, 3)]
    assert devs[0] == devs[1]
    assert len(set(devs)) > 1
    assert len(read(data, "options.dev_share=0.3").splits["dev"]) == 3


def test_wrong_offsets_of_the_test_set_are_repaired_or_rejected(make):
    near = read(make(shift=3), on_error="raise")
    assert surfaces(near.splits["test"][0]) == SURFACES
    assert near.findings.repaired == {OFF: 5}
    together = read(make(shift=200), on_error="raise")
    assert surfaces(together.splits["test"][0]) == SURFACES
    data = make(shift=200, events=EVENTS[:3])
    with pytest.raises(DataError, match=r"99\.xml tag E0: span not found") as error:
        read(data, on_error="raise")
    assert "Admission" not in str(error.value)
    far = read(data)
    assert not far.splits["test"][0].entities
    assert far.findings.rejected["span not found at its offset"] == 3


def test_events_that_overlap_leave_the_longest(make):
    found = read(make(events=[("EVENT", "wound", "PROBLEM"), *EVENTS[:4]]), on_error="raise")
    assert surfaces(found.splits["test"][0]) == SURFACES[:4]
    assert found.findings.rejected["overlaps a longer span"] == 1


def test_extents_that_count_lines_from_0_are_read_by_what_they_quote(make):
    data = make()
    file = data / TEST / "i2b2" / "99.xml.extent"
    file.write_text(extent(shift=-1))
    found = read(data, "options.encoding=extent", on_error="raise")
    assert surfaces(found.splits["test"][0]) == SURFACES
    assert found.findings.repaired == {MISCOUNTED: 5}


@pytest.mark.parametrize(("encoding", "folder"), [("xml", "merged_xml"), ("extent", "unmerged_i2b2")])
def test_the_later_release_of_the_test_set_does_as_well(make, encoding, folder):
    data = make()
    plain = read(data, f"options.encoding={encoding}").fingerprint
    write(data / LATER_TEST / folder, 99, record())
    assert read(data, f"options.encoding={encoding}").fingerprint == plain
    (data / TEST).rename(data / "elsewhere")
    assert read(data, f"options.encoding={encoding}").fingerprint == plain


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(make):
    data = make()
    for encoding in ("xml", "extent"):
        plain = read(data, f"options.encoding={encoding}").fingerprint
        for file in (data / TEST).glob("*/*"):
            file.write_bytes(
                b"\xef\xbb\xbf" + file.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\n", b"\r\n")
            )
        assert read(data, f"options.encoding={encoding}", on_error="raise").fingerprint == plain
        make()


def test_a_file_that_is_malformed_or_not_utf_8_is_named(make):
    data = make()
    (data / TRAIN / "3.xml").write_text(xml().replace("</TAGS>", ""))
    with pytest.raises(DataError, match=r"3\.xml line \d+, column \d+: malformed XML"):
        read(data, on_error="raise")
    (data / TRAIN / "4.xml").write_bytes(xml(TEXT + "Größer").encode("latin-1"))
    (data / TRAIN / "4.xml.txt").write_bytes("Größer".encode("latin-1"))
    assert read(data).findings.rejected == {
        "malformed XML": 1,
        "not readable": 1,
        "annotation with an empty type": 9,
    }
    assert read(data, "options.encoding=extent").findings.rejected["not readable"] == 1


def test_an_extent_without_its_text_is_named(make):
    data = make()
    (data / TRAIN / "3.xml.txt").unlink()
    with pytest.raises(DataError, match=r"3\.xml\.extent: annotations without text"):
        read(data, "options.encoding=extent", on_error="raise")


def test_a_missing_part_is_told_with_its_archive(make):
    data = make()
    (data / TEST).rename(data / "elsewhere")
    with pytest.raises(DataError, match=rf"{TEST}/xml.*merged_xml.*unpack {TEST}\.tar\.gz of the n2c2 portal"):
        read(data)
