"""MTSamples: sample reports by medical specialty, one row for each specialty that a report is filed under."""

from collections import defaultdict

from clinscale.config import Config
from clinscale.records import Record, list_files, read_records
from clinscale.tasks.distributions.distribution import Distribution, NoOptions, Splits
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings


def read_mtsamples(data: str, options: Config, findings: Findings) -> Splits:
    """One example per distinct report with all its specialties.

    Finds `rows`, `documents` (distinct reports, the empty one too), and of these those `with several specialties`.
    """
    rows_of: defaultdict[str, list[Record]] = defaultdict(list)
    for file in list_files(data, (".csv",)):
        for row in read_records(file, ["medical_specialty", "transcription"]):
            rows_of[(row.value("transcription") or "").strip()].append(row)
            findings.find("rows")
    findings.find("documents", len(rows_of))
    for row in rows_of.pop("", []):
        findings.reject("no transcription", row.place, "remove the row")
    examples = []
    for text, rows in rows_of.items():
        specialties = tuple(dict.fromkeys((row.value("medical_specialty") or "").strip() for row in rows))
        findings.find("reports with several specialties", len(specialties) > 1)
        examples.append(Example(f"mtsamples:{rows[0].number}", text, labels=specialties))
    return {"all": examples}


MTSAMPLES = Distribution(read_mtsamples, NoOptions)
