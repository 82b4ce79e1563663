"""KDIGO stages over time, by the rules of `MIT-LCP/mimic-code`, mimic-iii/concepts/organfailure/kdigo_*.sql.

Weights are those of durations/weight_durations.sql. They part from mimic-code, which is not of one mind between its
versions, in these things:

- Creatinine is compared in decimals: 1.1 to 1.4 is a rise of 0.3, which floating point takes for less.
- A creatinine of 0 is an error like one above 150; as a baseline it would make any value stage 3.
- 48 hours, 7 days, and the 6, 12 and 24 hours of urine are exact, as in mimic-code for Postgres; its BigQuery
  dialect counts clock hours and calendar days begun, which makes a window up to an hour or a day longer.
- A stay without a charted weight takes those by which its infusions were dosed, where mimic-code takes those of
  echo reports; of two weights from one time on, the higher holds, where mimic-code leaves it to chance.
"""

from clinscale.tasks.distributions.mimic_aki.folder import Folder
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.distributions.mimic_aki.tables import Tables

CREATININE = 50912
"""Serum creatinine in mg/dL, of LABEVENTS."""

MAX_CREATININE = 150
"""Higher values are errors."""

IRRIGANT_IN = 227488
"""Item of the irrigant that flows into the bladder, and so is subtracted from the output."""

URINE = (
    *(40055, 43175, 40069, 40094, 40715, 40473, 40085, 40057, 40056, 40405, 40428, 40086, 40096, 40651),  # CareVue
    *(226559, 226560, 226561, 226584, 226563, 226564, 226565, 226567, 226557, 226558, IRRIGANT_IN, 227489),
)
"""Items of OUTPUTEVENTS that are urine; the second row is MetaVision's."""

MAX_URINE_ML = 5000
"""Volume above which one entry is an error."""

ADMISSION_WEIGHT = (762, 226512)
"""Items of CHARTEVENTS, in kg: CareVue's, MetaVision's."""

DAILY_WEIGHT = (763, 224639)
"""Likewise."""

NEONATE_KG, NEONATE_LB, NEONATE_OZ = 3580, 3581, 3582
"""Items of CHARTEVENTS: the daily weight of a newborn, in kg or in pounds and ounces."""

BIRTH_KG, BIRTH_TEXT = 3723, 4183
"""Items of CHARTEVENTS: the weight at birth, an admission weight; the second is free text, in grams or kg."""


def load_creatinine(tables: Tables, options: MimicAkiOptions) -> None:
    """Make the tables `creatinine`, the values around each stay, and `stages`, what they mean.

    Values belong to a stay by patient and time: those taken before admission carry no HADM_ID.
    """
    tables.load("LABEVENTS", f"itemid = {CREATININE} AND valuenum IS NOT NULL")
    [(found, errors)] = tables.query(
        f"SELECT count(*), count(*) FILTER (NOT (valuenum > 0 AND valuenum <= {MAX_CREATININE})) FROM labevents"
    )
    tables.findings.find("creatinine values", found)
    tables.findings.find(f"creatinine values of 0 or above {MAX_CREATININE} mg/dL, ignored", errors)
    until = max(options.horizon_end_hours, 24 * options.require_creatinine_days)
    tables.query(
        f"""
        CREATE TABLE creatinine AS
        SELECT icustay_id, charttime, valuenum::DECIMAL(9, 4) AS creatinine
        FROM icustays JOIN labevents USING (subject_id)
        WHERE valuenum > 0 AND valuenum <= {MAX_CREATININE}
          AND charttime >= intime - INTERVAL {options.creatinine_lookback_hours} HOURS
          AND charttime < intime + INTERVAL {until} HOURS;

        CREATE TABLE stages AS
        SELECT icustay_id, charttime, CASE
            WHEN creatinine >= 3 * low_7d THEN 3
            WHEN creatinine >= 4 AND (creatinine >= low_48h + 0.3 OR creatinine >= 1.5 * low_7d) THEN 3
            WHEN creatinine >= 2 * low_7d THEN 2
            WHEN creatinine >= low_48h + 0.3 OR creatinine >= 1.5 * low_7d THEN 1
            ELSE 0 END AS stage
        FROM (
            SELECT *, min(creatinine) OVER past_48h AS low_48h, min(creatinine) OVER past_7d AS low_7d
            FROM creatinine
            WINDOW
                past_48h AS (PARTITION BY icustay_id ORDER BY charttime
                    RANGE BETWEEN INTERVAL 48 HOURS PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING),
                past_7d AS (PARTITION BY icustay_id ORDER BY charttime
                    RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING)
        )
        """
    )


