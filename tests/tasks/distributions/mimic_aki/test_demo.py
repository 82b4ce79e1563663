"""The real tables of the public demo and random ones, against KDIGO written down once more in plain Python."""

import csv
import gzip
import random
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from clinscale.errors import DataError
from clinscale.storage import join
from clinscale.tasks import load_task, read_task
from clinscale.tasks.distributions.mimic_aki import MimicAkiOptions, cohort
from clinscale.tasks.findings import Findings

HOUR = timedelta(hours=1)

CAREVUE = "40055 43175 40069 40094 40715 40473 40085 40057 40056 40405 40428 40086 40096 40651"
METAVISION = "226559 226560 226561 226584 226563 226564 226565 226567 226557 226558 227488 227489"

EVERYBODY = {"min_age": 0, "ckd_codes": (), "require_creatinine_days": 0}


def rows_of(folder, name):
    for file in Path(folder).glob(f"{name}.csv*"):
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            yield from csv.DictReader(stream)


def time(text):
    return datetime.fromisoformat(text)


def creatinine_stages(values):
    """[(time, value)] -> [(time, stage)]."""
    for at, value in values:
        week = [v for t, v in values if at - 168 * HOUR <= t < at]
        two_days = [v for t, v in values if at - 48 * HOUR <= t < at]
        ratio = value / min(week) if week else Decimal(0)
        rises = bool(two_days) and value - min(two_days) >= Decimal("0.3")
        if ratio >= 3 or (value >= 4 and (rises or ratio >= Decimal("1.5"))):
            yield at, 3
        elif ratio >= 2:
            yield at, 2
        else:
            yield at, int(rises or ratio >= Decimal("1.5"))


def weight_at(weights, at, outtime):
    """Of {time: kg} the one that holds, the first also before its time; none 2 hours after the stay."""
    if at >= max(outtime, *weights) + 2 * HOUR:
        return None
    return weights[max([t for t in weights if t <= at], default=min(weights))]


def urine_stages(volumes, intime, outtime, weights):
    """{time: mL}, {time: kg} -> [(time, stage)]."""
    for at in sorted(volumes):
        if at <= intime + 6 * HOUR or (weight := weight_at(weights, at, outtime)) is None:
            continue
        rate, documented = {}, {}
        for hours in (6, 12, 24):
            inside = [t for t in volumes if at - (hours - 1) * HOUR <= t <= at]
            documented[hours] = (at - min(inside)) / HOUR + 1
            rate[hours] = round(sum(volumes[t] for t in inside) / weight / documented[hours], 4)
        severe = (documented[24] >= 11 and rate[24] < 0.3) or (documented[12] >= 5 and rate[12] == 0)
        moderate = documented[12] >= 5 and rate[12] < 0.5
        yield at, 3 if severe else 2 if moderate else int(documented[6] >= 2 and rate[6] < 0.5)


def outcomes_by_hand(folder, lookback, with_urine):
    """Stay -> (stage, hours to onset) of everybody who stays alive, in hospital and without AKI for 24 hours."""
    values, volumes, weights = defaultdict(set), defaultdict(lambda: defaultdict(float)), defaultdict(dict)
    for row in rows_of(folder, "LABEVENTS"):
        if row["ITEMID"] == "50912" and row["VALUENUM"] and 0 < float(row["VALUENUM"]) <= 150:
            values[row["SUBJECT_ID"]].add((time(row["CHARTTIME"]), Decimal(row["VALUENUM"])))
    for row in rows_of(folder, "OUTPUTEVENTS"):
        wanted = row["ITEMID"] in f"{CAREVUE} {METAVISION}".split()
        if wanted and row["ICUSTAY_ID"] and row["VALUE"] and float(row["VALUE"]) < 5000:
            sign = -1 if row["ITEMID"] == "227488" else 1
            volumes[row["ICUSTAY_ID"]][time(row["CHARTTIME"])] += sign * float(row["VALUE"])
    for row in rows_of(folder, "INPUTEVENTS_MV"):
        if row["ICUSTAY_ID"] and row["PATIENTWEIGHT"] and float(row["PATIENTWEIGHT"]) > 0:
            seen, at = weights[row["ICUSTAY_ID"]], time(row["STARTTIME"])
            seen[at] = max(float(row["PATIENTWEIGHT"]), seen.get(at, 0))
    admissions = {row["HADM_ID"]: row for row in rows_of(folder, "ADMISSIONS")}
    outcomes = {}
    for row in rows_of(folder, "ICUSTAYS"):
        stay, intime, admission = row["ICUSTAY_ID"], time(row["INTIME"]), admissions[row["HADM_ID"]]
        ends = [time(admission[column]) for column in ("DISCHTIME", "DEATHTIME") if admission[column]]
        around = {
            (t, v) for t, v in values[row["SUBJECT_ID"]] if intime - lookback * HOUR <= t < intime + 72 * HOUR
        }
        stages = list(creatinine_stages(around))
        if with_urine and stay in weights:
            stages += urine_stages(volumes[stay], intime, time(row["OUTTIME"]), weights[stay])
        early = any(s for t, s in stages if intime - 6 * HOUR <= t < intime + 24 * HOUR)
        if min(ends) <= intime + 24 * HOUR or early:
            continue
        late = [(t, s) for t, s in stages if intime + 24 * HOUR <= t < intime + 72 * HOUR]
        onsets = [(t - intime) / HOUR for t, s in late if s]
        outcomes[int(stay)] = (max([s for _, s in late], default=0), min(onsets, default=None))
    return outcomes


