"""i2b2 2012, temporal links: which events and times of a discharge summary come before, after or with which others."""

from collections.abc import Sequence
from xml.etree import ElementTree

from pydantic import Field

from clinscale.config import Config
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import entity_of_each
from clinscale.tasks.readers.i2b2_xml import marks_of, read_document
from clinscale.tasks.readers.relations import gold_of
from clinscale.tasks.split import hold_out

_TRAIN = "2012-07-15.original-annotation.release"
_TEST = "2012-08-23.test-data.groundtruth"
_NUM_TRAIN, _NUM_TEST = 190, 120
_SECTION_LINK = "link to the date of admission or discharge"
_MERGED = {
    "BEFORE_OVERLAP": "BEFORE",
    "ENDED_BY": "BEFORE",
    "BEGUN_BY": "AFTER",
    "SIMULTANEOUS": "OVERLAP",
    "DURING": "OVERLAP",
}
"""The three types to which the challenge merged eight (Sun et al. 2013, Evaluating temporal relations in clinical
text)."""


class I2b2_2012RelationsOptions(Config):
    """The links that are read, and the choice of dev from the training records."""

    section_times: bool = False
    """Whether links of events to the dates of admission and discharge are read. Those dates are far from the events,
    in the header, so that most such links are out of reach of pairs within a window. Left out, they are counted."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training records that become dev; a tenth as for the events."""

    seed: int = 0
    """Seed of the draw of dev."""


def read_i2b2_2012_relations(data: str, options: I2b2_2012RelationsOptions, findings: Findings) -> Splits:
    """One example per record, with its events and times and the links between them. Finds `documents`, `annotations`.

    Raises:
        DataError: a part is not there, or still packed.
    """
    release = Release(data, (".xml",))
    train_files = release.require(f"{_TRAIN}.tar.gz", f"*{_TRAIN}/*.xml")
    test_files = release.require(f"{_TEST}.tar.gz", f"*{_TEST}/ground_truth/merged_xml/*.xml")
    findings.expect("training records", len(train_files), _NUM_TRAIN, "i2b2 2012")
    findings.expect("test records", len(test_files), _NUM_TEST, "i2b2 2012")
    train, test = (_records(files, options, findings) for files in (train_files, test_files))
    stay, held_out = hold_out(train, options.dev_share, options.seed)
    return {"train": list(stay), "dev": list(held_out), "test": test}


def _records(files: Sequence[str], options: I2b2_2012RelationsOptions, findings: Findings) -> list[Example]:
    wanted = ("EVENT", "TIMEX3", *(["SECTIME"] if options.section_times else []))
    examples = []
    for file in files:
        findings.find("documents")
        document = read_document(file, findings)
        if document is None:
            continue
        text, tags = document
        elements = [tag for tag in tags if tag.tag in wanted]
        marks = list(marks_of(text, elements, "type", file, findings))
        by_tag = dict(
            zip((tag for tag, _ in marks), entity_of_each(text, [m for _, m in marks], findings), strict=True)
        )
        by_name = {_name(tag): by_tag.get(tag) for tag in elements}
        links = list(_links(tags, file, options, findings))
        fields = gold_of(list(by_tag.values()), by_name, links, findings)
        examples.append(Example(file.rsplit("/", 1)[-1].removesuffix(".xml"), text, **fields))
    return examples


def _name(element: ElementTree.Element) -> str:
    """Name of an element in links: its id; a section time, the type that it has."""
    return str(element.get("type" if element.tag == "SECTIME" else "id", "")).upper()


def _links(
    tags: Sequence[ElementTree.Element], file: str, options: I2b2_2012RelationsOptions, findings: Findings
) -> list[tuple[str, str, str, str]]:
    links = []
    sections = {"ADMISSION", "DISCHARGE"}
    for number, tag in enumerate(tags, 1):
        if tag.tag != "TLINK":
            continue
        head, tail, label = (str(tag.get(name, "")).strip().upper() for name in ("fromID", "toID", "type"))
        if not options.section_times and sections & {head, tail}:
            findings.leave_out(_SECTION_LINK)
        elif not (head and tail and label):
            findings.reject("link without fromID, toID and type", f"{file} tag {number}", "correct the link")
        else:
            links.append((head, tail, _MERGED.get(label, label), f"{file} tag {number}"))
    return links


I2B2_2012_RELATIONS = Distribution(read_i2b2_2012_relations, I2b2_2012RelationsOptions)