def add_urine(tables: Tables) -> None:
    """Add the stages by urine output in mL/kg/h to `stages`.

    An entry is the output of the hour before it. So the last 6 hours are the entries of the last 5 and the
    hours documented are one more than those between the first and the last of them.
    """
    tables.load("OUTPUTEVENTS", f"itemid IN {URINE} AND value < {MAX_URINE_ML} AND icustay_id IS NOT NULL")
    _load_weights(tables)
    hours = (6, 12, 24)
    sums = ", ".join(
        f"sum(ml) OVER past_{h}h AS ml_{h}h, epoch(charttime - min(charttime) OVER past_{h}h) / 3600 + 1 AS hours_{h}h"
        for h in hours
    )
    windows = ", ".join(
        f"past_{h}h AS (PARTITION BY icustay_id ORDER BY charttime RANGE BETWEEN INTERVAL {h - 1} HOURS PRECEDING "
        "AND CURRENT ROW)"
        for h in hours
    )
    rates = ", ".join(f"round(ml_{h}h / weight / hours_{h}h, 4) AS rate_{h}h" for h in hours)
    tables.query(
        f"""
        CREATE TABLE urine AS
        SELECT icustay_id, charttime, sum(CASE itemid WHEN {IRRIGANT_IN} THEN -value ELSE value END) AS ml
        FROM outputevents GROUP BY ALL;

        INSERT INTO stages
        SELECT icustay_id, charttime, CASE
            WHEN charttime <= intime + INTERVAL 6 HOURS THEN 0
            WHEN hours_24h >= 11 AND rate_24h < 0.3 THEN 3
            WHEN hours_12h >= 5 AND rate_12h = 0 THEN 3
            WHEN hours_12h >= 5 AND rate_12h < 0.5 THEN 2
            WHEN hours_6h >= 2 AND rate_6h < 0.5 THEN 1
            ELSE 0 END
        FROM (SELECT *, {rates} FROM (SELECT *, {sums} FROM urine WINDOW {windows}) JOIN weights
            USING (icustay_id) WHERE charttime >= starttime AND charttime < endtime) JOIN icustays USING (icustay_id)
        """
    )
    [(number,)] = tables.query(
        "SELECT count(*) FROM urine SEMI JOIN weights USING (icustay_id) WHERE NOT EXISTS (FROM weights WHERE "
        "weights.icustay_id = urine.icustay_id AND charttime >= starttime AND charttime < endtime)"
    )
    tables.findings.find(
        "urine outputs at a time at which no weight of the stay holds, hence without a stage", number
    )


def weight_tables(folder: Folder) -> list[str]:
    """The tables that weights are taken from: CHARTEVENTS where it is there, INPUTEVENTS_MV where it is or must be."""
    charted = ["CHARTEVENTS"] if folder.has("CHARTEVENTS") else []
    return [*charted, "INPUTEVENTS_MV"] if folder.has("INPUTEVENTS_MV") or not charted else charted


