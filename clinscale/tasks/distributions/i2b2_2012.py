"""i2b2 2012, temporal relations: the clinical events of discharge summaries, as XML or by line and token."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from clinscale.config import Config
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.line_token import read_line_token
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.i2b2_xml import read_files
from clinscale.tasks.split import hold_out

_TRAIN = "2012-07-15.original-annotation.release"
_TEST = "2012-08-08.test-data.event-timex-groundtruth"
_LATER_TEST = "2012-08-23.test-data.groundtruth/ground_truth"

_TEST_FOLDERS = {
    "xml": (f"{_TEST}/xml", f"{_LATER_TEST}/merged_xml"),
    "extent": (f"{_TEST}/i2b2", f"{_LATER_TEST}/unmerged_i2b2", f"{_LATER_TEST}/merged_i2b2"),
}
"""Encoding -> where the test records may be, the preferred folder first; the later release has the same events."""

_NUM_TRAIN, _NUM_TEST = 190, 120


class I2b2_2012Options(Config):
    """The encoding and the annotations that are read, and the choice of dev from the training records."""

    encoding: Literal["xml", "extent"] = "xml"
    """XML counts characters, and extents lines and tokens, of the same annotations. XML is what the paper's pipeline
    reads; extents are for copies without it."""

    tags: tuple[Literal["EVENT", "TIMEX3"], ...] = Field(default=("EVENT",), min_length=1)
    """Events alone, as in the paper. For times as well give `[EVENT, TIMEX3]`, and add DATE, TIME, DURATION and
    FREQUENCY to the task's `labels`."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training records that become dev; a tenth as in the paper's pipeline."""

    seed: int = 0
    """Seed of the draw of dev. The paper's own draw cannot be repeated: it permutes an unordered list."""


def read_i2b2_2012(data: str, options: I2b2_2012Options, findings: Findings) -> Splits:
    """One example per record. Finds `documents`, `annotations` (of the wanted tags).

    Raises:
        DataError: a part is not there, or still packed.
    """
    release = Release(data, (".xml", ".extent", ".txt"))
    train_files = release.require(f"{_TRAIN}.tar.gz", f"*{_TRAIN}/*.{options.encoding}")
    test_folders = _TEST_FOLDERS[options.encoding]
    test_files = release.require(f"{_TEST}.tar.gz", *(f"*{at}/*.{options.encoding}" for at in test_folders))
    findings.expect("training records", len(train_files), _NUM_TRAIN, "i2b2 2012")
    findings.expect("test records", len(test_files), _NUM_TEST, "i2b2 2012")
    train, test = (_records(release, files, options, findings) for files in (train_files, test_files))
    stay, held_out = hold_out(train, options.dev_share, options.seed)
    return {"train": list(stay), "dev": list(held_out), "test": test}


def _records(
    release: Release, files: Sequence[str], options: I2b2_2012Options, findings: Findings
) -> list[Example]:
    if options.encoding == "xml":
        return read_files(files, findings, elements=options.tags, attribute="type")
    beside = {f"{file.removesuffix('.extent')}.txt" for file in files}
    texts = [file for file in release.files("*.txt") if file in beside]
    return read_line_token(texts, files, options.tags, findings)


I2B2_2012 = Distribution(read_i2b2_2012, I2b2_2012Options)
