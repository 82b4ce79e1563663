"""The text of an example, from NOTEEVENTS in the release's dialect."""

import csv

import pytest

from clinscale.errors import DataError
from clinscale.tasks import load_task, read_task
from clinscale.tasks.distributions.mimic_aki import MimicAkiOptions, read
from clinscale.tasks.findings import Findings

DAILY = {10: 1.0, 30: 1.0, 60: 1.0}


@pytest.fixture
def one_stay(mimic):
    mimic.stay()
    mimic.creatinine(DAILY)
    return mimic


def read_one(mimic, *, on_error="raise", spell=str.upper, **options):
    findings = Findings(on_error)
    data = mimic.write(spell=spell)
    [example] = read(data, MimicAkiOptions.parse(options, source="test"), findings)["all"]
    return example, findings


def test_notes_of_the_window_are_joined_in_the_order_of_time_below_their_headers(one_stay):
    one_stay.note("Third, invented.", 23.9, CATEGORY="Radiology")
    one_stay.note('First: "fine", she said.\nSecond line.', 0, CATEGORY="Physician ", HADM_ID="")
    one_stay.note("Second.", 12.25)
    one_stay.note("Too early.", -0.1)
    one_stay.note("Too late.", 24)
    one_stay.note("Somebody else's.", 2, subject=9002)
    example, findings = read_one(one_stay)
    assert (example.id, example.labels, example.group) == ("200001", ("no_aki",), "9001")
    assert example.text == (
        'Physician, 0.0 h after admission:\nFirst: "fine", she said.\nSecond line.\n\n'
        "Nursing, 12.2 h after admission:\nSecond.\n\n"
        "Radiology, 23.9 h after admission:\nThird, invented."
    )
    assert findings.found["notes in the note window"] == 3


def test_headers_can_be_left_away(one_stay):
    one_stay.note("One.", 1)
    one_stay.note("Two.", 2)
    assert read_one(one_stay, note_headers=False)[0].text == "One.\n\nTwo."


def test_a_lower_case_header_is_the_same(one_stay):
    one_stay.note("One,\n\ntwo.", 1)
    assert read_one(one_stay, spell=str.lower)[0] == read_one(one_stay)[0]


def test_errors_blanks_and_repetitions_are_left_out_and_counted(one_stay):
    one_stay.note("Kept.", 1)
    one_stay.note("In error.", 2, ISERROR=1)
    one_stay.note("In error, saved again by pandas.", 2, ISERROR=1.0)
    one_stay.note(" \n", 3)
    one_stay.note("Kept.\n", 4)
    example, findings = read_one(one_stay, note_headers=False)
    assert example.text == "Kept."
    assert findings.found["notes marked as errors, ignored"] == 2
    assert findings.found["notes without text, ignored"] == 1
    assert findings.found["repeated notes, ignored"] == 1


def test_notes_with_a_date_only_and_their_categories_are_never_placed(one_stay):
    one_stay.note("Kept.", 1, CATEGORY="Nursing/other")
    one_stay.note("No time.", None, CHARTDATE="2130-04-05")
    one_stay.note("Tells the outcome.", None, CATEGORY="Discharge summary", CHARTDATE="2130-04-05")
    one_stay.note("Tells the outcome, too.", 2, CATEGORY="Discharge summary")
    assert read_one(one_stay, note_headers=False)[0].text == "Kept."


def test_categories_can_be_chosen_in_any_case(one_stay):
    one_stay.note("Not asked for.", 1)
    one_stay.note("Asked for.", 2, CATEGORY="Physician ")
    assert read_one(one_stay, note_headers=False, note_categories=["physician"])[0].text == "Asked for."


def test_placeholders_stay_unless_they_are_stripped_even_over_a_line_break(one_stay):
    text = "Seen by [**First Name 3**] at [**Hospital\n12**] on [**2130-4-5**]."
    one_stay.note(text, 1)
    assert read_one(one_stay, note_headers=False)[0].text == text
    assert read_one(one_stay, note_headers=False, strip_placeholders=True)[0].text == "Seen by  at  on ."


def test_a_stay_whose_notes_are_all_left_out_is_no_example(one_stay):
    one_stay.note("Kept.", 1)
    one_stay.stay(200002, 9002)
    one_stay.creatinine(DAILY, subject=9002)
    one_stay.note("In error.", 1, subject=9002, ISERROR=1)
    example, findings = read_one(one_stay)
    assert example.id == "200001"
    assert findings.rejected["no note in the note window"] == 1
    assert findings.found["icu stays"] - sum(findings.rejected.values()) == 1
    assert findings.found["stays in the cohort"] == 2


