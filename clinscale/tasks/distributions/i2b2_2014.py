"""i2b2 2014, track 1: de-identification of the notes of patients over time, one XML file per note."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

from pydantic import Field

from clinscale.config import Config
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.i2b2_xml import read_files
from clinscale.tasks.split import hold_out

_TRAIN = ("2014_training-PHI-Gold-Set1.tar.gz", "training-PHI-Gold-Set2.tar.gz")
"""Both unpack to a folder `training-PHI-Gold-SetN`."""

_RELEASE = "i2b2 2014"
_NUM_TRAIN, _NUM_TEST, _NUM_PATIENTS = 790, 514, 296


class I2b2_2014Options(Config):
    """Choice of dev from the training notes, as the release has none."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training notes that become dev, in whole patients; a tenth as in the paper's pipeline."""

    seed: int = 0
    """Seed of the draw of dev. The paper's own draw cannot be repeated: it permutes an unordered list."""


def read_i2b2_2014(data: str, options: I2b2_2014Options, findings: Findings) -> Splits:
    """One example per note, grouped by patient. Finds `documents`, `annotations`.

    Raises:
        DataError: the training notes or the test notes are not there, or still packed.
    """
    release = Release(data, (".xml",))
    train_files = release.require(_TRAIN[0], "*training-PHI-Gold-Set[12]/*.xml")
    test_files = release.require("testing-PHI-Gold-fixed.tar.gz", "*testing-PHI-Gold-fixed/*.xml")
    for number, archive in enumerate(_TRAIN, 1):
        if not release.files(f"*training-PHI-Gold-Set{number}/*.xml"):
            findings.remark(f"a part of the training notes is missing; unpack {archive}")
    train, test = (_by_patient(read_files(files, findings)) for files in (train_files, test_files))
    _check(train_files, test_files, findings)
    stay, held_out = hold_out(train, options.dev_share, options.seed)
    return {"train": list(stay), "dev": list(held_out), "test": test}


def _check(train_files: Sequence[str], test_files: Sequence[str], findings: Findings) -> None:
    train, test = ({_patient(PurePosixPath(file).stem) for file in files} for files in (train_files, test_files))
    findings.expect("training notes", len(train_files), _NUM_TRAIN, _RELEASE)
    findings.expect("test notes", len(test_files), _NUM_TEST, _RELEASE)
    findings.expect("patients", len(train | test), _NUM_PATIENTS, _RELEASE)
    if both := train & test:
        findings.remark(f"{len(both)} patients have notes both in training and in test; check the folders")


def _by_patient(examples: Sequence[Example]) -> list[Example]:
    return [dataclasses.replace(example, group=_patient(example.id)) for example in examples]


def _patient(name: str) -> str:
    """A note is called after its patient and its number, `110-01`."""
    return name.partition("-")[0]


I2B2_2014 = Distribution(read_i2b2_2014, I2b2_2014Options)
