"""MTSamples: one row per specialty of a report, with invented reports."""

import csv
import gzip

import pytest

from clinscale.tasks import load_task, read_task


@pytest.fixture
def data(tmp_path):
    """Thirty reports, each under two specialties in rows apart, and two rows without a report."""
    header = ["note_id", "description", "medical_specialty", "sample_name", "transcription", "keywords"]
    reports = [f"CHIEF COMPLAINT: invented, number {number}." for number in range(30)]
    rows = [[1, "", " Surgery", "", report, ""] for report in reports]
    rows += [[2, "", " Urology ", "", f"{report} ", ""] for report in reports]
    rows += [
        [3, "", "Surgery", "", "", ""],
        [4, "", "Letters", "", "  ", ""],
        [5, "", "Surgery", "", reports[0], ""],
    ]
    with gzip.open(tmp_path / "mtsamples.csv.gz", "wt", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return tmp_path


def test_rows_of_one_report_become_one_example_with_all_its_specialties(data):
    found = read_task(load_task("mtsamples_specialty"), str(data))
    examples = [example for examples in found.splits.values() for example in examples]
    assert {example.labels for example in examples} == {("Surgery", "Urology")}
    assert len(examples) == 30
    assert found.findings.found == {"rows": 63, "documents": 31, "reports with several specialties": 30}
    assert found.findings.rejected == {"no transcription": 2}
    assert found.duplicates == found.duplicates_across_splits == 0


def test_a_catch_all_specialty_can_be_mapped_away(data):
    found = read_task(load_task("mtsamples_specialty", {"label_map": {"Surgery": None}}), str(data))
    assert {example.labels for example in found.splits["train"]} == {("Urology",)}


def test_the_file_itself_may_be_named(data):
    found = read_task(load_task("mtsamples_specialty"), str(data / "mtsamples.csv.gz"))
    assert found.findings.found["rows"] == 63
