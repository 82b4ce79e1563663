"""i2b2 2010, concepts: notes of two hospitals with the problems, tests and treatments in them, by line and token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.line_token import read_line_token
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.split import hold_out

_NUM_RECORDS = {"beth": 73, "partners": 97, "test": 256}
_RELEASE = "i2b2 2010"
_SITES = ("beth", "partners")
_TRAIN, _TEST, _REFERENCE = (
    f"{name}.tar.gz"
    for name in ("concept_assertion_relation_training_data", "test_data", "reference_standard_for_test_data")
)


class I2b2_2010Options(Config):
    """Choice of dev from the training records, as the release has none."""

    dev_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training records of each hospital that become dev; a tenth as in the paper's pipeline."""

    seed: int = 0
    """Seed of the draw of dev. The paper's own draw cannot be repeated: it permutes an unordered list."""


def read_i2b2_2010(data: str, options: I2b2_2010Options, findings: Findings) -> Splits:
    """One example per record; ids of training records begin with the hospital, as numbers may be in both.

    Raises:
        DataError: a part is not there: still packed, or of a release that has other parts.
    """

    def read(release: Release, part: Part) -> list[Example]:
        return read_line_token(part.texts, part.concepts, ("c",), findings, prefix=part.prefix)

    return read_parts(data, options, findings, read)


@dataclass(frozen=True)
class Part:
    """The records of one hospital, or of the test set."""

    archive: str
    texts: Sequence[str]
    concepts: Sequence[str]
    relations: tuple[str, ...]
    """Globs of the files of relations."""
    prefix: str = ""
    """Prefix of an id before the file's name."""


def read_parts(
    data: str, options: I2b2_2010Options, findings: Findings, read: Callable[[Release, Part], list[Example]]
) -> Splits:
    """The official test records, and those of each hospital, of which dev is a share.

    Raises:
        DataError: a part is not there: still packed, or of a release that has other parts.
    """
    release = Release(data, (".con", ".rel", ".txt"))
    _check_sites(release, data, findings)
    train: list[Example] = []
    dev: list[Example] = []
    for site in _SITES:
        texts = release.require(_TRAIN, f"{site}/txt/*.txt")
        concepts = release.require(_TRAIN, f"{site}/concept/*.con")
        records = read(release, Part(_TRAIN, texts, concepts, (f"{site}/rel/*.rel",), f"{site}/"))
        findings.expect(f"training records of {site}", len(concepts), _NUM_RECORDS[site], _RELEASE)
        stay, held_out = hold_out(records, options.dev_share, options.seed)
        train += stay
        dev += held_out
    texts = release.require(_TEST, "test_data/*.txt", "test_data/txt/*.txt")
    concepts = release.require(_REFERENCE, "reference_standard_for_test_data/concepts/*.con")
    findings.expect("test records", len(concepts), _NUM_RECORDS["test"], _RELEASE)
    relations = ("reference_standard_for_test_data/rel/*.rel", "reference_standard_for_test_data/relation/*.rel")
    test = read(release, Part(_REFERENCE, texts, concepts, relations))
    return {"train": train, "dev": dev, "test": test}


def _check_sites(release: Release, data: str, findings: Findings) -> None:
    found = {PurePosixPath(file).parts[-3] for file in release.require(_TRAIN, "concept/*.con")}
    if absent := set(_SITES) - found:
        raise DataError(
            f"{data} holds concepts of {_listed(found)} and none of {_listed(absent)}, which is not today's release; "
            f"take {_TRAIN} from the n2c2 portal"
        )
    if others := found - set(_SITES):
        findings.remark(f"today's i2b2 2010 has no concepts of {_listed(others)}; they are not read")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


I2B2_2010 = Distribution(read_i2b2_2010, I2b2_2010Options)
