"""MEDDOCAN: Spanish case reports with invented personal data, each both in brat's format and in XML like i2b2's."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import exists, join
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.brat import brat_documents
from clinscale.tasks.readers.i2b2_xml import read_files
from clinscale.tasks.task import SPLITS

_NUM_DOCUMENTS = {"train": 500, "dev": 250, "test": 250}
_READERS: dict[str, Callable[[str, Findings], list[Example]]] = {
    "brat": brat_documents,
    "xml": lambda folder, findings: read_files(list_files(folder, (".xml",)), findings),
}


class MeddocanOptions(Config):
    """Choices that the release leaves open."""

    encoding: Literal["brat", "xml"] = "brat"
    """The form that is read; both hold the same texts and annotations, and give the same entities."""


def read_meddocan(data: str, options: MeddocanOptions, findings: Findings) -> Splits:
    """Split by the official folders train, dev and test where all three are there; otherwise `all`.

    Finds `documents`, `annotations`. Some texts begin with a byte-order mark that the offsets count: in brat the mark
    is the file's, so it is off and the offsets are repaired; in XML it is the text's and taken off here.
    """
    form, read = options.encoding, _READERS[options.encoding]
    corpus = join(data, "corpus") if exists(join(data, "corpus")) else data
    official = {split: join(corpus, split, form) for split in SPLITS}
    if all(map(exists, official.values())):
        splits = {split: _unmarked(read(folder, findings)) for split, folder in official.items()}
        for split, examples in splits.items():
            findings.expect(f"documents of {split}", len(examples), _NUM_DOCUMENTS[split], "MEDDOCAN")
        return splits
    if not exists(join(data, form)):
        raise DataError(
            f"{data} holds neither {form} nor train/{form}, dev/{form} and test/{form}; give the release's folder "
            "`corpus`, or one folder of it"
        )
    findings.remark("the official folders train, dev and test are not all there: split by document")
    return {"all": _unmarked(read(join(data, form), findings))}


def _unmarked(examples: list[Example]) -> list[Example]:
    """Examples without a byte-order mark at the start of their texts, which is no character of them."""
    return [_moved(example) if example.text.startswith("\ufeff") else example for example in examples]


def _moved(example: Example) -> Example:
    entities = tuple(Entity(entity.start - 1, entity.end - 1, entity.label) for entity in example.entities)
    return dataclasses.replace(example, text=example.text[1:], entities=entities)


MEDDOCAN = Distribution(read_meddocan, MeddocanOptions)
