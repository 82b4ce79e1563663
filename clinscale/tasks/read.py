"""Task files to TaskData: read each split, split a single source, settle the labels, count what was odd."""

import dataclasses
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import regex

from clinscale.cells import SPELLED_MISSING, as_label
from clinscale.errors import ChangedDataError, ConfigError, DataError
from clinscale.filters import RowFilter
from clinscale.records import ODD_NAMES, ODD_TEXTS, cut_length, part_of
from clinscale.storage import exists, join
from clinscale.tasks.distributions import DISTRIBUTIONS
from clinscale.tasks.example import Entity, Example, TaskData, count_repeats, data_fingerprint, text_key
from clinscale.tasks.findings import Findings, NoExamplesError
from clinscale.tasks.kinds import Kind, Reader, kind_of
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.i2b2_xml import read_i2b2_xml
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad
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

_YES_OR_NO = {**dict.fromkeys(("1", "true", "yes", "y"), "yes"), **dict.fromkeys(("0", "false", "no", "n"), "no")}
"""Ways in which exports of one column say yes or no, among them those of two programs put together."""

_NO_LABEL, _NO_CLASS = re.compile(r"[-\u2010-\u2015.?_]+|''|\"\""), frozenset({"-1", "-100"})
"""Marks in place of a label that nobody agreed on, that SAS has not, that rules a table off, or that quotes nothing;
and in place of the number of a class."""

