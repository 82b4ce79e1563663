"""Task files to TaskData: read each split, split a single source, settle the labels, count what was odd."""

from collections import Counter
from collections.abc import Callable

from clinscale.errors import DataError
from clinscale.storage import join
from clinscale.tasks.example import Example, TaskData, count_repeats, data_fingerprint
from clinscale.tasks.readers.bio import read_bio
from clinscale.tasks.readers.brat import read_brat
from clinscale.tasks.readers.records import read_rows
from clinscale.tasks.readers.squad import read_squad
from clinscale.tasks.split import split_by_group
from clinscale.tasks.task import SPLITS, TaskConfig

_READERS: dict[str, Callable[[TaskConfig, str, Counter[str]], list[Example]]] = {
    "records": read_rows,
    "bio": read_bio,
    "brat": read_brat,
    "squad": read_squad,
}
"""Format -> (task, path, counts to add to) -> examples."""

MAX_LABEL_CHARACTERS = 100
"""A longer label is surely a text: the columns are mixed up, and labels are printed where texts never are."""


def read_task(task: TaskConfig, data: str) -> TaskData:
    """Read all splits of `task` from the folder `data`, local or remote.

    Raises:
        DataError: a file is missing or malformed, a split is empty, or a label is unknown.
    """
    counts: Counter[str] = Counter()
    read = _READERS[task.format]
    sources = {split: tuple(read(task, join(data, path), counts)) for split, path in task.splits.items()}
    if task.split_ratios:
        sources = split_by_group(sources["all"], task.split_ratios, task.seed)
    splits = {split: sources[split] for split in SPLITS}
    for split, examples in splits.items():
        if not examples:
            raise DataError(f"task {task.name}: split {split} below {data} has no example; give it data")
    labels = _settle_labels(task, splits)
    counts += count_repeats(splits)  # drops zero counts
    return TaskData(task, splits, labels, data_fingerprint(splits, labels), dict(sorted(counts.items())))


def _settle_labels(task: TaskConfig, splits: dict[str, tuple[Example, ...]]) -> tuple[str, ...]:
    """The task's own labels, or those found in any split; all found ones must be among the task's own."""
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
    if strange := found - set(known):
        raise DataError(
            f"task {task.name}: {len(strange)} labels in the files are not among {', '.join(known)}; "
            "add them to labels, or correct the files"
        )
    if task.kind in ("sequence", "pair") and not task.multi_label and len(known) < 2:
        raise DataError(f"task {task.name}: at least two labels are needed, found {len(known)}; check the labels")
    if task.kind == "tokens" and not known:
        raise DataError(f"task {task.name}: no entity in any split; check the annotations")
    return known
