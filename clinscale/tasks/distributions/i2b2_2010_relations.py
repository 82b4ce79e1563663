"""i2b2 2010, relations: how problems, tests and treatments of one sentence are related, by line and token.

c="nystatin powder" 64:15 64:16||r="TrAP"||c="an erythematous perianal rash" 64:5 64:8
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from clinscale.errors import DataError
from clinscale.records import read_text
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.distributions.i2b2_2010 import I2b2_2010Options, Part, read_parts
from clinscale.tasks.distributions.line_token import read_line_token
from clinscale.tasks.distributions.release import Release
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entity_of_each
from clinscale.tasks.readers.relations import gold_of

_RELATION = re.compile(
    r'c=".*"\s+(\d+:\d+\s+\d+:\d+)\s*\|\|\s*r="([^"]+)"\s*\|\|\s*c=".*"\s+(\d+:\d+\s+\d+:\d+)\s*'
)
"""Lines and tokens of the first concept, type, those of the second concept."""


def read_i2b2_2010_relations(data: str, options: I2b2_2010Options, findings: Findings) -> Splits:
    """One example per record, with its concepts and the relations between them; split as the concepts are.

    Raises:
        DataError: a part is not there: still packed, or of a release that has other parts.
    """

    def read(release: Release, part: Part) -> list[Example]:
        files = release.require(part.archive, *part.relations)
        relations = {PurePosixPath(file).stem: file for file in files}

        def read_gold(stem: str, text: str, marks: Sequence[tuple[str, Mark]]) -> Mapping[str, Any]:
            entities = entity_of_each(text, [mark for _, mark in marks], findings)
            by_name = {_name(numbers): one for (numbers, _), one in zip(marks, entities, strict=True)}
            return gold_of(entities, by_name, _links(relations.get(stem), stem, findings), findings)

        return read_line_token(
            part.texts, part.concepts, ("c",), findings, prefix=part.prefix, read_gold=read_gold
        )

    return read_parts(data, options, findings, read)


def _links(file: str | None, stem: str, findings: Findings) -> list[tuple[str, str, str, str]]:
    if file is None:
        findings.reject("concepts without a file of relations", stem, "add the .rel file (it may be empty)")
        return []
    try:
        lines = read_text(file).split("\n")
    except DataError:
        if findings.on_error == "raise":
            raise
        findings.reject("not readable", file, "convert it")
        return []
    links = []
    for number, line in enumerate(lines, 1):
        place = f"{file} line {number}"
        if match := _RELATION.fullmatch(line):
            links.append((_name(match[1]), _name(match[3]), match[2], place))
        elif line.strip():
            findings.reject("not a relation by line and token", place, "correct or remove the line")
    return links


def _name(numbers: str) -> str:
    return " ".join(numbers.split())


I2B2_2010_RELATIONS = Distribution(read_i2b2_2010_relations, I2b2_2010Options)