_SAME_MARK = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019\u02bc\u00b4`", 6 * "-" + 5 * "'")
"""Hyphens and apostrophes as word processors and keyboards have them."""
_SAME_LETTER = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf",
    "ABEKMHOPCTXIJSABEZHIKMNOPTYXaeopcyxijso",
)
"""Cyrillic and Greek letters that look like Latin ones, which keyboards of two alphabets mix into names."""
_ACCENT = re.compile("[\u0300-\u036f]")
_FORMULA = re.compile(r'^="(.*)"$')
_NUMBER = re.compile(r"\+?(\d+)(?:[.,](\d+))?")
_THOUSANDS = re.compile(r"\+?\d{1,3}(?:,\d{3})+")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_NONE = frozenset({"none", "na", "n/a"})
"""Words for no value, which are no label beside numbers or yes and no, and may be one beside others."""
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])|_")

_NEAR_ENOUGH, _LARGE_GROUP = 0.1, 10
"""Difference of a split's share from that asked for, and examples of one group, that call for no remark."""

_MANY_COPIES = 10
"""Number of copies in two splits that are no chance."""

_BEGINNING = 60
"""Characters that show, beside an id, that two texts are versions of one."""

_CONTROL = regex.compile(r"[\x00-\x1f\x7f]")
"""Line breaks and other characters that no name of a label holds."""

MAX_LABEL_CHARACTERS = 100
"""A longer label is surely a text: the columns are mixed up."""


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
        _remark_on_shares(every, sources, ratios, findings)
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
    _remark_on_labels(kind, labels, findings)
    _remark_on_unlearnable(kind, splits, findings)
    if task.metric is None and (fitting := kind.fitting_metric(splits, labels)) != kind.metric:
        task = task.model_copy(update={"metric": fitting})
        findings.remark(
            f"one of two labels is rare, so models are chosen by {fitting}; set metric to choose another"
        )
    kind_of(task).check_threshold(labels)
    kind.report(splits, findings)
    _remark_on_texts(kind, splits, findings)
    _remark_on_patients(splits, findings)
    _remark_on_copies(kind, splits, findings)
    duplicates, across = count_repeats(splits)
    found = data_fingerprint(splits, labels)
    if fingerprint not in (None, found):
        raise ChangedDataError.of(f"data of task {task.name} in {data}", before=str(fingerprint), now=found)
    return TaskData(task, splits, labels, found, findings, duplicates, across)


def _remark_on_shares(
    examples: Sequence[Example],
    splits: Mapping[str, Sequence[Example]],
    ratios: Sequence[float],
    findings: Findings,
) -> None:
    """Report shares that are far from those asked for, as one large group makes them."""
    shares = [len(splits[split]) / max(1, len(examples)) for split in SPLITS]
    if all(abs(share - ratio) <= _NEAR_ENOUGH for share, ratio in zip(shares, ratios, strict=True)):
        return
    largest = max(Counter(group_numbers(examples)).values(), default=0)
    if largest >= _LARGE_GROUP:
        got, wanted = (" ".join(f"{share:.0%}" for share in some) for some in (shares, ratios))
        findings.remark(
            f"{', '.join(SPLITS)} have {got} of the examples where split_ratios wants {wanted}: {largest:,} examples "
            "share a patient or text with another, directly or through others, and stay together"
        )


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
        _refuse_odd_labels(kind, found, sum(map(len, splits.values())), findings)
        _refuse_labels_of_one_split(kind, splits)
        known = tuple(sorted(found))
    kind.check_labels(known)
    return known


def _refuse_labels_of_one_split(kind: Kind, splits: Mapping[str, Sequence[Example]]) -> None:
    """DataError where one split alone has so many labels that they are likely texts: its columns are in another order.

    They would be printed.
    """
    met = {split: {label for one in examples for label in one.labels} for split, examples in splits.items()}
    for split, labels in met.items():
        own = labels.difference(*(others for other, others in met.items() if other != split))
        if len(own) > max(10, len(splits[split]) / 2) and not kind.task.multi_label:
            raise DataError(
                f"task {kind.task.name}: split {split} has {len(own):,} labels that no other split has, in "
                f"{len(splits[split]):,} examples, which are likely texts, ids or measurements; check whether its "
                "columns are in the order of its header, or list them in labels"
            )


def _remark_on_labels(kind: Kind, labels: Iterable[str], findings: Findings) -> None:
    """Report names of labels that are likely not what their export meant, in data of one's own."""
    if kind.task.format not in kind.formats:
        return
    for what, applies in ODD_NAMES.items():
        if odd := sorted(filter(applies, labels)):
            findings.remark(
                f"label {', '.join(map(repr, odd))} holds {what}: map it by label_map, or export it anew"
            )


def _remark_on_unlearnable(kind: Kind, splits: Mapping[str, Iterable[Example]], findings: Findings) -> None:
    """Report labels that are scored and that no training example has."""
    met = {
        split: {label for one in examples for label in kind.labels_of(one)} for split, examples in splits.items()
    }
    if unseen := sorted(set().union(*met.values()) - met["train"]):
        names = ", ".join(map(repr, unseen))
        findings.remark(f"no training example has label {names}, which dev or test has: no model can learn it")


def _remark_on_texts(kind: Kind, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
    """Report texts that are likely not what their export meant, and those that are asked about in several splits.

    Which splits a public release has is its publisher's choice.
    """
    every = [one for some in splits.values() for one in some]
    is_own = kind.task.format in kind.formats
    fix = "export them anew" if is_own else "compare them with the files as published"
    sides = [{one.text for one in every}, {one.text_pair for one in every if one.text_pair}]
    texts = sides[0] | sides[1]
    for what, applies in ODD_TEXTS.items():
        if number := sum(map(applies, texts)):
            findings.remark(f"{number:,} texts hold {what}: {fix}, as models read them as they are")
    for number, length, unit in filter(None, map(cut_length, sides)):
        findings.remark(f"{number:,} texts have {length:,} {unit}, and none has more: were they cut at export?")
    if not is_own:
        return
    if not kind.example_is_document:
        keys = Counter(key for some in splits.values() for key in {text_key(one.text) for one in some})
        if shared := sum(number > 1 for number in keys.values()):
            findings.remark(f"{shared:,} texts are in more than one split, whatever is asked about them there")
    if kind.task.format == "records" and kind.task.columns.id:
        begun = Counter(
            key for some in splits.values() for key in {(one.id, text_key(one.text[:_BEGINNING])) for one in some}
        )
        if again := sum(number > 1 for number in begun.values()):
            findings.remark(f"{again:,} ids are in more than one split, with texts that begin alike")


def _remark_on_copies(kind: Kind, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
    """Report splits that are for the most part copies of an earlier one; single sentences may well repeat."""
    if kind.task.format not in kind.formats:
        return
    earlier: set[tuple[bytes, bytes]] = set()
    for split, examples in splits.items():
        keys = [(text_key(one.text), text_key(one.text_pair or "")) for one in examples]
        copies = sum(key in earlier for key in keys)
        if copies >= _MANY_COPIES and 2 * copies > len(keys):
            findings.remark(
                f"{copies:,} of {len(keys):,} examples of {split} are in an earlier split, too: what is measured there "
                "is how well they are known by heart"
            )
        earlier.update(keys)


def _remark_on_patients(splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
    """Report patients in several splits, by a column that the task does not name, or not for that."""
    sides = Counter(found for some in splits.values() for found in {one.likely_patient for one in some} if found)
    if shared := [column for (column, _), number in sides.items() if number > 1]:
        findings.remark(
            f"{len(shared):,} values of column {shared[0]!r}, which seem to be patients, are in more than one split: "
            "name it by group_column"
        )


def _refuse_odd_labels(kind: Kind, labels: set[str], num_examples: int, findings: Findings) -> None:
    """Labels are printed where texts never are, so that those that nobody has listed must not be texts."""
    task = kind.task
    if any(len(label) > MAX_LABEL_CHARACTERS or _CONTROL.search(label) for label in labels):
        raise DataError(
            f"task {task.name}: a label has a line break or another control character, or more than "
            f"{MAX_LABEL_CHARACTERS} characters, so it is likely a text; check columns.label"
        )
    kind.check_found_labels(sorted(labels), num_examples)
    shortened, decimal = sorted(labels & findings.shortened), sorted(filter(_DECIMAL.fullmatch, labels))
    if shortened and decimal:  # codes, of which pandas made no floats
        raise DataError(
            f"task {task.name}: labels must be read as they are spelled, got '{shortened[0]}.0', which beside "
            f"{decimal[0]!r} is no whole number; list each in labels, as the files spell it"
        )
    if odd := sorted(_spelled_missing(labels, several=task.multi_label) - set(task.label_map.values())):
        raise DataError(
            f"task {task.name}: {odd[0]!r} is where a label should be; map it to null by label_map where it means a "
            "missing value, or list it in labels"
        )
    for alike in _alike(labels):
        looks = {unicodedata.normalize("NFC", one).translate(_SAME_LETTER) for one in alike}
        shown = map(ascii if len(looks) < len(alike) else repr, alike)
        raise DataError(
            f"task {task.name}: labels must differ by more than case, blanks and spelling, got "
            f"{' and '.join(shown)}; map them to one by label_map, or list each in labels where they are different"
        )


def _spelled_missing(labels: set[str], *, several: bool) -> set[str]:
    """Labels that stand for none: as a CSV, SNLI (`-`) and, among numbers of classes, `datasets` and PyTorch do.

    Among numbers, where all others say yes or no, and where a text can have none of `several`, words such as `None` do,
    too.
    """
    among_numbers = all(label.isdecimal() for label in labels - _NO_CLASS)
    words = {label for label in labels if label.casefold() in _NONE}
    others = {label.casefold() for label in labels - words}
    if not several and not (others and all(label.isdecimal() or label in _YES_OR_NO for label in others)):
        words = set()
    marks = {label for label in labels if _NO_LABEL.fullmatch(label)}
    return marks | words | (labels & (SPELLED_MISSING | (_NO_CLASS if among_numbers else set())))


def _alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that a reader would take for one.

    They differ by case, blanks or what joins words in their place, characters that nobody sees, accents, letters of
    other alphabets that look alike, the way to write a number, quotation marks around them, kinds of hyphens and
    apostrophes, a full stop or comma behind them, or by the way to say yes or no.
    """
    groups = defaultdict(list)
    for label in sorted(labels):
        plain = unicodedata.normalize("NFKD", label.translate(_SAME_MARK)).translate(_SAME_LETTER)
        plain = _ACCENT.sub("", plain).casefold()
        seen = "".join(one for one in plain if not one.isspace() and unicodedata.category(one) != "Cf")
        seen = _FORMULA.sub(r"\1", seen)
        bare = _BETWEEN_WORDS.sub("", seen.strip("\"'").rstrip(".,;:") or seen) or seen
        bare = _as_number(bare)
        groups[_YES_OR_NO.get(bare, bare)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _as_number(text: str) -> str:
    """A number without sign, zeros and marks of thousands that do not change it; other texts as they are."""
    number = _NUMBER.fullmatch(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    if number is None:
        return text
    whole, decimals = number[1].lstrip("0") or "0", (number[2] or "").rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole
