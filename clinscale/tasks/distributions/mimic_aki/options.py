"""Every choice that the MIMIC-AKI task makes; the paper's own cohort definition is not public."""

import re
from typing import Literal

from pydantic import Field

from clinscale.config import Config, nearest
from clinscale.errors import ConfigError

TIMED_CATEGORIES = (
    "Nursing/other",
    "Radiology",
    "Nursing",
    "Physician",
    "Respiratory",
    "Nutrition",
    "General",
    "Rehab Services",
    "Social Work",
    "Case Management",
    "Pharmacy",
    "Consult",
)
"""The categories of NOTEEVENTS whose notes carry a time, without the blanks that end some of them."""

DATED_CATEGORIES = ("Discharge summary", "ECG", "Echo")
"""The categories whose notes carry a date only, so that it is unknown whether they fall into the note window."""

STAGED_HOURS = 168
"""KDIGO is staged in the first seven days of a stay."""


class MimicAkiOptions(Config):
    """Cohort, target and text of MIMIC-AKI."""

    unit: Literal["stay", "patient"] = "stay"
    """One example per ICU stay, as the notes of a stay belong together and the split keeps patients whole anyway;
    or per `patient`: the first stay only."""

    note_window_hours: int = Field(default=24, ge=1)
    """The text is what was charted in these first hours after INTIME: 24, as in the first author's BIBM 2018 paper."""

    horizon_hours: int = Field(default=48, ge=1)
    """The target is AKI within these hours after the note window: 48 makes days 2 and 3, as in ICIBM 2018."""

    criterion: Literal["creatinine", "creatinine_urine"] = "creatinine"
    """Criterion of AKI: `creatinine` alone, which everybody in the cohort has on every day.

    `creatinine_urine` adds urine output by the weight that holds at the time, as charted in CHARTEVENTS and held by
    mimic-code's weight_durations. A stay without any takes those of INPUTEVENTS_MV, not of echo reports as in
    mimic-code; stays before 2008 have a weight in CHARTEVENTS (33 GB) only.
    """

    min_stage: int = Field(default=1, ge=1, le=3)
    """Lowest KDIGO stage that is the label aki: 1, any AKI. Whatever it is, stage 1 before the horizon excludes."""

    creatinine_lookback_hours: int = Field(default=6, ge=0, le=STAGED_HOURS)
    """Creatinine counts, also as baseline, from these hours before INTIME: 6, as in mimic-code for MIMIC-III; 168, as
    in mimic-code for MIMIC-IV, also finds AKI on admission by its rise over values from before the ICU."""

    min_age: int = Field(default=18, ge=0)
    """Years at INTIME: 18, since KDIGO is coded here for adults, and thousands of stays are those of newborns. Masked
    ages, above 89, come out as about 300 years, which is old enough."""

    ckd_codes: tuple[str, ...] = ("585", "403", "404", "V45.1", "V56")
    """ICD-9 codes, with all below them, of chronic kidney disease, which excludes when coded in the admission of the
    stay or an earlier one. 585 is the disease; until October 2005 its form with hypertension was 403 or 404 alone;
    V45.1 and V56 are chronic dialysis. None: nobody is excluded, and DIAGNOSES_ICD is not needed."""

    require_creatinine_days: int = Field(default=3, ge=0, le=STAGED_HOURS // 24)
    """Creatinine must be measured on each of the first so many days (24 hours each) after INTIME: 3, as in ICIBM
    2018, so that `no_aki` was seen and not just assumed. 0: it need not be measured."""

    notes: str | None = None
    """Another file with the columns of NOTEEVENTS, below the data folder or absolute; for the public demo, which
    has no notes. Default: the NOTEEVENTS of the folder."""

    note_categories: tuple[str, ...] = TIMED_CATEGORIES
    """Notes of these categories, in any case: all twelve that carry a time. Discharge summaries, ECG and echo carry
    only a date and cannot be placed in the window; discharge summaries also state the outcome."""

    note_headers: bool = True
    """Put category and hours since INTIME on a line above each note, since order and author mean something."""

    strip_placeholders: bool = False
    """Remove `[** ... **]`; kept by default, as in the notes that the models are pretrained on."""

    memory_limit: str = Field(default="4GB", pattern=r"^[0-9]+(\.[0-9]+)? ?[KMG]i?B$")
    """Memory that DuckDB may use: 4GB is enough for all of MIMIC-III; what is more goes to a private temporary
    folder (below TMPDIR), which is removed afterwards."""

    threads: int = Field(default=2, ge=1)
    """Threads of DuckDB: 2, since CSV with quoted line breaks is read safely by one thread only and the rest is
    quick."""

    def check(self) -> None:
        """Refuse windows beyond the staged week, categories without a time, and what is no ICD-9 code."""
        if self.note_window_hours + self.horizon_hours > STAGED_HOURS:
            raise ConfigError(
                f"note_window_hours + horizon_hours must be at most {STAGED_HOURS}, got {self.note_window_hours} + "
                f"{self.horizon_hours}; lower one"
            )
        timed, dated = _folded(TIMED_CATEGORIES), _folded(DATED_CATEGORIES)
        for category in self.note_categories:
            if category.casefold() in dated:
                raise ConfigError(
                    f"note_categories: {category} has a date and no time, so it has no place in a window; leave it out"
                )
            if category.casefold() not in timed:
                raise ConfigError(
                    f"note_categories: {category!r} is no category of NOTEEVENTS; {nearest(category, TIMED_CATEGORIES)}"
                )
        for code in self.ckd_codes:
            if not re.fullmatch(r"[EV]?[0-9]+(\.[0-9]*)?", code):
                raise ConfigError(f"ckd_codes: {code!r} is no ICD-9 code such as 585 or V45.1; correct it")

    @property
    def horizon_end_hours(self) -> int:
        """Hours from INTIME to the end of the horizon."""
        return self.note_window_hours + self.horizon_hours


def _folded(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)
