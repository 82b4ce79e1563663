"""MIMIC-CXR: one report file per study, findings that a labeler read out of the reports, an official split."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from clinscale.config import Config
from clinscale.errors import ConfigError, DataError
from clinscale.records import Record, list_files, read_records, read_text
from clinscale.storage import exists, join
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings

Section = Literal["findings", "impression"]

_RELEASE = "MIMIC-CXR 2.0.0"
_NUM_REPORTS, _NUM_LABELLED = 227_835, 227_827
_SPLITS = {"train": "train", "validate": "dev"}

_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_MISSPELT = {
    "impression": "impresson imprression imoression impressoin imprssion impresion imperssion mpression impession",
    "findings": "finding findins findindgs findgings findngs findnings finidngs",
}
_VIEW = re.compile(
    "chest|portable|ribs|bone window|frontal and|pa and lat|ap and lateral|lateral and (pa|ap)|"
    "(one|frontal|lateral|pa|ap) view|two views|frontal (semi-)?upright"
)
"""Words of a heading that names the image taken; the findings are under it."""


class MimicCxrOptions(Config):
    """Choices that MIMIC-CXR leaves open and the paper's sources do not state."""

    mimic_cxr: str = "mimic-cxr"
    """Folder below the data folder with the reports, unpacked: `files/pXX/pXXXXXXXX/sXXXXXXXX.txt`."""

    mimic_cxr_jpg: str = "mimic-cxr-jpg"
    """Folder of the label and split files, where they are not in the reports' folder: PhysioNet publishes them
    with the images."""

    labeler: Literal["chexpert", "negbio"] = "chexpert"
    """The program whose labels are learned. MIMIC-CXR-JPG ships both; CheXpert's are the ones that most later work
    trains on."""

    uncertain: Literal["positive", "negative", "drop"] = "positive"
    """Meaning of the label -1; `drop` leaves out each report that has one. Positive, because the one training row that
    the authors show hedges on an edema and has the label 1.0: too little to prove it, but all there is."""

    sections: tuple[Section, ...] = ("findings", "impression")
    """Sections that are read of a report of either collection, in this order; the paper reads both."""

    def check(self) -> None:
        """Refuse to read nothing."""
        if not self.sections:
            raise ConfigError("options.sections must name a section, got none; name findings, impression or both")


def read_mimic_cxr(
    data: str, options: MimicCxrOptions, labels: Sequence[str], findings: Findings
) -> dict[str, list[Example]]:
    """Train and dev (the official validate) of MIMIC-CXR, grouped by patient; its test split is left out.

    Finds `documents`, `MIMIC-CXR reports`, `MIMIC-CXR labelled studies`.

    Raises:
        DataError: reports, labels or split are not there.
    """
    split_of = {row.value("study_id"): row.value("split") for row in _rows(data, options, "split", ["split"])}
    reports = _reports(join(data, options.mimic_cxr))
    splits: dict[str, list[Example]] = {split: [] for split in _SPLITS.values()}
    num_labelled = 0
    for row in _rows(data, options, options.labeler, labels):
        num_labelled += 1
        study = row.value("study_id")
        official = split_of.get(study)
        if official not in _SPLITS:
            findings.leave_out("MIMIC-CXR: of the test split" if official else "MIMIC-CXR: of no split")
        elif study not in reports:
            findings.reject("MIMIC-CXR: no report", row.place, "unpack all reports")
        elif (positive := _positive(row, options, labels, findings)) is not None:
            text = report_text(read_text(reports[study]), options.sections)
            if text:
                example = Example(f"s{study}", text, labels=positive, group=row.value("subject_id"))
                splits[_SPLITS[official]].append(example)
            else:
                findings.leave_out("MIMIC-CXR: none of the wanted sections")
    findings.find("documents", len(reports))
    for what, number, expected in (
        ("MIMIC-CXR reports", len(reports), _NUM_REPORTS),
        ("MIMIC-CXR labelled studies", num_labelled, _NUM_LABELLED),
    ):
        findings.find(what, number)
        findings.expect(what, number, expected, _RELEASE)
    return splits


def report_text(report: str, wanted: Sequence[Section]) -> str:
    """The wanted sections in one line; of a report without findings and impression, its end.

    The rule is that of MIT-LCP's section_parser, which cut the text for the labelers, without its list of some 50
    single studies. A heading is capitals at a line's start before a colon; of headings alike the last counts, so an
    addendum on top gives way to the report; an empty section does not count. The end is what follows the first
    paragraph of the last section.
    """
    preamble, *parts = _HEADING.split(report)  # heading, text, heading, text, ...
    sections = [("", preamble)]
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        name = _section(heading)
        if text.strip() or name not in ("findings", "impression"):
            sections.append((name, text))
    found = dict(sections)
    if "findings" in found or "impression" in found:
        texts = [found.get(section, "") for section in wanted]
    else:
        _, text = sections[-1]
        texts = [text.partition("\n \n")[2]]
    return " ".join(" ".join(texts).split())


def _section(heading: str) -> str:
    name = heading.lower().strip()
    if "impression" in name or name == "conclusion" or name in _MISSPELT["impression"].split():
        return "impression"
    if "findings" in name or name in _MISSPELT["findings"].split():
        return "findings"
    other = any(word in name for word in ("history", "comparison", "addendum"))
    return "findings" if _VIEW.search(name) and not other else name


def _positive(
    row: Record, options: MimicCxrOptions, labels: Sequence[str], findings: Findings
) -> tuple[str, ...] | None:
    """The labels that hold; blank is a finding that the report does not mention. None: the study is left out."""
    values = {label: row.value(label) or "" for label in labels}
    if not {"1.0", "0.0", "-1.0", ""}.issuperset(values.values()):
        findings.reject("MIMIC-CXR: label is not 1.0, 0.0, -1.0 or blank", row.place, "take the official file")
        return None
    if options.uncertain == "drop" and "-1.0" in values.values():
        findings.leave_out("MIMIC-CXR: an uncertain label")
        return None
    holding = ("1.0", "-1.0") if options.uncertain == "positive" else ("1.0",)
    return tuple(label for label, value in values.items() if value in holding)


def _rows(data: str, options: MimicCxrOptions, table: str, columns: Sequence[str]) -> Iterator[Record]:
    folders = [join(data, options.mimic_cxr), join(data, options.mimic_cxr_jpg)]
    name = f"mimic-cxr-2.0.0-{table}.csv"
    for file in (join(folder, name + suffix) for folder in folders for suffix in ("", ".gz")):
        if exists(file):
            return read_records(file, ["subject_id", "study_id", *columns])
    raise DataError(
        f"{name}.gz of MIMIC-CXR-JPG is neither in {folders[0]} nor in {folders[1]}; put it there, or name its folder "
        "below the data folder by options.mimic_cxr_jpg"
    )


def _reports(folder: str) -> dict[str, str]:
    """Study -> file of its report."""
    if not exists(folder):
        raise DataError(
            f"{folder} does not exist; unpack MIMIC-CXR's reports there, or name their folder below the data folder by "
            "options.mimic_cxr"
        )
    named = ((re.search(r"/s(\d{8})\.txt(\.gz)?$", file), file) for file in list_files(folder, (".txt",)))
    return {match[1]: file for match, file in named if match}
