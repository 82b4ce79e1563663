"""The ICU stays in the MIMIC-AKI cohort, and those of them that developed AKI."""

from dataclasses import dataclass
from datetime import datetime

from clinscale.errors import DataError
from clinscale.tasks.distributions.mimic_aki.folder import RELEASE, Folder, read_head
from clinscale.tasks.distributions.mimic_aki.kdigo import add_urine, load_creatinine, weight_tables
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.distributions.mimic_aki.tables import Tables, open_tables
from clinscale.tasks.findings import Findings

ADMISSION_HOURS = 6
"""AKI on admission is AKI from these hours before INTIME on, as in mimic-code's views by stay."""


@dataclass(frozen=True)
class Stay:
    """An ICU stay of the cohort."""

    id: int
    subject: int
    intime: datetime
    label: str
    """`aki` or `no_aki`."""
    stage: int
    """Highest KDIGO stage in the horizon."""
    onset_hours: float | None
    """Hours from INTIME to the first time in the horizon at which the stage of the label is reached."""


def cohort(data: str, options: MimicAkiOptions, findings: Findings) -> list[Stay]:
    """The cohort of the tables below `data` without its notes, ordered by stay; `findings` says who was left out."""
    folder = Folder(data)
    for name in _needed(folder, options):  # before the long scan of one shows that another is missing
        if not read_head(folder.uri(name), name).has_rows:
            raise DataError(f"{folder.uri(name)} has a header and no rows; give {name} of {RELEASE}")
    with open_tables(folder, options, findings) as tables:
        return _select(tables, options)


def _needed(folder: Folder, options: MimicAkiOptions) -> list[str]:
    names = ["ICUSTAYS", "PATIENTS", "ADMISSIONS", "LABEVENTS"]
    if options.ckd_codes:
        names.append("DIAGNOSES_ICD")
    if options.criterion == "creatinine_urine":
        names += ["OUTPUTEVENTS", *weight_tables(folder)]
    return names


def _select(tables: Tables, options: MimicAkiOptions) -> list[Stay]:
    """Load what is needed and leave out by one rule after the other."""
    for name in ("ICUSTAYS", "PATIENTS", "ADMISSIONS"):
        tables.load(name)
    [(stays,)] = tables.query("SELECT count(*) FROM icustays")
    tables.findings.find("icu stays", stays)
    _reject_incomplete(tables)
    _load_ckd(tables, options)
    load_creatinine(tables, options)
    if options.criterion == "creatinine_urine":
        add_urine(tables)
    rules = _rules(options)
    cases = " ".join(f"WHEN {condition} THEN '{reason}'" for reason, condition in rules.items())
    tables.query(_JUDGED.format(options=options, admission_hours=ADMISSION_HOURS, cases=cases))
    left_out = dict(tables.query("SELECT exclusion, count(*) FROM judged GROUP BY exclusion"))
    for reason in rules:
        tables.findings.leave_out(reason, left_out.get(reason, 0))
    cohort = tables.query(
        "SELECT icustay_id, subject_id, intime, stage, onset_hours FROM judged "
        "WHERE exclusion IS NULL ORDER BY icustay_id"
    )
    return [
        Stay(id, subject, intime, "no_aki" if onset is None else "aki", stage, onset)
        for id, subject, intime, stage, onset in cohort
    ]


def _reject_incomplete(tables: Tables) -> None:
    """Reject and delete the stays whose time, patient or admission is not there."""
    incomplete = (
        "SELECT icustay_id FROM icustays LEFT JOIN patients USING (subject_id) LEFT JOIN admissions USING (hadm_id) "
        "WHERE intime IS NULL OR dob IS NULL OR dischtime IS NULL ORDER BY icustay_id"
    )
    for (stay,) in tables.query(incomplete):
        tables.findings.reject(
            "icu stay lacks INTIME, its patient's DOB or its admission's DISCHTIME",
            f"{tables.folder.uri('ICUSTAYS')} ICUSTAY_ID {stay}",
            "complete ICUSTAYS, PATIENTS and ADMISSIONS",
        )
    tables.query(f"DELETE FROM icustays WHERE icustay_id IN ({incomplete})")


def _rules(options: MimicAkiOptions) -> dict[str, str]:
    """Reason for leaving out a stay -> the condition on its facts; the first that holds counts."""
    days = options.require_creatinine_days
    rules = {
        "later icu stay of the patient": "number > 1" if options.unit == "patient" else "",
        f"younger than {options.min_age} years": f"dob + INTERVAL {options.min_age} YEARS > intime",
        "died or left the hospital before the horizon": "least(dischtime, deathtime) <= horizon_start",
        "chronic kidney disease before": "ckd_since <= admittime" if options.ckd_codes else "",
        f"no creatinine on one of the first {days} days": f"creatinine_days < {days}" if days else "",
        "AKI on admission or in the note window": "earlier_stage >= 1",
    }
    return {reason: condition for reason, condition in rules.items() if condition}


def _load_ckd(tables: Tables, options: MimicAkiOptions) -> None:
    """Make `ckd`: since which admission chronic kidney disease has been coded."""
    if not options.ckd_codes:
        tables.query("CREATE TABLE ckd (subject_id BIGINT, ckd_since TIMESTAMP)")
        return
    codes = (code.replace(".", "") for code in options.ckd_codes)
    chosen = " OR ".join(f"starts_with(upper(icd9_code), '{code}')" for code in codes)
    tables.load("DIAGNOSES_ICD", chosen)
    tables.query(
        "CREATE TABLE ckd AS SELECT subject_id, min(admittime) AS ckd_since "
        "FROM diagnoses_icd JOIN admissions USING (hadm_id) GROUP BY subject_id"
    )


_JUDGED = """
CREATE TABLE judged AS
WITH windows AS (
    SELECT *, row_number() OVER (PARTITION BY subject_id ORDER BY intime, icustay_id) AS number,
        intime + INTERVAL {options.note_window_hours} HOURS AS horizon_start,
        intime + INTERVAL {options.horizon_end_hours} HOURS AS horizon_end
    FROM icustays
), measured AS (
    SELECT icustay_id, count(DISTINCT floor(epoch(charttime - intime) / 86400)) AS days
    FROM creatinine JOIN icustays USING (icustay_id)
    WHERE charttime >= intime AND charttime < intime + INTERVAL {options.require_creatinine_days} DAYS
    GROUP BY icustay_id
), staged AS (
    SELECT icustay_id,
        max(stage) FILTER (
            charttime >= intime - INTERVAL {admission_hours} HOURS AND charttime < horizon_start
        ) AS earlier_stage,
        max(stage) FILTER (charttime >= horizon_start AND charttime < horizon_end) AS stage,
        min(epoch(charttime - intime) / 3600) FILTER (
            stage >= {options.min_stage} AND charttime >= horizon_start AND charttime < horizon_end
        ) AS onset_hours
    FROM stages JOIN windows USING (icustay_id)
    GROUP BY icustay_id
), facts AS (
    SELECT windows.*, dob, admittime, dischtime, deathtime, ckd_since, earlier_stage, onset_hours,
        coalesce(stage, 0) AS stage, coalesce(days, 0) AS creatinine_days
    FROM windows JOIN patients USING (subject_id) JOIN admissions USING (hadm_id)
        LEFT JOIN ckd USING (subject_id) LEFT JOIN measured USING (icustay_id) LEFT JOIN staged USING (icustay_id)
)
SELECT *, CASE {cases} END AS exclusion FROM facts
"""
"""One row per stay with what the rules ask about, and the reason why it is left out, if it is."""
