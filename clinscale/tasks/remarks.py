"""Remarks on the examples of a task that are read as they are and likely mean something else."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from clinscale.records import ODD_NAMES, ODD_TEXTS, cut_length
from clinscale.tasks.example import Example, text_key
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import Kind
from clinscale.tasks.split import group_numbers
from clinscale.tasks.task import SPLITS

_NEAR_ENOUGH, _LARGE_GROUP = 0.1, 10
"""Difference of a split's share from that asked for, and examples of one group, that call for no remark."""

_MANY_COPIES = 10
"""Number of copies in two splits that are no chance."""

_BEGINNING = 60
"""Characters that show, beside an id, that two texts are versions of one."""


def remark_on_shares(
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


def remark_on_labels(kind: Kind, labels: Iterable[str], findings: Findings) -> None:
    """Report names of labels that are likely not what their export meant, in data of one's own."""
    if kind.task.format not in kind.formats:
        return
    for what, applies in ODD_NAMES.items():
        if odd := sorted(filter(applies, labels)):
            findings.remark(
                f"label {', '.join(map(repr, odd))} holds {what}: map it by label_map, or export it anew"
            )


def remark_on_unlearnable(kind: Kind, splits: Mapping[str, Iterable[Example]], findings: Findings) -> None:
    """Report labels that are scored and that no training example has."""
    met = {
        split: {label for one in examples for label in kind.labels_of(one)} for split, examples in splits.items()
    }
    if unseen := sorted(set().union(*met.values()) - met["train"]):
        names = ", ".join(map(repr, unseen))
        findings.remark(f"no training example has label {names}, which dev or test has: no model can learn it")


def remark_on_texts(kind: Kind, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
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


def remark_on_copies(kind: Kind, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
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


def remark_on_patients(splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
    """Report patients in several splits, by a column that the task does not name, or not for that."""
    sides = Counter(found for some in splits.values() for found in {one.likely_patient for one in some} if found)
    if shared := [column for (column, _), number in sides.items() if number > 1]:
        findings.remark(
            f"{len(shared):,} values of column {shared[0]!r}, which seem to be patients, are in more than one split: "
            "name it by group_column"
        )
