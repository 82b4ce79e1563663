"""Task files to TaskData: read each split, split a single source, settle the labels, count what was odd."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import regex

from clinscale.cells import as_label
from clinscale.errors import ChangedDataError, ConfigError, DataError
from clinscale.filters import RowFilter
from clinscale.records import part_of
from clinscale.storage import exists, join
from clinscale.tasks.distributions import DISTRIBUTIONS
from clinscale.tasks.example import Entity, Example, TaskData, count_repeats, data_fingerprint
from clinscale.tasks.findings import Findings, NoExamplesError
from clinscale.tasks.kinds import Kind, Reader, kind_of
from clinscale.tasks.odd_labels import refuse_labels_of_one_split, refuse_odd_labels
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.i2b2_xml import read_i2b2_xml
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad
from clinscale.tasks.remarks import (
    remark_on_copies,
    remark_on_labels,
    remark_on_patients,
    remark_on_shares,
    remark_on_texts,
    remark_on_unlearnable,
)
from clinscale.tasks.split import (
    group_numbers,
    keep_groups_apart,
    read_ids,
    refuse_alike_groups,
    split_by_column,
    split_by_group,
    split_by_ids,
)
from clinscale.tasks.task import SPLITS, TaskConfig

_READERS: dict[str, Reader] = {
    "records": read_rows,
    "bio": read_bio,
    "brat": read_brat,
    "i2b2_xml": read_i2b2_xml,
    "squad": read_squad,
}
"""Open format -> (task, path, findings) -> examples."""

_LONGEST_MATCH_S = 5.0
"""Longest time for a pattern in one id; one that takes longer backtracks without end."""


def read_task(
    task: TaskConfig, data: str, *, findings: Findings | None = None, fingerprint: str | None = None
) -> TaskData:
    """Read all splits of `task` from the folder `data`, local or remote.

    Args:
        task: from `load_task`.
        data: the folder as it is on disk.
        findings: what to count in, to be looked at even when the reading fails; `Findings("skip")` in place of the
            task's own `on_error` finds everything that is wrong.
        fingerprint: of what was read there before, in another process of the same work.

    Raises:
        DataError: a file is missing or malformed, a label is unknown, or a value that the task names is in no file.
        NoExamplesError: a split is empty. ChangedDataError: it is not what was read before.
    """
    if not data.strip() or not exists(data):  # an empty variable of the shell is not the current folder
        raise DataError(
            f"{data or repr(data)} does not exist; give the folder that holds the files of task {task.name}"
        )
    kind = kind_of(task)
    findings = findings or Findings(task.on_error)
    every: Sequence[Example] = ()
    sources = _read_sources(task, data, findings)
    sources = {split: _settle(kind, examples, findings, split) for split, examples in sources.items()}
    _report_unmet(task, findings)
    by_group = bool(task.group_column or task.group_pattern)
    if by_group:
        refuse_alike_groups(sources)
    if task.split_ids:
        ids = {split: read_ids(join(data, path), task.encoding) for split, path in task.split_ids.items()}
        sources = split_by_ids(sources["all"], ids, findings, by_group=by_group)
    elif task.split_column:
        sources = split_by_column(sources["all"], task.name)
    elif "all" in sources:
        every, ratios = sources["all"], task.split_ratios or (0.7, 0.1, 0.2)
        sources = split_by_group(every, ratios, task.seed)
        remark_on_shares(every, sources, ratios, findings)
    if by_group:
        sources = keep_groups_apart(sources, findings)
    splits = {split: _in_units(task, sources.get(split, ())) for split in SPLITS}
    for split, examples in splits.items():
        if not examples:
            raise NoExamplesError(
                f"task {task.name}: split {split} below {data} has no example; {_fix_of_empty_split(task, every)}"
            )
        kind.check_split(examples, f"split {split} below {data}")
    labels = _settle_labels(kind, splits, findings)
    remark_on_labels(kind, labels, findings)
    remark_on_unlearnable(kind, splits, findings)
    if task.metric is None and (fitting := kind.fitting_metric(splits, labels)) != kind.metric:
        task = task.model_copy(update={"metric": fitting})
        findings.remark(
            f"one of two labels is rare, so models are chosen by {fitting}; set metric to choose another"
        )
    kind_of(task).check_threshold(labels)
    kind.report(splits, findings)
    remark_on_texts(kind, splits, findings)
    remark_on_patients(splits, findings)
    remark_on_copies(kind, splits, findings)
    duplicates, across = count_repeats(splits)
    found = data_fingerprint(splits, labels)
    if fingerprint not in (None, found):
        raise ChangedDataError.of(f"data of task {task.name} in {data}", before=str(fingerprint), now=found)
    return TaskData(task, splits, labels, found, findings, duplicates, across)


def _fix_of_empty_split(task: TaskConfig, every: Sequence[Example]) -> str:
    """Advice on a split without an example; `every` is all that `split_ratios` had to split."""
    if not every:
        return "give it data"
    groups = Counter(group_numbers(every))
    alike = "equal texts and patients" if task.group_column or task.group_pattern else "equal texts"
    are = f"{len(groups):,} such group" + "s" * (len(groups) > 1)
    return (
        f"split_ratios keeps {alike} in one split, and {len(every):,} examples are {are}, the largest of "
        f"{max(groups.values()):,}: give more different documents, or files of your own as splits"
    )


def _read_sources(task: TaskConfig, data: str, findings: Findings) -> Mapping[str, Sequence[Example]]:
    if task.format in DISTRIBUTIONS:
        distribution = DISTRIBUTIONS[task.format]
        options = distribution.options.parse(task.options, source=f"task {task.name}: options")
        return distribution.read(data, options, findings)
    for split, path in task.splits.items():
        if (part := part_of(path)) and part[2] > 1:
            findings.remark(
                f"splits.{split} names file {part[1] + 1} of {part[2]} that make up a table: put all into a folder, "
                "and name that"
            )
    return {split: read_examples(task, join(data, path), findings) for split, path in task.splits.items()}


def read_examples(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """The examples of one file or folder in an open format as its reader makes them, before anything is split."""
    readers = {**_READERS, **kind_of(task).own_readers}
    return readers[task.format](task, path, findings)


def _settle(kind: Kind, examples: Sequence[Example], findings: Findings, split: str) -> tuple[Example, ...]:
    """Labels as the task maps them, groups as its pattern finds them, each id once."""
    task = kind.task
    settled: dict[str, Example] = {}
    for example in examples:
        if example.id in settled:
            at = f", {example.place}" if example.place not in ("", example.name) else ""
            findings.reject(
                "id occurs twice",
                f"{split} example {example.name}{at}",
                "give every example its own id, and join the rows of a note",
            )
            continue
        settled[example.id] = example
    kept = [kind.as_read(example) for example in settled.values()]
    if task.label_map:
        own = _spellings(task.label_map)
        kept = [mapped for example in kept if (mapped := _mapped(kind, own, example, findings))]
    if known := task.labels or task.columns.labels:
        own = _spellings(known)
        place = f"{split} example"
        kept = [one for example in kept if (one := _with_known_labels(kind, example, own, place, findings))]
    kept = [kind.settled(example, findings) for example in kept]
    if task.group_pattern:
        kept = [_grouped(task, example) for example in kept]
    return tuple(kept)


def _spellings(names: Iterable[str]) -> dict[str, str]:
    """Labels as readers give them -> as the task spells them: `1` is what it calls `1.0`."""
    return {as_label(name, "label") or name: name for name in names} | {name: name for name in names}


def _report_unmet(task: TaskConfig, findings: Findings) -> None:
    """Report names in the task that no file holds: they are spelled otherwise there, and would change nothing."""
    rows = RowFilter(task.keep_rows, task.drop_rows)
    for option, column, value in rows.unmet(findings.met):
        place = f"task {task.name}: {option}, column {column!r}, value {value!r}"
        findings.reject("no row holds this value", place, "correct or remove it")
    for label in task.label_map:
        if ("label_map", label) not in findings.met:
            place = f"task {task.name}: label_map, {label!r}"
            findings.reject("no text and no entity has this label", place, "correct or remove it")


def _mapped(kind: Kind, own: Mapping[str, str], example: Example, findings: Findings) -> Example | None:
    task = kind.task

    def new(label: str) -> str | None:
        if label not in own:
            return label
        findings.met.add(("label_map", own[label]))
        return task.label_map[own[label]]

    named = [new(label) for label in example.labels]
    marked = [(one, new(one.label)) for one in kind.annotations(example)]
    left = [dataclasses.replace(one, label=label) for one, label in marked if label is not None]
    findings.leave_out("label mapped to null", len(marked) - len(left))
    labels = tuple(dict.fromkeys(label for label in named if label is not None))
    if example.labels and not labels and not task.multi_label:
        findings.leave_out("label mapped to null")
        return None
    findings.find("texts without a label but those mapped to null", bool(example.labels) and not labels)
    return kind.with_annotations(example, left, labels)


def _with_known_labels(
    kind: Kind, example: Example, known: Mapping[str, str], place: str, findings: Findings
) -> Example | None:
    """The example without annotations of unknown types; None if its own label is unknown."""
    strange = [label for label in kind.labels_of(example) if label not in known]
    for _ in strange:  # a label can be a text, when columns are mixed up, so it is not printed
        findings.reject(
            "label is not among the task's", f"{place} {example.name}", "add it to labels, or map it by label_map"
        )
    if any(label not in known for label in example.labels):
        return None
    annotations = kind.annotations(example)
    left = [dataclasses.replace(one, label=known[one.label]) for one in annotations if one.label in known]
    return kind.with_annotations(example, left, [known[label] for label in example.labels])


def _grouped(task: TaskConfig, example: Example) -> Example:
    assert task.group_pattern is not None
    try:
        match = regex.search(task.group_pattern, example.id, timeout=_LONGEST_MATCH_S)
    except TimeoutError:
        raise ConfigError(
            f"task {task.name}: group_pattern must match an id at once, and took {_LONGEST_MATCH_S:g} s for that of "
            f"example {example.name}; take out repeats within repeats, as in (a+)+"
        ) from None
    if match is None or not match[1]:
        raise DataError(
            f"task {task.name}: group_pattern does not match the id of example {example.name}, and must find the "
            "patient in every id; correct the pattern"
        )
    return dataclasses.replace(example, group=match[1])


def _in_units(task: TaskConfig, examples: Sequence[Example]) -> tuple[Example, ...]:
    """Documents, or their lines; cut after the split, which whole documents go through."""
    if task.unit == "document":
        return tuple(examples)
    return tuple(line for example in examples for line in _lines(example))


def _lines(example: Example) -> list[Example]:
    """Each line with something on it, and what of the entities is in it; an entity over a line break is parted."""
    lines = []
    for number, start, line in lines_of(example.text):
        end = start + len(line)
        inside = (
            Entity(max(e.start, start) - start, min(e.end, end) - start, e.label)
            for e in example.entities
            if e.start < end and e.end > start
        )
        visible = tuple(e for e in inside if not line[e.start : e.end].isspace())
        name, group = f"{example.id}:{number}", example.group or example.id
        lines.append(dataclasses.replace(example, id=name, text=line, entities=visible, group=group, is_part=True))
    return lines


def lines_of(text: str) -> Iterator[tuple[int, int, str]]:
    """Number, from 1, first character and text of each line with something on it."""
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, start, line
        start += len(line) + 1


def _settle_labels(kind: Kind, splits: dict[str, tuple[Example, ...]], findings: Findings) -> tuple[str, ...]:
    """The task's own labels, or those found in any split."""
    task = kind.task
    found = {label for examples in splits.values() for example in examples for label in kind.labels_of(example)}
    known = task.labels or task.columns.labels
    if not known:
        refuse_odd_labels(kind, found, sum(map(len, splits.values())), findings)
        refuse_labels_of_one_split(kind, splits)
        known = tuple(sorted(found))
    kind.check_labels(known)
    return known