def check_against_hand(folder, lookback, with_urine):
    options = MimicAkiOptions(
        creatinine_lookback_hours=lookback,
        criterion="creatinine_urine" if with_urine else "creatinine",
        **EVERYBODY,
    )
    found = {s.id: (s.stage, s.onset_hours) for s in cohort(folder, options, Findings())}
    expected = outcomes_by_hand(folder, lookback, with_urine)
    assert found.keys() == expected.keys()
    for stay, (stage, onset) in expected.items():
        assert found[stay] == (stage, pytest.approx(onset))
    return found


@pytest.mark.parametrize("lookback", [6, 168])
@pytest.mark.parametrize("with_urine", [False, True])
def test_the_stages_of_the_demo_are_those_worked_out_in_python(real_data, lookback, with_urine):
    found = check_against_hand(join(real_data("mimic_iii_demo"), "mimic_iii_demo"), lookback, with_urine)
    assert len(found) > 70
    assert {0, 1, 2, 3} >= {stage for stage, _ in found.values()} > {0, 1}


@pytest.mark.parametrize("with_urine", [False, True])
def test_random_courses_are_staged_as_in_python(mimic, with_urine):
    chance = random.Random(7)
    for number in range(300):
        stay, subject = 200000 + number, 9000 + number
        mimic.stay(stay, subject, stays_hours=chance.choice([20, 200]))
        level = chance.choice([0.4, 0.9, 1.1, 2.6, 3.7])
        hours = sorted(chance.sample(range(-20, 90), chance.randint(0, 12)))
        mimic.creatinine(
            {hour: round(level + chance.choice([0, 0, 0.1, 0.3, 0.6, 4]), 1) for hour in hours}, subject
        )
        flow = chance.choice([0, 15, 30, 45, 100])
        moments = [hour + chance.choice([0, 0, 0.25, 0.5]) for hour in range(1, 80) if chance.random() < 0.7]
        mimic.urine({moment: max(0, flow + chance.choice([-15, 0, 0, 60])) for moment in moments}, stay)
        mimic.urine({moment: 20 for moment in moments if chance.random() < 0.1}, stay, item=227488)
        for hour in chance.choice([(), (3,), (3, 30), (20, 45), (3, 3)]):
            weight = chance.randint(50, 99)
            mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=stay, STARTTIME=mimic.time(hour), PATIENTWEIGHT=weight)
    found = check_against_hand(mimic.write(), 6, with_urine)
    assert {stage for stage, _ in found.values()} == {0, 1, 2, 3}


def test_the_demo_needs_notes_of_others(real_data):
    with pytest.raises(DataError, match="no notes, as in the public demo"):
        read_task(load_task("mimic_aki"), real_data("mimic_iii_demo"))


def test_the_task_reads_the_demo_with_generated_notes(real_data, tmp_path):
    folder = join(real_data("mimic_iii_demo"), "mimic_iii_demo")
    notes = tmp_path / "notes.csv.gz"
    with gzip.open(notes, "wt", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        columns = "row_id subject_id hadm_id chartdate charttime storetime category description cgid iserror text"
        rows.writerow(columns.split())
        for number, row in enumerate(rows_of(folder, "ICUSTAYS")):
            for hours in (1, 20, 40):
                at = time(row["INTIME"]) + hours * HOUR
                text = f'Invented "note" of hour {hours},\nstay {row["ICUSTAY_ID"]}.'
                rows.writerow(
                    [number, row["SUBJECT_ID"], "", at.date(), at, "", "Nursing/other", "Report", "", "", text]
                )
    data = read_task(load_task("mimic_aki", [f"options.notes={notes}"]), folder)
    examples = [example for split in data.splits.values() for example in split]
    assert len(examples) == data.findings.found["stays in the cohort"] == 70
    assert data.findings.found["icu stays"] == 136 == 70 + sum(data.findings.rejected.values())
    assert data.findings.found["stays in the cohort with aki"] == 8
    assert all(f"stay {e.id}" in e.text and "hour 20" in e.text and "hour 40" not in e.text for e in examples)
    assert "rows of ICUSTAYS: found 136, MIMIC-III v1.4 has 61,532" in data.findings.remarks
