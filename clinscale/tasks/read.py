"""Task files to TaskData: read each split, split a single source, settle the labels, count what was odd."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from clinscale.errors import DataError
from clinscale.storage import exists, join
from clinscale.tasks.distributions import DISTRIBUTIONS
from clinscale.tasks.example import Entity, Example, TaskData, count_repeats, data_fingerprint
from clinscale.tasks.findings import Findings, NoExamplesError
from clinscale.tasks.readers.align import NESTED, REPEATED, without_overlaps
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.i2b2_xml import read_i2b2_xml
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad
from clinscale.tasks.split import split_by_column, split_by_group
from clinscale.tasks.task import SPLITS, TaskConfig

_READERS: dict[str, Callable[[TaskConfig, str, Findings], list[Example]]] = {
    "records": read_rows,
    "bio": read_bio,
    "brat": read_brat,
    "i2b2_xml": read_i2b2_xml,
    "squad": read_squad,
}
"""Open format -> (task, path, findings) -> examples."""

MAX_LABEL_CHARACTERS = 100
"""A longer label is surely a text: the columns are mixed up, and labels are printed where texts never are."""


def read_task(task: TaskConfig, data: str, *, findings: Findings | None = None) -> TaskData:
    """Read all splits of `task` from the folder `data`, local or remote.

    Args:
        task: from `load_task`.
        data: the folder as it lies on disk.
        findings: what to count in, to be looked at even when the reading fails; `Findings("skip")` in place of the
            task's own `on_error` finds everything that is wrong.

    Raises:
        DataError: a file is missing or malformed, or a label is unknown.
        NoExamplesError: a split is empty.
    """
    if not exists(data):
        raise DataError(f"{data} does not exist; give the folder that holds the files of task {task.name}")
    findings = findings or Findings(task.on_error)
    sources = _read_sources(task, data, findings)
    sources = {split: _settle(task, examples, findings, split) for split, examples in sources.items()}
    if task.split_column:
        sources = split_by_column(sources["all"], task.name)
    elif "all" in sources:
        sources = split_by_group(sources["all"], task.split_ratios or (0.7, 0.1, 0.2), task.seed)
    splits = {split: _in_units(task, sources.get(split, ())) for split in SPLITS}
    for split, examples in splits.items():
        if not examples:
            raise NoExamplesError(f"task {task.name}: split {split} below {data} has no example; give it data")
        if task.kind == "spans" and not any(example.answers for example in examples):
            raise DataError(
                f"task {task.name}: no question of split {split} below {data} has an answer; is it a test set whose "
                "answers are held back? Give the one with answers"
            )
    labels = _settle_labels(task, splits)
    duplicates, across = count_repeats(splits)
    return TaskData(task, splits, labels, data_fingerprint(splits, labels), findings, duplicates, across)


def _read_sources(task: TaskConfig, data: str, findings: Findings) -> Mapping[str, Sequence[Example]]:
    if task.format in DISTRIBUTIONS:
        distribution = DISTRIBUTIONS[task.format]
        options = distribution.options.parse(task.options, source=f"task {task.name}: options")
        return distribution.read(data, options, findings)
    return {split: read_examples(task, join(data, path), findings) for split, path in task.splits.items()}


def read_examples(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """The examples of one file or folder in an open format as its reader makes them, before anything is split."""
    return _READERS[task.format](task, path, findings)


def _settle(task: TaskConfig, examples: Sequence[Example], findings: Findings, split: str) -> tuple[Example, ...]:
    """Labels as the task maps them, groups as its pattern finds them, each id once."""
    settled: dict[str, Example] = {}
    for example in examples:
        if example.id in settled:
            findings.reject("id occurs twice", f"{split} example {example.id}", "give every example its own id")
            continue
        settled[example.id] = example
    kept = list(settled.values())
    if task.label_map:
        kept = [mapped for example in kept if (mapped := _mapped(task, example, findings))]
    if known := task.labels or task.columns.labels:
        place = f"{split} example"
        kept = [one for example in kept if (one := _with_known_labels(example, known, place, findings))]
    kept = [_apart(example, findings) for example in kept]
    if task.group_pattern:
        kept = [_grouped(task, example) for example in kept]
    return tuple(kept)


def _mapped(task: TaskConfig, example: Example, findings: Findings) -> Example | None:
    named = [task.label_map.get(label, label) for label in example.labels]
    entities = [(entity, task.label_map.get(entity.label, entity.label)) for entity in example.entities]
    left = tuple(dataclasses.replace(entity, label=label) for entity, label in entities if label is not None)
    findings.leave_out("label mapped to null", len(entities) - len(left))
    labels = tuple(dict.fromkeys(label for label in named if label is not None))
    if example.labels and not labels and not task.multi_label:
        findings.leave_out("label mapped to null")
        return None
    return dataclasses.replace(example, labels=labels, entities=left)


def _with_known_labels(example: Example, known: Sequence[str], place: str, findings: Findings) -> Example | None:
    """Without entities of unknown types; nothing of an example whose own label is unknown."""
    strange = [label for label in (*example.labels, *(e.label for e in example.entities)) if label not in known]
    if not strange:
        return example
    for _ in strange:  # a label can be a text, when columns are mixed up, so it is not printed
        findings.reject(
            "label is not among the task's", f"{place} {example.id}", "add it to labels, or map it by label_map"
        )
    if any(label not in known for label in example.labels):
        return None
    return dataclasses.replace(example, entities=tuple(e for e in example.entities if e.label in known))


def _apart(example: Example, findings: Findings) -> Example:
    """Of entities that overlap the longest: among those that the task asks for, so after its labels are settled."""
    if all(one.end <= following.start for one, following in itertools.pairwise(example.entities)):
        return example
    distinct = dict.fromkeys(example.entities)
    apart = without_overlaps(distinct)
    findings.leave_out(REPEATED, len(example.entities) - len(distinct))
    findings.leave_out(NESTED, len(distinct) - len(apart))
    return dataclasses.replace(example, entities=apart)


def _grouped(task: TaskConfig, example: Example) -> Example:
    assert task.group_pattern is not None
    match = re.search(task.group_pattern, example.id)
    if match is None:
        raise DataError(
            f"task {task.name}: group_pattern does not match the id {example.id}; it must match every id"
        )
    return dataclasses.replace(example, group=match[1])


def _in_units(task: TaskConfig, examples: Sequence[Example]) -> tuple[Example, ...]:
    """Documents, or their lines; cut after the split, which whole documents go through."""
    if task.unit == "document":
        return tuple(examples)
    return tuple(line for example in examples for line in _lines(example))


def _lines(example: Example) -> list[Example]:
    """Each line with something on it, and what of the entities lies in it; an entity over a line break is parted."""
    lines, start = [], 0
    for number, line in enumerate(example.text.split("\n"), 1):
        end = start + len(line)
        if line.strip():
            inside = (
                Entity(max(e.start, start) - start, min(e.end, end) - start, e.label)
                for e in example.entities
                if e.start < end and e.end > start
            )
            visible = tuple(e for e in inside if not line[e.start : e.end].isspace())
            lines.append(
                Example(f"{example.id}:{number}", line, entities=visible, group=example.group or example.id)
            )
        start = end + 1
    return lines


def _settle_labels(task: TaskConfig, splits: dict[str, tuple[Example, ...]]) -> tuple[str, ...]:
    """The task's own labels, or those found in any split."""
    found = {
        label
        for examples in splits.values()
        for example in examples
        for label in (*example.labels, *(entity.label for entity in example.entities))
    }
    if any(len(label) > MAX_LABEL_CHARACTERS for label in found):
        raise DataError(
            f"task {task.name}: a label is longer than {MAX_LABEL_CHARACTERS} characters, so it is likely a text; "
            "check columns.label"
        )
    known = task.labels or task.columns.labels or tuple(sorted(found))
    if task.kind in ("sequence", "pair") and not task.multi_label and len(known) < 2:
        raise DataError(f"task {task.name}: at least two labels are needed, found {len(known)}; check the labels")
    if task.kind == "tokens" and not known:
        raise DataError(f"task {task.name}: no entity in any split; check the annotations")
    return known
