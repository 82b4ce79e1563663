"""Who is in the cohort, and what is said about those who are not and about files that are not as released."""

import contextlib
import tempfile

import fsspec
import pytest

from clinscale.errors import CapacityError, ConfigError, DataError
from clinscale.tasks.distributions.mimic_aki import MimicAkiOptions, cohort
from clinscale.tasks.findings import Findings

DAILY = {10: 1.0, 30: 1.0, 60: 1.0}
"""Creatinine on each of the first three days, which never rises."""


def select(mimic, on_error="raise", **options):
    findings = Findings(on_error)
    return [stay.id for stay in cohort(mimic.write(), MimicAkiOptions(**options), findings)], findings


def left_out(findings):
    return {reason: number for reason, number in findings.rejected.items() if number}


def test_a_stay_is_left_out_for_the_first_rule_that_it_breaks(mimic):
    for number, (facts, values) in enumerate(
        [
            ({}, DAILY),
            ({"age": 17}, DAILY),
            ({"age": 300}, DAILY),  # masked, above 89
            ({"dies": 20}, {10: 1.0}),
            ({"stays_hours": 24}, {10: 1.0}),
            ({"stays_hours": 25}, DAILY),
            ({}, {10: 1.0, 30: 1.0}),
            ({}, {10: 1.0, 11: 1.0, 12: 1.0}),
            ({}, {-5: 1.0, 10: 1.5, 30: 1.0, 60: 1.0}),
            ({}, {-5.9: 1.0, -1: 1.3, 10: 1.0, 30: 1.0, 60: 1.0}),  # on admission
        ],
        start=1,
    ):
        mimic.stay(200000 + number, 9000 + number, **facts)
        mimic.creatinine(values, subject=9000 + number)
    stays, findings = select(mimic)
    assert stays == [200001, 200003, 200006]
    assert left_out(findings) == {
        "younger than 18 years": 1,
        "died or left the hospital before the horizon": 2,
        "no creatinine on one of the first 3 days": 2,
        "AKI on admission or in the note window": 2,
    }
    assert findings.found["icu stays"] - sum(findings.rejected.values()) == len(stays)


def test_eighteen_is_old_enough_on_the_birthday(mimic):
    mimic.stay(age=18)
    mimic.creatinine(DAILY)
    assert select(mimic)[0] == [200001]


@pytest.mark.parametrize("code", ["5859", "585", "40391", "40492", "V4511", "V560"])
def test_chronic_kidney_disease_is_left_out(mimic, code):
    mimic.stay()
    mimic.creatinine(DAILY)
    mimic.add("DIAGNOSES_ICD", SUBJECT_ID=9001, HADM_ID=700001, ICD9_CODE=code)
    stays, findings = select(mimic)
    assert stays == []
    assert left_out(findings) == {"chronic kidney disease before": 1}
    assert select(mimic, ckd_codes=("584.9",))[0] == [200001]
    assert select(mimic, ckd_codes=())[0] == [200001]


@pytest.mark.parametrize("code", ["5849", "V450", "4019", "58"])
def test_other_diagnoses_are_not(mimic, code):
    mimic.stay()
    mimic.creatinine(DAILY)
    mimic.add("DIAGNOSES_ICD", SUBJECT_ID=9001, HADM_ID=700001, ICD9_CODE=code)
    assert select(mimic)[0] == [200001]


def test_kidney_disease_coded_later_does_not_reach_back(mimic):
    for number in range(3):
        mimic.stay(200001 + number, at=1000 * number)
        mimic.creatinine({1000 * number + hour: value for hour, value in DAILY.items()})
    mimic.add("DIAGNOSES_ICD", SUBJECT_ID=9001, HADM_ID=700002, ICD9_CODE="5853")
    assert select(mimic)[0] == [200001]


def test_the_first_stay_of_a_patient_can_be_the_unit(mimic):
    mimic.stay(200002, at=0)
    mimic.stay(200001, at=1000)
    mimic.creatinine({**DAILY, **{1000 + hour: value for hour, value in DAILY.items()}})
    assert select(mimic)[0] == [200001, 200002]
    stays, findings = select(mimic, unit="patient")
    assert stays == [200002]
    assert left_out(findings) == {"later icu stay of the patient": 1}


