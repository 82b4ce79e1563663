"""Invented MIMIC-III tables in the layout of the release."""

import gzip
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

INTIME = datetime(2130, 4, 5, 9, 30)

COLUMNS = {
    "ICUSTAYS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID DBSOURCE FIRST_CAREUNIT LAST_CAREUNIT FIRST_WARDID LAST_WARDID "
    "INTIME OUTTIME LOS",
    "PATIENTS": "ROW_ID SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "ADMISSIONS": "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE ADMISSION_LOCATION "
    "DISCHARGE_LOCATION INSURANCE LANGUAGE RELIGION MARITAL_STATUS ETHNICITY EDREGTIME EDOUTTIME DIAGNOSIS "
    "HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA",
    "DIAGNOSES_ICD": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "LABEVENTS": "ROW_ID SUBJECT_ID HADM_ID ITEMID CHARTTIME VALUE VALUENUM VALUEUOM FLAG",
    "OUTPUTEVENTS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID CHARTTIME ITEMID VALUE VALUEUOM STORETIME CGID STOPPED "
    "NEWBOTTLE ISERROR",
    "CHARTEVENTS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID ITEMID CHARTTIME STORETIME CGID VALUE VALUENUM VALUEUOM "
    "WARNING ERROR RESULTSTATUS STOPPED",
    "INPUTEVENTS_MV": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID STARTTIME PATIENTWEIGHT STATUSDESCRIPTION",
    "NOTEEVENTS": "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION CGID ISERROR TEXT",
}


class Mimic:
    """A MIMIC-III of a few invented patients; hours are those since INTIME of the patient's first stay."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = {name: [] for name in COLUMNS if name not in ("CHARTEVENTS", "INPUTEVENTS_MV")}
        self.add("DIAGNOSES_ICD", SUBJECT_ID=1, HADM_ID=1, ICD9_CODE="4019")
        self.add("LABEVENTS", SUBJECT_ID=1, ITEMID=51221, CHARTTIME=INTIME, VALUE='<30, see "note"\nbelow')
        self.add("OUTPUTEVENTS", ICUSTAY_ID=1, ITEMID=40065, CHARTTIME=INTIME, VALUE=9)  # not urine

    def add(self, table, **values):
        rows = self.rows.setdefault(table, [])
        row = {**dict.fromkeys(COLUMNS[table].split(), ""), "ROW_ID": len(rows) + 1, **values}
        rows.append({column: str(value) for column, value in row.items()})

    def stay(self, stay=200001, subject=9001, at=0, age=60, stays_hours=200, dies=None):
        """An admission of its own with one ICU stay, `at` hours after INTIME, and the patient when new."""
        intime = self.time(at)
        if not any(row["SUBJECT_ID"] == str(subject) for row in self.rows["PATIENTS"]):
            self.add("PATIENTS", SUBJECT_ID=subject, DOB=intime.replace(year=intime.year - age))
        death = self.time(at + dies) if dies is not None else ""
        self.add(
            "ADMISSIONS",
            SUBJECT_ID=subject,
            HADM_ID=stay + 500_000,
            ADMITTIME=self.time(at - 1),
            DISCHTIME=death or self.time(at + stays_hours),
            DEATHTIME=death,
            DIAGNOSIS='INVENTED, "A"\nB',
        )
        self.add(
            "ICUSTAYS",
            SUBJECT_ID=subject,
            HADM_ID=stay + 500_000,
            ICUSTAY_ID=stay,
            INTIME=intime,
            OUTTIME=death or self.time(at + stays_hours),
        )

    def creatinine(self, values, subject=9001, hadm=""):
        for hour, value in values.items():
            self.add(
                "LABEVENTS",
                SUBJECT_ID=subject,
                HADM_ID=hadm,
                ITEMID=50912,
                CHARTTIME=self.time(hour),
                VALUE=value,
                VALUENUM="" if isinstance(value, str) else value,
                VALUEUOM="mg/dL",
            )

    def urine(self, values, stay=200001, item=40055):
        for hour, value in values.items():
            self.add("OUTPUTEVENTS", ICUSTAY_ID=stay, CHARTTIME=self.time(hour), ITEMID=item, VALUE=value)

    def note(self, text, hour=2.0, subject=9001, **values):
        time = "" if hour is None else self.time(hour)
        self.add("NOTEEVENTS", SUBJECT_ID=subject, CHARTTIME=time, TEXT=text, **{"CATEGORY": "Nursing", **values})

    @staticmethod
    def time(hour):
        return INTIME + timedelta(seconds=round(hour * 3600))

    def write(self, *, spell=str.upper, suffix=".csv"):
        """As PostgreSQL's COPY does it: strings quoted, numbers and dates bare, empty for null."""
        for name, rows in self.rows.items():
            lines = [",".join(f'"{spell(column)}"' for column in COLUMNS[name].split())]
            lines += [",".join(map(_field, row.values())) for row in rows]
            text = "\n".join(lines) + "\n"
            open_file = gzip.open if suffix.endswith(".gz") else open
            with open_file(self.folder / f"{spell(name)}{suffix}", "wt", encoding="utf-8", newline="") as stream:
                stream.write(text)
        return str(self.folder)


def _field(value):
    return value if re.fullmatch(r"[-0-9.: ]*", value) else '"' + value.replace('"', '""') + '"'


@pytest.fixture
def mimic(tmp_path):
    return Mimic(tmp_path)
