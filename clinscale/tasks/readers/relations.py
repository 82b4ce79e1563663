"""Relations between marked entities, as brat and rows of a table name them."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clinscale.cells import CellError, as_id, as_label, as_whole_number
from clinscale.records import Record
from clinscale.tasks.example import Entity
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, distinct, entity_of_each
from clinscale.tasks.readers.brat import marks_of
from clinscale.tasks.readers.marks import list_in, marks_in

UNKNOWN_ENTITY = "relation of an entity that is not there, or not one alone"

LOST_ENTITY = "relation of an entity that was left out"

WITH_ITSELF = "relation of an entity with itself"

_EQUIVALENCE = "equivalence (`*`), which is no relation of two"

_BRAT_RELATION = re.compile(r"R\S*\t(\S+) Arg1:(\S+) Arg2:(\S+)\s*")

_ROLES = "event with roles, which are no relations (`R`)"

_BRAT_EVENT = re.compile(r"(E\S*)\t\S+?:(T\S*)(?: (.*))?")


@dataclass(frozen=True, order=True)
class Relation:
    """A relation of type `label` that leads from `head` to `tail`."""

    head: Entity
    tail: Entity
    label: str


def gold_of(
    entities: Sequence[Entity | None],
    by_name: Mapping[str, Entity | None],
    links: Sequence[tuple[str, str, str, str]],
    findings: Findings,
) -> dict[str, Any]:
    """Fields of an example: its entities, and the relations that `links` name.

    A relation of an unknown id, or of an entity with itself, is rejected; one of an entity that was left out is left
    out with it.

    Args:
        entities: those of the text; None for one that was left out.
        by_name: id -> its entity.
        links: id of the head, id of the tail, label and place of each relation.
        findings: where to count.
    """
    relations = []
    for head_id, tail_id, label, place in links:
        if head_id not in by_name or tail_id not in by_name:
            findings.reject(UNKNOWN_ENTITY, place, "correct the id, or add the entity")
            continue
        head, tail = by_name[head_id], by_name[tail_id]
        if head is None or tail is None:
            findings.leave_out(LOST_ENTITY)
        elif head == tail:
            findings.reject(WITH_ITSELF, place, "correct the id")
        else:
            relations.append(Relation(head, tail, label))
    return {"entities": distinct(entities, findings), "gold": tuple(relations)}


def read_brat_relations(text: str, lines: Sequence[str], file: str, findings: Findings) -> dict[str, Any]:
    """The text-bound annotations of a document and its `R` lines; an event counts as its trigger."""
    marks: dict[str, Mark] = marks_of(lines, file, findings)
    entities = entity_of_each(text, list(marks.values()), findings)
    times = Counter(line.partition("\t")[0] for line in lines if line.startswith("T"))
    by_name = {name: one for name, one in zip(marks, entities, strict=True) if times[name] < 2}
    links = []
    for number, line in enumerate(lines, 1):
        if event := _BRAT_EVENT.fullmatch(line):
            if event[2] in by_name:
                by_name[event[1]] = by_name[event[2]]
            findings.leave_out(_ROLES, bool(event[3] and event[3].strip()))
        elif line.startswith("R"):
            place = f"{file} line {number}"
            if match := _BRAT_RELATION.fullmatch(line):
                links.append((match[2], match[3], match[1], place))
            else:
                findings.reject("not `ID, tab, TYPE Arg1:ID Arg2:ID`", place, "correct or remove the line")
        findings.leave_out(_EQUIVALENCE, line.startswith("*"))
    return gold_of(entities, by_name, links, findings)


def read_row_relations(
    record: Record, text: str, entities_column: str, relations_column: str, findings: Findings
) -> dict[str, Any]:
    """The entities of a row and the relations between them, each in a column of its own."""
    marks = marks_in(record, entities_column, findings)
    entities = entity_of_each(text, [mark for mark, _ in marks], findings)
    named: defaultdict[str, list[Entity | None]] = defaultdict(list)
    for (mark, given), entity in zip(marks, entities, strict=True):
        named[_span_name(mark.start, mark.end)].append(entity)
        named[_span_name(mark.start, mark.end, mark.label)].append(entity)
        if (name := as_id(given.get("id"), "id")) is not None:
            named[f"id {name}"].append(entity)
    by_name = {name: some[0] for name, some in named.items() if len(set(some)) == 1}
    links = []
    for number, given in enumerate(list_in(record, relations_column), 1):
        place = f"{record.place} relation {number}"
        if link := _link(given, place):
            links.append(link)
        else:
            findings.reject("relation without head, tail and label", place, "correct the relation")
    return gold_of(entities, by_name, links, findings)


def _link(given: Any, place: str) -> tuple[str, str, str, str] | None:
    """Names of head and tail, label and place of a relation; None for anything else."""
    if not isinstance(given, dict):
        return None
    try:
        label = as_label(given.get("label"), "label")
        sides = [_name(given.get(side)) for side in ("head", "tail")]
    except CellError:
        return None
    if label is None or sides[0] is None or sides[1] is None:
        return None
    return sides[0], sides[1], label, place


def _name(given: Any) -> str | None:
    """The name by which `read_row_relations` knows the entity that a relation names."""
    if isinstance(given, dict):
        start, end = (as_whole_number(given.get(side), side) for side in ("start", "end"))
        if start is None or end is None:
            return None
        return _span_name(start, end, as_label(given.get("label"), "label"))
    name = as_id(given, "head or tail")
    return None if name is None else f"id {name}"


def _span_name(start: int, end: int, label: str | None = None) -> str:
    return f"{start}:{end}" if label is None else f"{start}:{end} {label}"