def test_windows_and_ages_are_options(mimic):
    mimic.stay(age=10)
    mimic.creatinine({10: 1.0, 14: 2.0})
    stays, _ = select(mimic, min_age=0, note_window_hours=12, horizon_hours=12, require_creatinine_days=1)
    assert stays == [200001]


def test_headers_in_lower_case_and_compressed_files_are_the_same(mimic, tmp_path):
    mimic.stay()
    mimic.creatinine({**DAILY, 61: 1.5})
    expected = cohort(mimic.write(), MimicAkiOptions(), Findings())
    mimic.folder = tmp_path / "mimic-iii-clinical-database-demo-1.4"
    mimic.folder.mkdir()
    for file in tmp_path.glob("*.csv"):
        file.unlink()
    mimic.write(spell=str.lower, suffix=".csv.gz")
    assert cohort(str(tmp_path), MimicAkiOptions(), Findings()) == expected
    assert cohort(str(mimic.folder), MimicAkiOptions(), Findings()) == expected


def test_tables_in_an_object_store_are_read_where_they_lie(mimic, tmp_path):
    mimic.stay()
    mimic.creatinine({**DAILY, 61: 1.5})
    expected = cohort(mimic.write(suffix=".csv.gz"), MimicAkiOptions(), Findings())
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), "/mimic", recursive=True)
    try:
        assert cohort("memory://mimic", MimicAkiOptions(), Findings()) == expected
    finally:
        store.rm("/mimic", recursive=True)


def test_a_folder_whose_name_matches_another_as_a_pattern_is_read_itself(mimic, tmp_path):
    """DuckDB takes `mimic[1]` for a pattern, which `mimic1` fits."""
    mimic.folder = tmp_path / "mimic1"
    mimic.folder.mkdir()
    mimic.write()  # nobody
    mimic.stay()
    mimic.creatinine(DAILY)
    mimic.folder = tmp_path / "mimic[1]"
    mimic.folder.mkdir()
    assert select(mimic)[0] == [200001]


def test_counts_unlike_the_release_are_remarked(mimic):
    mimic.stay()
    mimic.creatinine(DAILY)
    _, findings = select(mimic)
    assert "rows of ICUSTAYS: found 1, MIMIC-III v1.4 has 61,532" in findings.remarks
    assert "rows of LABEVENTS: found 4, MIMIC-III v1.4 has 27,854,055" in findings.remarks


@pytest.mark.parametrize(
    ("table", "gives"),
    [("PATIENTS", "the age"), ("LABEVENTS", "creatinine"), ("DIAGNOSES_ICD", "chronic kidney disease")],
)
def test_a_missing_table_is_named_with_what_it_gives(mimic, table, gives):
    mimic.stay()
    del mimic.rows[table]
    with pytest.raises(DataError, match=rf"holds no {table}.csv or {table}.csv.gz, which gives {gives}"):
        select(mimic)


def test_urine_needs_its_table_and_a_weight(mimic):
    mimic.stay()
    with pytest.raises(DataError, match=r"no INPUTEVENTS_MV.csv .* the weight"):
        select(mimic, criterion="creatinine_urine")
    del mimic.rows["OUTPUTEVENTS"]
    (mimic.folder / "OUTPUTEVENTS.csv").unlink()
    with pytest.raises(DataError, match=r"no OUTPUTEVENTS.csv .* urine output"):
        select(mimic, criterion="creatinine_urine")


