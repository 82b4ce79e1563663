"""Open-i, the chest X-ray reports of Indiana University: as XML or CSV; alone, or as the test set of MIMIC-CXR."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from clinscale.errors import DataError
from clinscale.records import list_files, read_records, read_text
from clinscale.storage import exists, join
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.mimic_cxr import MimicCxrOptions, read_mimic_cxr
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings

_LABELS = {
    "cardiomegaly": "Cardiomegaly",
    "pulmonary edema": "Edema",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "pulmonary atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "pleural effusion": "Pleural Effusion",
}
"""MeSH head term -> MIMIC-CXR's name of the finding, in the paper's order. These terms and no relatives: a
hydropneumothorax (4 reports) counts as neither of its parts."""

_UNCODED = frozenset({"no indexing"})

_XML, _CSV = "ecgen-radiology", "indiana_reports.csv"
_NUM_REPORTS = {_XML: 3_955, _CSV: 3_851}
"""The CSV that goes round lacks the reports without an image."""


class OpeniOptions(MimicCxrOptions):
    """Choices that Open-i and MIMIC-CXR leave open and the paper's sources do not state."""

    openi: str = "openi"
    """Folder below the data folder, or the data folder itself, with Open-i: `ecgen-radiology/N.xml` as published, else
    `indiana_reports.csv`."""

    train_on: Literal["mimic_cxr", "openi"] = "mimic_cxr"
    """MIMIC-CXR as in the paper, Open-i being the test set; or Open-i alone, which the task then splits."""

    uncoded: Literal["drop", "negative"] = "drop"
    """Treatment of reports that say `No Indexing` in place of terms. They are dropped, because nobody has judged
    them; `negative` counts them as free of all findings, as most of their texts are."""


@dataclass(frozen=True)
class _Report:
    id: str
    heads: frozenset[str]
    """Terms that people coded: MeSH head terms in lower case."""
    sections: dict[str, str]


def read_openi(data: str, options: OpeniOptions, findings: Findings) -> Splits:
    """Finds `documents`, `Open-i reports`, and of these all `with` each finding, before any is left out."""
    openi = _examples(data, options, findings)
    if options.train_on == "openi":
        return {"all": openi}
    return {**read_mimic_cxr(data, options, tuple(_LABELS.values()), findings), "test": openi}


def _examples(data: str, options: OpeniOptions, findings: Findings) -> list[Example]:
    examples = []
    form, reports = _reports(data, options, findings)
    for report in reports:
        labels = tuple(label for head, label in _LABELS.items() if head in report.heads)
        for label in labels:
            findings.find(f"Open-i reports with {label}")
        text = " ".join(" ".join(report.sections.get(name, "") for name in options.sections).split())
        if not text:
            findings.leave_out("Open-i: none of the wanted sections")
        elif options.uncoded == "drop" and report.heads <= _UNCODED:
            findings.leave_out("Open-i: no human terms")
        else:
            examples.append(Example(report.id, text, labels=labels))
    findings.find("documents", len(reports))
    findings.find("Open-i reports", len(reports))
    findings.expect("Open-i reports", len(reports), _NUM_REPORTS[form], f"Open-i as {form}")
    return examples


def _reports(data: str, options: OpeniOptions, findings: Findings) -> tuple[str, list[_Report]]:
    """The form in which Open-i is there, and what is in it."""
    for folder in (join(data, options.openi), data):
        if exists(join(folder, _XML)):
            return _XML, list(_read_xml(join(folder, _XML), findings))
        if exists(join(folder, _CSV)):
            return _CSV, list(_read_csv(join(folder, _CSV)))
    raise DataError(
        f"{join(data, options.openi)} has neither folder {_XML} nor {_CSV}; unpack NLMCXR_reports.tgz there, or "
        "name its folder below the data folder by options.openi"
    )


def _read_xml(folder: str, findings: Findings) -> Iterator[_Report]:
    for file in list_files(folder, (".xml",)):
        try:
            root = ElementTree.fromstring(read_text(file))
        except ElementTree.ParseError as error:
            findings.reject("Open-i: malformed XML", f"{file} line {error.position[0]}", "take the published file")
            continue
        number = file.rsplit("/", 1)[-1].removesuffix(".xml")
        terms = [element.text or "" for element in root.iterfind("MeSH/major")]
        sections = {part.get("Label", "").lower(): part.text or "" for part in root.iter("AbstractText")}
        yield _Report(f"CXR{number}", _heads(terms), sections)


def _read_csv(file: str) -> Iterator[_Report]:
    for row in read_records(file, ["uid", "MeSH", "findings", "impression"]):
        sections = {name: row.value(name) or "" for name in ("findings", "impression")}
        yield _Report(f"CXR{row.value('uid')}", _heads((row.value("MeSH") or "").split(";")), sections)


def _heads(terms: Iterable[str]) -> frozenset[str]:
    """The part before the first slash of each term; some end in blanks, some differ in case."""
    heads = (" ".join(term.partition("/")[0].lower().split()) for term in terms)
    return frozenset(head for head in heads if head)


OPENI = Distribution(read_openi, OpeniOptions)
