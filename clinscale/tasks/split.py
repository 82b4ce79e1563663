"""One source into train, dev and test, so that nothing of a group is on two sides."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

from clinscale.cells import as_id
from clinscale.errors import DataError
from clinscale.records import read_text
from clinscale.tasks.example import Example, text_key
from clinscale.tasks.findings import Findings
from clinscale.tasks.task import SPLITS

_SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("validation", "validate", "valid", "val", "devel", "development"), "dev"),
}
"""Names of splits in data sets -> ours."""

_QUOTED = re.compile(r"""^(?:="(.*)"|'(.*))$""")
"""An id that a CSV protects from Excel, which would take it for a number."""


def split_by_group(
    examples: Sequence[Example], ratios: tuple[float, float, float], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Split by `ratios` of examples, as near as whole groups allow.

    Examples belong together as `group_numbers` says. Groups are ordered by a hash of `seed` and their content, so the
    order of the files does not matter.
    """
    groups = sorted(_groups(examples), key=lambda group: _order(group, seed))
    bounds = (ratios[0] * len(examples), (ratios[0] + ratios[1]) * len(examples))
    sides: dict[str, list[Example]] = {split: [] for split in SPLITS}
    placed = 0
    for group in groups:
        middle = placed + len(group) / 2
        sides[SPLITS[sum(middle >= bound for bound in bounds)]] += group
        placed += len(group)
    return {split: tuple(side) for split, side in sides.items()}


def split_by_column(examples: Sequence[Example], task: str) -> dict[str, tuple[Example, ...]]:
    """Split by what `Example.split` says; DataError names a value that is no split."""
    sides: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        split = _SPLIT_NAMES.get((example.split or "").casefold())
        if split is None:
            known = ", ".join(_SPLIT_NAMES)
            raise DataError(
                f"task {task}: the split column of {example.name} must hold one of {known}; correct it"
            )
        sides[split].append(example)
    return {split: tuple(side) for split, side in sides.items()}


def keep_groups_apart(
    sides: Mapping[str, Sequence[Example]], findings: Findings
) -> dict[str, tuple[Example, ...]]:
    """The given splits without examples whose group is also in a later split, so that test stays complete.

    Raises:
        DataError: there is such an example, unless the task skips it.
    """
    later: dict[str | None, str] = {}
    apart = {}
    for split in reversed(SPLITS):
        kept = []
        for example in sides[split]:
            if other := later.get(example.group):
                place = f"{split} example {example.name}"
                fix = f"keep its patient, who is in {other}, in one split"
                findings.reject("patient or group is in two splits", place, fix)
            else:
                kept.append(example)
        later |= {example.group: split for example in kept if example.group is not None}
        apart[split] = tuple(kept)
    return {split: apart[split] for split in SPLITS}


def refuse_alike_groups(sides: Mapping[str, Sequence[Example]]) -> None:
    """DataError where groups differ only by case, zeros in front or blanks: some file changed them.

    One patient would be two.
    """
    first: dict[str, Example] = {}
    for example in (one for examples in sides.values() for one in examples):
        if (group := example.group) is not None:
            plain = _plain(group)
            if (other := first.setdefault(plain, example)).group != group:
                raise DataError(
                    f"examples {other.name} and {example.name} are of patients or groups whose ids differ only by case "
                    "or zeros in front, blanks or characters that nobody sees; spell the id of each patient one way"
                )


def _plain(group: str) -> str:
    if not group.isascii():
        group = unicodedata.normalize("NFKC", group)
        group = "".join(one for one in group if unicodedata.category(one) not in ("Cc", "Cf"))
    group = _QUOTED.sub(r"\1\2", "".join(group.split()))
    return group.lstrip("0") if group.isdecimal() else group.lower() if group.isupper() else group


def read_ids(uri: str, encoding: str = "utf-8") -> dict[str, str]:
    """The ids in a text file, one a line, and the line that each is on."""
    lines = enumerate(read_text(uri, encoding).splitlines(), 1)
    found = ((as_id(line, "id"), f"{uri} line {number}") for number, line in lines)
    return {id: place for id, place in found if id is not None}


def split_by_ids(
    examples: Sequence[Example], ids: Mapping[str, Mapping[str, str]], findings: Findings, *, by_group: bool
) -> dict[str, tuple[Example, ...]]:
    """Split by lists of ids: of each split, ids and where they are listed, as `read_ids` gives them.

    Ids are of the group (a patient) with `by_group`, else of the example. What is in no list is left out.

    Raises:
        DataError: an id is listed for two splits; or, unless the task skips it, is that of no example.
    """
    side_of: dict[str, str] = {}
    for split, places in ids.items():
        for id, place in places.items():
            if other := side_of.get(id):
                raise DataError(f"{place} names an id that is at {ids[other][id]} too; keep it in one split")
            side_of[id] = split
    sides: dict[str, list[Example]] = {split: [] for split in SPLITS}
    met = set()
    for example in examples:
        id = example.group if by_group and example.group is not None else example.id
        if id in side_of:
            met.add(id)
            sides[side_of[id]].append(example)
        else:
            findings.leave_out("in no file of split_ids")
    for id, split in side_of.items():
        if id not in met:
            findings.reject("id of no example", ids[split][id], "correct or remove the line")
    return {split: tuple(side) for split, side in sides.items()}


def hold_out(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(what stays, what is held out): about `share` of the examples, in whole groups as in `split_by_group`."""
    sides = split_by_group(examples, (1 - share, share, 0.0), seed)
    return sides["train"], sides["dev"] + sides["test"]


def group_numbers(examples: Sequence[Example]) -> list[int]:
    """Number of each example's group: examples of one text or group have one, directly or through others.

    Texts are compared as in `text_key`. Those of parts of a document are not, as most documents share some line.
    """
    parent = list(range(len(examples)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_with: dict[bytes | str, int] = {}
    for number, example in enumerate(examples):
        keys: list[bytes | str] = [] if example.is_part else [text_key(example.text)]
        for key in keys if example.group is None else [*keys, example.group]:
            parent[root(number)] = root(first_with.setdefault(key, number))
    roots = [root(number) for number in range(len(examples))]
    numbers = {of: number for number, of in enumerate(dict.fromkeys(roots))}
    return [numbers[of] for of in roots]


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    groups: defaultdict[int, list[Example]] = defaultdict(list)
    for number, example in zip(group_numbers(examples), examples, strict=True):
        groups[number].append(example)
    return list(groups.values())


def _order(group: Sequence[Example], seed: int) -> str:
    # documents may share their smallest sentence, and the groups that they are are named by their content
    smallest = min(example.group if example.group and example.is_part else example.text for example in group)
    return hashlib.sha256(f"{seed}\n{smallest}".encode()).hexdigest()