def test_a_folder_without_tables_and_one_with_two_copies_are_refused(mimic, tmp_path):
    (tmp_path / "some.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"one folder with ICUSTAYS.csv .* found 0"):
        cohort(str(tmp_path), MimicAkiOptions(), Findings())
    for name in ("full", "demo"):
        mimic.folder = tmp_path / name
        mimic.folder.mkdir()
        mimic.write()
    with pytest.raises(DataError, match="found 2"):
        cohort(str(tmp_path), MimicAkiOptions(), Findings())


def test_a_table_without_rows_or_without_a_needed_column_is_refused(mimic):
    mimic.stay()
    mimic.rows["LABEVENTS"] = []
    with pytest.raises(DataError, match=r"LABEVENTS.csv has a header and no rows"):
        select(mimic)
    file = mimic.folder / "ICUSTAYS.csv"
    file.write_text(file.read_text().replace('"INTIME"', '"IN"'))
    with pytest.raises(DataError, match=r"ICUSTAYS.csv has no column INTIME"):
        cohort(str(mimic.folder), MimicAkiOptions(), Findings())


def test_a_malformed_row_is_named_by_its_number_and_never_quoted(mimic):
    mimic.stay()
    mimic.creatinine({**DAILY, 61: 1.5})
    mimic.rows["LABEVENTS"][0]["CHARTTIME"] = "patient Doe"
    with pytest.raises(DataError, match=r"LABEVENTS.csv row 1: value is not of its column's type") as caught:
        select(mimic)
    assert "Doe" not in str(caught.value)
    stays, findings = select(mimic, on_error="skip")
    assert stays == [200001]
    assert findings.rejected["value is not of its column's type"] == 1


def test_a_row_that_is_not_utf8_and_one_with_a_field_too_many_are_rejected(mimic):
    mimic.stay()
    mimic.creatinine(DAILY)
    mimic.add("DIAGNOSES_ICD", SUBJECT_ID=9001, HADM_ID=700001, ICD9_CODE="é5859")
    mimic.write()
    file = mimic.folder / "DIAGNOSES_ICD.csv"
    file.write_bytes(file.read_text().encode("latin-1") + b'9,9001,700001,1,"4019","more"\n')
    findings = Findings("skip")
    assert [stay.id for stay in cohort(str(mimic.folder), MimicAkiOptions(), findings)] == [200001]
    assert findings.rejected["text is not valid UTF-8"] == 1
    assert findings.rejected["row has more fields than the header"] == 1


def test_a_truncated_file_is_refused(mimic):
    mimic.stay()
    mimic.creatinine({hour / 10: 1 + hour % 7 / 10 for hour in range(2000)})
    mimic.write(suffix=".csv.gz")
    file = mimic.folder / "LABEVENTS.csv.gz"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"LABEVENTS.csv.gz cannot be read to its end"):
        cohort(str(mimic.folder), MimicAkiOptions(), Findings())


def test_a_stay_without_its_patient_or_admission_is_rejected(mimic):
    mimic.stay(200001, 9001)
    mimic.stay(200002, 9002)
    mimic.stay(200003, 9003)
    mimic.rows["PATIENTS"].pop(0)
    mimic.rows["ADMISSIONS"].pop(1)
    with pytest.raises(DataError, match=r"ICUSTAYS.csv ICUSTAY_ID 200001: icu stay lacks"):
        select(mimic)
    stays, findings = select(mimic, on_error="skip", require_creatinine_days=0)
    assert stays == [200003]
    assert findings.found["icu stays"] - sum(findings.rejected.values()) == 1


def test_nothing_stays_behind_in_the_temporary_folder(mimic, tmp_path_factory, monkeypatch):
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    mimic.stay()
    mimic.creatinine(DAILY)
    select(mimic)
    mimic.rows["ADMISSIONS"][0]["DISCHTIME"] = "never"
    with contextlib.suppress(DataError):
        select(mimic)
    assert list(temporary.iterdir()) == []


def test_too_little_memory_is_a_capacity_error(mimic):
    mimic.stay()
    mimic.creatinine({hour / 100: 1.0 for hour in range(20_000)})
    with pytest.raises(CapacityError, match=r"raise options.memory_limit"):
        select(mimic, memory_limit="2MB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"note_window_hours": 120, "horizon_hours": 72}, "at most 168"),
        ({"note_categories": ["Discharge summary"]}, "has a date and no time"),
        ({"note_categories": ["Nursin"]}, "did you mean Nursing"),
        ({"ckd_codes": ["585' OR '1"]}, "no ICD-9 code"),
        ({"min_stage": 4}, "min_stage"),
        ({"memory_limit": "much"}, "memory_limit"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MimicAkiOptions.parse(options, source="test")
