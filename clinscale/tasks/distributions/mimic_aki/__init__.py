"""MIMIC-AKI: acute kidney injury on days 2 and 3 in the ICU, predicted from the notes of day 1.

    ICUSTAYS ──exclusions──▶ cohort ──KDIGO by LABEVENTS (OUTPUTEVENTS)──▶ aki, no_aki
                                └──────────NOTEEVENTS of the first day──▶ text

The cohort and the notes of the paper are not public; every choice is one of `MimicAkiOptions`. The tables are
streamed, so that the whole of MIMIC-III fits a laptop.
"""

from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.mimic_aki.cohort import Stay, cohort
from clinscale.tasks.distributions.mimic_aki.folder import Folder
from clinscale.tasks.distributions.mimic_aki.notes import locate_notes, read_texts
from clinscale.tasks.distributions.mimic_aki.options import MimicAkiOptions
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings, NoExamplesError

__all__ = ["MIMIC_AKI", "MimicAkiOptions", "Stay", "cohort", "read"]


def read(data: str, options: MimicAkiOptions, findings: Findings) -> Splits:
    """One example per stay of the cohort that has notes, in one source that the task splits by patient."""
    notes = locate_notes(Folder(data), options)
    stays = cohort(data, options, findings)
    findings.find("stays in the cohort", len(stays))
    findings.find("stays in the cohort with aki", sum(stay.label == "aki" for stay in stays))
    texts = read_texts(notes, stays, options, findings)
    findings.leave_out("no note in the note window", len(stays) - len(texts))
    examples = [
        Example(str(stay.id), texts[stay.id], labels=(stay.label,), group=str(stay.subject))
        for stay in stays
        if stay.id in texts
    ]
    if not examples:
        why = ", ".join(f"{reason}: {number:,}" for reason, number in findings.rejected.items())
        raise NoExamplesError(f"{data}: no ICU stay is left in the cohort ({why}); give more of the tables")
    return {"all": examples}


MIMIC_AKI = Distribution(read, MimicAkiOptions)
