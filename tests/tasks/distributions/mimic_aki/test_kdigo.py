"""KDIGO stages against values worked out by hand."""

import pytest

from clinscale.tasks.distributions.mimic_aki import MimicAkiOptions, cohort
from clinscale.tasks.findings import Findings


def stay_of(mimic, **options):
    """The only stay, with nothing asked of the days on which creatinine is measured."""
    findings = Findings()
    [stay] = cohort(mimic.write(), MimicAkiOptions(require_creatinine_days=0, **options), findings)
    return stay, findings


@pytest.mark.parametrize(
    ("values", "stage"),
    [
        pytest.param({30: 9.0}, 0, id="a first value has nothing to rise from"),
        pytest.param({10: 1.0, 30: 1.2}, 0, id="0.2 more is nothing"),
        pytest.param({10: 1.0, 30: 1.3}, 1, id="0.3 more within 48 hours"),
        pytest.param({10: 1.1, 30: 1.4}, 1, id="0.3 more where floating point finds less"),
        pytest.param({12: 1.0, 60: 1.3}, 1, id="0.3 more after exactly 48 hours"),
        pytest.param({11.99: 1.0, 60: 1.3}, 0, id="0.3 more after more than 48 hours"),
        pytest.param({-5: 0.4, 60: 0.6}, 1, id="1.5 times the lowest of 7 days"),
        pytest.param({10: 0.5, 30: 0.9}, 1, id="below 2 times"),
        pytest.param({10: 0.5, 30: 1.0}, 2, id="2 times"),
        pytest.param({10: 0.5, 30: 1.4}, 2, id="below 3 times"),
        pytest.param({10: 0.5, 30: 1.5}, 3, id="3 times"),
        pytest.param({10: 3.8, 30: 4.1}, 3, id="4.0 after a rise of 0.3"),
        pytest.param({10: 4.0, 30: 4.2, 50: 4.2}, 0, id="4.0 without a rise"),
        pytest.param({10: 1.0, 20: 0.5, 30: 1.0}, 2, id="the lowest value is the baseline, not the first"),
        pytest.param({-5: 1.0, 30: 2.0}, 2, id="a value before INTIME"),
        pytest.param({-6.1: 1.0, 30: 2.0}, 0, id="a value from before the look-back"),
        pytest.param({10: 1.0, 30: 151}, 0, id="above 150 is an error"),
        pytest.param({10: 0, 30: 1.0}, 0, id="0 is an error and no baseline"),
        pytest.param({10: 1.0, 30: "LESS THAN 0.4"}, 0, id="a value in words"),
        pytest.param({10: 1.0, 72: 2.0}, 0, id="after the horizon"),
        pytest.param({10: 1.0, 71.9: 2.0}, 2, id="at the end of the horizon"),
        pytest.param({10: 1.0, 24: 2.0}, 2, id="at the start of the horizon"),
    ],
)
def test_creatinine_is_staged_by_its_rise(mimic, values, stage):
    mimic.stay()
    mimic.creatinine(values)
    stay, _ = stay_of(mimic)
    assert stay.stage == stage
    assert stay.label == ("aki" if stage else "no_aki")


def test_values_taken_outside_of_the_hospital_and_of_other_patients(mimic):
    mimic.stay()
    mimic.creatinine({-3: 1.0}, hadm="")
    mimic.creatinine({30: 1.5}, hadm=700001)
    mimic.creatinine({-3: 0.2, 40: 9.0}, subject=9002)
    assert stay_of(mimic)[0].stage == 1


def test_onset_is_the_first_time_at_which_the_wanted_stage_is_reached(mimic):
    mimic.stay()
    mimic.creatinine({10: 1.0, 30: 1.5, 40.5: 2.0, 50: 3.0, 60: 1.0})
    stay, _ = stay_of(mimic)
    assert (stay.label, stay.stage, stay.onset_hours) == ("aki", 3, 30.0)
    assert stay_of(mimic, min_stage=2)[0].onset_hours == 40.5


def test_a_stage_below_the_wanted_one_is_no_aki(mimic):
    mimic.stay()
    mimic.creatinine({10: 1.0, 30: 1.5})
    stay, _ = stay_of(mimic, min_stage=2)
    assert (stay.label, stay.stage, stay.onset_hours) == ("no_aki", 1, None)


def test_a_longer_look_back_knows_the_creatinine_from_before_the_icu(mimic):
    mimic.stay()
    mimic.creatinine({-130: 1.0, 30: 2.0})
    assert stay_of(mimic)[0].stage == 0
    assert stay_of(mimic, creatinine_lookback_hours=168)[0].stage == 2


def test_the_baseline_is_of_the_last_7_days_only(mimic):
    mimic.stay()
    mimic.creatinine({-150: 1.0, 18: 1.9, 30: 2.0})  # at 18 h 168 hours later, at 30 h 180
    findings = Findings()
    options = MimicAkiOptions(require_creatinine_days=0, creatinine_lookback_hours=168)
    assert cohort(mimic.write(), options, findings) == []
    assert findings.rejected["AKI on admission or in the note window"] == 1
    mimic.rows["LABEVENTS"][-2]["VALUENUM"] = ""  # without the value at 18 h nothing links 30 h to -150 h
    assert stay_of(mimic, creatinine_lookback_hours=168)[0].stage == 0


HOURLY = dict.fromkeys(range(1, 31), 100)
"""100 mL in each hour until the 30th: 1.25 mL/kg/h at 80 kg."""


@pytest.mark.parametrize(
    ("later", "stage"),
    [
        pytest.param(dict.fromkeys(range(31, 37), 100), 0, id="enough"),
        pytest.param(dict.fromkeys(range(31, 37), 30), 1, id="6 hours below 0.5"),
        pytest.param(dict.fromkeys(range(31, 43), 30), 2, id="12 hours below 0.5"),
        pytest.param(dict.fromkeys(range(31, 55), 20), 3, id="24 hours below 0.3"),
        pytest.param(dict.fromkeys(range(31, 43), 0), 3, id="12 hours without any"),
        pytest.param({31: 5000, **dict.fromkeys(range(32, 37), 0)}, 1, id="5000 mL in one entry is an error"),
        pytest.param({60: 0}, 0, id="a single entry documents one hour, too few"),
        pytest.param({60: 0, 61: 0}, 1, id="two entries are 2 hours documented"),
        pytest.param({60: 0, 64: 0}, 3, id="entries 4 hours apart are 5 hours documented"),
    ],
)
def test_urine_output_is_staged_by_weight_and_hours_documented(mimic, later, stage):
    mimic.stay()
    mimic.urine({**HOURLY, **later})
    mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=200001, STARTTIME=mimic.time(5), PATIENTWEIGHT=80)
    stay, _ = stay_of(mimic, criterion="creatinine_urine")
    assert stay.stage == stage
    assert stay_of(mimic)[0].stage == 0, "by creatinine alone urine does not count"


def test_irrigant_counts_against_the_output(mimic):
    mimic.stay()
    mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=200001, STARTTIME=mimic.time(5), PATIENTWEIGHT=80)
    mimic.urine(HOURLY)
    mimic.urine(dict.fromkeys(range(31, 37), 500), item=227489)
    assert stay_of(mimic, criterion="creatinine_urine")[0].stage == 0
    mimic.urine(dict.fromkeys(range(31, 37), 480), item=227488)  # 20 mL are left in each hour
    assert stay_of(mimic, criterion="creatinine_urine")[0].stage == 1


def test_the_first_6_hours_in_the_icu_are_not_staged_by_urine(mimic):
    mimic.stay()
    mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=200001, STARTTIME=mimic.time(5), PATIENTWEIGHT=80)
    mimic.urine({**dict.fromkeys(range(1, 7), 0), 7: 2400, **dict.fromkeys(range(8, 31), 100)})
    assert stay_of(mimic, criterion="creatinine_urine")[0].label == "no_aki"


def test_a_stay_without_weight_has_no_stage_by_urine_and_is_counted(mimic):
    mimic.stay()
    mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=200002, STARTTIME=mimic.time(5), PATIENTWEIGHT=80)
    mimic.urine(dict.fromkeys(range(1, 60), 0))
    mimic.creatinine({10: 1.0, 30: 2.0})
    stay, findings = stay_of(mimic, criterion="creatinine_urine")
    assert stay.stage == 2
    assert findings.found["icu stays without a weight, hence without stages by urine"] == 1


@pytest.mark.parametrize(
    ("weights", "stage"),
    [
        pytest.param([(762, 2, 50, 0)], 0, id="CareVue's admission weight"),
        pytest.param([(226512, 40, 50, 0)], 0, id="an admission weight charted late holds from INTIME"),
        pytest.param(
            [(226512, 2, 50, 0), (226512, 9, 100, 0)], 1, id="a second admission weight from its time on"
        ),
        pytest.param([(226512, 2, 100, 0), (226512, 40, 50, 0)], 1, id="a second admission weight not before"),
        pytest.param([(226512, 2, 100, 0), (763, 35, 50, 0)], 0, id="a daily weight holds at its very time"),
        pytest.param([(226512, 2, 100, 0), (224639, 35.1, 50, 0)], 1, id="a daily weight does not hold before"),
        pytest.param([(763, 2, 50, 0)], 0, id="a daily weight alone comes before those of infusions"),
        pytest.param([(763, 40, 50, 0), (763, 50, 100, 0)], 0, id="the first daily weight holds before its time"),
        pytest.param([(763, 36, 100, 0), (763, 36, 50, 0)], 1, id="of two at one time the higher"),
        pytest.param([(763, -20, 50, 0)], 0, id="a daily weight from before INTIME"),
        pytest.param([(226512, 2, 50, 1)], 1, id="an error, so the infusions' 100 kg"),
        pytest.param([(226512, 2, 0, 0)], 1, id="no weight, so the infusions' 100 kg"),
        pytest.param([(3581, 2, 110, 0), (3582, 2, 4, 0)], 0, id="a newborn's in pounds and ounces, 50 kg"),
        pytest.param([(3581, 2, 110, 0)], 1, id="pounds without ounces are no weight"),
        pytest.param([(3580, 2, 50, 0), (3581, 2, 220, 0), (3582, 2, 4, 0)], 0, id="kg before pounds"),
        pytest.param([(3723, 40, 4, 0)], 0, id="a weight at birth in kg"),
        pytest.param([(4183, 40, "50000", 0)], 0, id="a weight at birth in grams"),
        pytest.param([(4183, 40, "50", 0)], 1, id="a weight at birth in neither"),
        pytest.param([(4183, 40, "50000 g", 0)], 1, id="a weight at birth with words"),
    ],
)
def test_the_weight_that_holds_is_the_charted_one_or_else_that_of_infusions(mimic, weights, stage):
    mimic.stay()
    mimic.add("INPUTEVENTS_MV", ICUSTAY_ID=200001, STARTTIME=mimic.time(1), PATIENTWEIGHT=100)
    chart(mimic, weights)
    mimic.urine({**HOURLY, **dict.fromkeys(range(31, 37), 30)})  # 0.6 mL/kg/h at 50 kg, 0.3 at 100 kg
    assert stay_of(mimic, criterion="creatinine_urine")[0].stage == stage


@pytest.mark.parametrize(
    ("leaves", "charted", "stage", "unweighed"),
    [
        pytest.param(34.5, 2, 1, 0, id="2 hours after OUTTIME are not over"),
        pytest.param(34, 2, 0, 1, id="2 hours after OUTTIME are over"),
        pytest.param(30, 34.5, 1, 0, id="a weight charted after OUTTIME holds for 2 hours"),
        pytest.param("", 2, 0, 36 - 3, id="without OUTTIME the last weight holds for 2 hours"),
    ],
)
def test_the_last_weight_ends_with_the_stay(mimic, leaves, charted, stage, unweighed):
    mimic.stay()
    mimic.rows["ICUSTAYS"][-1]["OUTTIME"] = str(mimic.time(leaves)) if leaves else ""
    chart(mimic, [(763, charted, 100, 0)])
    mimic.urine({**HOURLY, **dict.fromkeys(range(31, 36), 90), 36: 0})
    mimic.rows["OUTPUTEVENTS"][-1]["VALUE"] = "-300"  # at 36 h alone 150 mL in 6 hours are too few
    stay, findings = stay_of(mimic, criterion="creatinine_urine")
    assert stay.stage == stage
    reason = "urine outputs at a time at which no weight of the stay holds, hence without a stage"
    assert findings.found[reason] == unweighed


def chart(mimic, weights):
    """(item, hour, kg or what is written, error) into CHARTEVENTS."""
    for item, hour, weight, error in weights:
        number = "" if isinstance(weight, str) else weight
        values = {"CHARTTIME": mimic.time(hour), "VALUE": weight, "VALUENUM": number, "ERROR": error}
        mimic.add("CHARTEVENTS", ICUSTAY_ID=200001, ITEMID=item, **values)
