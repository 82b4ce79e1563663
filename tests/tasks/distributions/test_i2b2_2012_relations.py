"""Temporal links of i2b2 2012 as its archives unpack, with invented records."""

import pytest

from clinscale.errors import DataError
from clinscale.tasks import Findings, load_task, read_task
from clinscale.tasks.readers.relations import UNKNOWN_ENTITY

TEXT = "Admission Date :\n1993-09-29\nShe had fever on Monday and then a biopsy .\n"
SURFACES = [
    ("EVENT", "E0", "fever", "PROBLEM"),
    ("EVENT", "E1", "biopsy", "TEST"),
    ("TIMEX3", "T0", "Monday", "DATE"),
    ("SECTIME", "S0", "1993-09-29", "ADMISSION"),
]
LINKS = [
    ("TL0", "E0", "T0", "OVERLAP"),
    ("TL1", "E1", "E0", "AFTER"),
    ("SECTIME0", "E0", "Admission", "BEFORE"),
]


def record(links, number=0):
    tags = []
    for tag, id, text, type in SURFACES:
        start = TEXT.index(text)
        tags.append(f'<{tag} id="{id}" start="{start}" end="{start + len(text)}" text="{text}" type="{type}" />')
    tags += [
        f'<TLINK id="{id}" fromID="{head}" fromText="x" toID="{tail}" toText="y" type="{label}" />'
        for id, head, tail, label in links
    ]
    body = "\n".join(tags)
    return f"<Annotation><TEXT><![CDATA[{TEXT}{number}]]></TEXT><TAGS>{body}</TAGS></Annotation>"


@pytest.fixture
def make(tmp_path):
    train = tmp_path / "2012-07-15.original-annotation.release"
    test = tmp_path / "2012-08-23.test-data.groundtruth" / "ground_truth" / "merged_xml"

    def make(links=LINKS):
        for folder in (train, test):
            folder.mkdir(parents=True, exist_ok=True)
        for n in range(10):
            (train / f"{n}.xml").write_text(record(LINKS, n))
        (test / "11.xml").write_text(record(links))
        return str(tmp_path)

    return make


def read(data, *changes, on_error="raise"):
    findings = Findings(on_error)
    found = read_task(load_task("i2b2_2012_relations", list(changes)), data, findings=findings)
    (example,) = found.splits["test"]
    gold = [
        (example.text[r.head.start : r.head.end], r.label, example.text[r.tail.start : r.tail.end])
        for r in example.gold
    ]
    return gold, findings


def test_links_of_events_and_times_are_read_in_one_direction(make):
    gold, findings = read(make())
    assert gold == [("fever", "OVERLAP", "Monday"), ("fever", "BEFORE", "biopsy")]
    assert findings.rejected["link to the date of admission or discharge"] == 11


def test_section_times_are_read_where_they_are_asked_for(make):
    gold, findings = read(make(), "options.section_times=true")
    assert ("fever", "BEFORE", "1993-09-29") in gold
    assert not findings.rejected


def test_the_eight_types_of_annotation_are_merged_to_three(make):
    links = [("TL0", "T0", "E0", "SIMULTANEOUS"), ("TL1", "E1", "E0", "BEGUN_BY")]
    assert read(make(links))[0] == [("fever", "OVERLAP", "Monday"), ("fever", "BEFORE", "biopsy")]


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (("TL9", "E0", "E7", "BEFORE"), UNKNOWN_ENTITY),
        (("TL9", "E0", "", "BEFORE"), "link without fromID, toID and type"),
        (("TL9", "E0", "E0", "OVERLAP"), "relation of an entity with itself"),
    ],
)
def test_a_broken_link_is_refused_or_counted(make, link, reason):
    data = make([*LINKS, link])
    with pytest.raises(DataError, match=reason):
        read(data)
    gold, findings = read(data, on_error="skip")
    assert len(gold) == 2
    assert findings.rejected[reason] == 1
