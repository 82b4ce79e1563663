"""i2b2 2006, de-identification: discharge summaries in two XML files, personal data tagged within the text."""

import re
from typing import Literal
from xml.etree import ElementTree

from pydantic import Field

from clinscale.config import Config
from clinscale.storage import read_bytes
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.split import hold_out

_STEMS = {"train": "deid_surrogate_train_all_version2", "test": "deid_surrogate_test_all_groundtruth_version2"}
_NUM_RECORDS = {"train": 669, "test": 220}

_UNCLOSED = re.compile(rb'(<PHI TYPE="DATE">[^<]*)<PHI TYPE="DOCTOR">')
"""A date that an opening tag closes, as one does in the published training file."""

_END = re.compile(r"\s*(\[\s*report_end\s*\])?\s*\Z")


class I2b2_2006Options(Config):
    """Choice of dev from the training file, as the release has none."""

    dev_split: Literal["sequential", "random"] = "sequential"
    """`sequential` holds out the end of the training file, as the paper's pipeline does, but whole records where that
    cuts after 70 % of the lines; `random` draws records."""

    dev_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the training records that become dev; 0.3 as in the paper's pipeline."""

    seed: int = 0
    """Seed of the draw, where `dev_split` is random; another seed shows how much dev depends on it."""


def read_i2b2_2006(data: str, options: I2b2_2006Options, findings: Findings) -> Splits:
    """One example per record, without the line `[ report_end ]`. Finds `documents`, `annotations`.

    Raises:
        DataError: a file is not there, or still packed.
    """
    release = Release(data, (".xml",))
    files = {split: release.require(f"{stem}.zip", f"{stem}.xml")[0] for split, stem in _STEMS.items()}
    train, test = (_records(files[split], split, findings) for split in ("train", "test"))
    if options.dev_split == "random":
        stay, held_out = hold_out(train, options.dev_share, options.seed)
        return {"train": list(stay), "dev": list(held_out), "test": test}
    cut = round(len(train) * (1 - options.dev_share))
    return {"train": train[:cut], "dev": train[cut:], "test": test}


def _records(file: str, split: str, findings: Findings) -> list[Example]:
    """Each record parsed on its own, so that a malformed one spoils no other."""
    head, *records = re.split(rb"(?=<RECORD\b)", read_bytes(file))
    findings.find("documents", len(records))
    findings.expect(f"records of {split}", len(records), _NUM_RECORDS[split], "i2b2 2006")
    examples = []
    line = 1 + head.count(b"\n")
    for record in records:
        body, closing, _ = record.partition(b"</RECORD>")
        if example := _record(body + closing, file, line, findings):
            examples.append(example)
        line += record.count(b"\n")
    return examples


def _record(xml: bytes, file: str, line: int, findings: Findings) -> Example | None:
    """`line` is where the record begins in its file."""
    try:
        xml.decode()
    except UnicodeDecodeError as error:
        line += xml.count(b"\n", 0, error.start)
        findings.reject("not valid UTF-8", f"{file} line {line}", "convert it: iconv -f LATIN1 -t UTF-8")
        return None
    try:
        element, repaired = _parse(xml)
    except ElementTree.ParseError as error:
        findings.reject("malformed XML", f"{file} line {line + error.position[0] - 1}", "correct the record")
        return None
    if repaired:
        findings.repair("date closed by an opening tag", f"{file}, record at line {line}")
    name, text = element.get("ID"), element.find("TEXT")
    if name is None or text is None:
        findings.reject("record without ID or TEXT", f"{file} line {line}", "correct the record")
        return None
    return _example(name, text, f"{file} record {name}", findings)


def _parse(xml: bytes) -> tuple[ElementTree.Element, bool]:
    """The record, and whether a date had to be closed in it first."""
    try:
        return ElementTree.fromstring(xml), False
    except ElementTree.ParseError:
        repaired, unclosed = _UNCLOSED.subn(rb"\1</PHI>", xml, count=1)
        if not unclosed:
            raise
        return ElementTree.fromstring(repaired), True


def _example(name: str, element: ElementTree.Element, place: str, findings: Findings) -> Example | None:
    """The text with its tags stripped, which is where the offsets come from."""
    text, marks = (element.text or "").lstrip(), []
    for number, tag in enumerate(element, 1):
        surface = "".join(tag.itertext())
        if tag.tag == "PHI":
            end = len(text) + len(surface)
            marks.append(Mark(tag.get("TYPE", ""), len(text), end, surface, f"{place} tag {number}"))
        text += surface + (tag.tail or "")
    findings.find("annotations", len(marks))
    text = _END.sub("", text)
    if not text:
        findings.reject("empty text", place, "remove the record")
        return None
    return Example(name, text, entities=entities_of(text, marks, findings))


I2B2_2006 = Distribution(read_i2b2_2006, I2b2_2006Options)