def test_a_cohort_without_anyone_says_why(one_stay):
    one_stay.note("Of nobody.", 1, subject=9002)
    with pytest.raises(DataError, match=r"no ICU stay is left .*no note in the note window: 1"):
        read_one(one_stay)


def test_the_public_demo_has_no_notes_and_the_error_says_so(one_stay):
    with pytest.raises(DataError, match=r"NOTEEVENTS.csv has a header and no notes, as in the public demo"):
        read_one(one_stay)
    del one_stay.rows["NOTEEVENTS"]
    (one_stay.folder / "NOTEEVENTS.csv").unlink()
    with pytest.raises(DataError, match=r"holds no NOTEEVENTS.csv or NOTEEVENTS.csv.gz, which gives the notes"):
        read_one(one_stay)


def test_notes_may_lie_in_another_file(one_stay, tmp_path):
    one_stay.note("Generated.", 1)
    one_stay.write()
    (tmp_path / "generated").mkdir()
    (tmp_path / "NOTEEVENTS.csv").rename(tmp_path / "generated" / "notes.csv")
    for path in ("generated/notes.csv", str(tmp_path / "generated" / "notes.csv")):
        findings = Findings()
        [example] = read(str(tmp_path), MimicAkiOptions(notes=path, note_headers=False), findings)["all"]
        assert example.text == "Generated."
        assert not any("NOTEEVENTS" in remark for remark in findings.remarks)


def test_broken_rows_of_notes_are_named_by_number_and_never_quoted(one_stay):
    one_stay.note("Kept.", 1)
    one_stay.note("Confidential.", 2)
    one_stay.rows["NOTEEVENTS"][1]["CHARTTIME"] = "noon, confidential"
    with pytest.raises(DataError, match=r"NOTEEVENTS.csv row 2: CHARTTIME is no time") as caught:
        read_one(one_stay)
    assert "onfidential" not in str(caught.value)
    data = one_stay.write()
    with (one_stay.folder / "NOTEEVENTS.csv").open("a") as stream:
        stream.write("3,9001,,2130-04-05\n")
        stream.write("4,9001,,2130-04-05,,,Nursing,,,,text, with a comma\n")
    findings = Findings("skip")
    [example] = read(data, MimicAkiOptions(note_headers=False), findings)["all"]
    assert example.text == "Kept."
    assert findings.rejected["CHARTTIME is no time"] == 1
    assert findings.rejected["row has fewer fields than the header"] == 1
    assert findings.rejected["row has more fields than the header"] == 1


def test_a_time_in_a_zone_is_refused_and_a_patient_whose_number_is_a_float_is_the_same(one_stay):
    one_stay.note("Kept.", 1, subject="9001.0")
    assert read_one(one_stay, note_headers=False)[0].text == "Kept."
    one_stay.rows["NOTEEVENTS"][0]["CHARTTIME"] = "2130-04-05T10:30:00+00:00"
    with pytest.raises(DataError, match=r"NOTEEVENTS.csv row 1: CHARTTIME is no time"):
        read_one(one_stay)


def test_the_task_splits_by_patient_and_names_its_labels(mimic):
    for patient in range(30):
        for number in range(1 + patient % 3):
            at = 1000 * number
            mimic.stay(200000 + 10 * patient + number, 9000 + patient, at=at)
            risen = {61: 1.5} if patient % 4 == 0 else {}
            mimic.creatinine(
                {at + hour: value for hour, value in {**DAILY, **risen}.items()}, subject=9000 + patient
            )
            mimic.note(f"Invented note {patient} {number}.", at + 1, subject=9000 + patient)
    data = read_task(load_task("mimic_aki"), mimic.write())
    assert data.labels == ("no_aki", "aki")
    assert sum(map(len, data.splits.values())) == data.findings.found["stays in the cohort"] == 60
    patients = [{example.group for example in examples} for examples in data.splits.values()]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 30
    assert data.findings.found["stays in the cohort with aki"] == 15
    assert read_task(load_task("mimic_aki"), mimic.write()).fingerprint == data.fingerprint


def test_fields_of_any_length_are_read(one_stay):
    one_stay.note("word " * 200_000, 1)
    assert csv.field_size_limit() > 10**6
    assert len(read_one(one_stay, note_headers=False)[0].text) == 999_999
