"""Refusals of labels that nobody has listed: texts, ways to say no label, and two spellings of one."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from clinscale.cells import SPELLED_MISSING
from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import Kind

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

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Line breaks and other characters that no name of a label holds."""

_MAX_LABEL_CHARACTERS = 100
"""A longer label is surely a text: the columns are mixed up."""


def refuse_labels_of_one_split(kind: Kind, splits: Mapping[str, Sequence[Example]]) -> None:
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


def refuse_odd_labels(kind: Kind, labels: set[str], num_examples: int, findings: Findings) -> None:
    """Labels are printed where texts never are, so that those that nobody has listed must not be texts."""
    task = kind.task
    if any(len(label) > _MAX_LABEL_CHARACTERS or _CONTROL.search(label) for label in labels):
        raise DataError(
            f"task {task.name}: a label has a line break or another control character, or more than "
            f"{_MAX_LABEL_CHARACTERS} characters, so it is likely a text; check columns.label"
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