def _load_weights(tables: Tables) -> None:
    """Make `weights`: from when until when which weight holds, charted ones or else those infusions were dosed by.

    The first admission weight holds from 2 hours before INTIME, any other from when it was charted; each until the
    next, the last until 2 hours after OUTTIME or its own start. What is first after INTIME holds from 2 hours before.
    """
    seen = []
    for name in weight_tables(tables.folder):
        where, select = _WEIGHTS[name]
        tables.load(name, where, count=name != "CHARTEVENTS")  # a second scan of its 33 GB only to count
        seen.append(select)
    tables.query(
        f"""
        CREATE TABLE weights AS
        WITH seen(icustay_id, time, kind, kg) AS ({" UNION ALL ".join(seen)}), chosen AS (
            SELECT *, row_number() OVER (PARTITION BY icustay_id, kind ORDER BY time, kg) AS number
            FROM seen WHERE kg > 0
            QUALIFY kind != 'infusion' OR bool_and(kind = 'infusion') OVER (PARTITION BY icustay_id)
        ), starts AS (
            SELECT icustay_id, intime, outtime, max(kg) AS weight,
                CASE WHEN kind = 'admission' AND number = 1 THEN intime - INTERVAL 2 HOURS ELSE time END AS start
            FROM chosen JOIN icustays USING (icustay_id) GROUP BY ALL
        )
        SELECT icustay_id, weight,
            CASE WHEN start > intime AND lag(start) OVER in_turn IS NULL THEN intime - INTERVAL 2 HOURS ELSE start END
                AS starttime,
            coalesce(lead(start) OVER in_turn, greatest(outtime, start) + INTERVAL 2 HOURS) AS endtime
        FROM starts WINDOW in_turn AS (PARTITION BY icustay_id ORDER BY start)
        """
    )
    [(number,)] = tables.query("SELECT count(*) FROM icustays ANTI JOIN weights USING (icustay_id)")
    tables.findings.find("icu stays without a weight, hence without stages by urine", number)


_CHARTED = f"""
SELECT icustay_id, charttime, CASE WHEN itemid IN {ADMISSION_WEIGHT} THEN 'admission' ELSE 'daily' END, valuenum
FROM chartevents WHERE itemid IN {ADMISSION_WEIGHT + DAILY_WEIGHT}
UNION ALL
SELECT icustay_id, charttime, 'daily', coalesce(
    max(valuenum) FILTER (itemid = {NEONATE_KG}),
    max(valuenum) FILTER (itemid = {NEONATE_LB}) * 0.45359237
        + max(valuenum) FILTER (itemid = {NEONATE_OZ}) * 0.0283495231)
FROM chartevents WHERE itemid IN {(NEONATE_KG, NEONATE_LB, NEONATE_OZ)} AND valuenum > 0 GROUP BY ALL
UNION ALL
SELECT icustay_id, charttime, 'admission', max(CASE
    WHEN itemid = {BIRTH_KG} AND valuenum < 10 THEN valuenum
    WHEN itemid = {BIRTH_TEXT} AND written > 100 THEN written / 1000
    WHEN itemid = {BIRTH_TEXT} AND written < 10 THEN written END)
FROM (SELECT *, CASE WHEN regexp_full_match(value, '[0-9.]+') THEN try_cast(value AS DOUBLE) END AS written
    FROM chartevents WHERE itemid IN {(BIRTH_KG, BIRTH_TEXT)})
GROUP BY icustay_id, charttime
"""

_WEIGHTS = {
    "CHARTEVENTS": (
        f"itemid IN {(*ADMISSION_WEIGHT, *DAILY_WEIGHT, NEONATE_KG, NEONATE_LB, NEONATE_OZ, BIRTH_KG, BIRTH_TEXT)} "
        "AND icustay_id IS NOT NULL AND coalesce(error, 0) = 0",
        _CHARTED,
    ),
    "INPUTEVENTS_MV": (
        "patientweight > 0",
        "SELECT icustay_id, starttime, 'infusion', patientweight FROM inputevents_mv",
    ),
}
"""Table -> which of its rows are weights, and (stay, time, kind, kg) of each."""
