"""Entities counted as official scorers count them; they differ on duplicates, overlaps and parts of words."""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from clinscale.tasks.example import Entity, Example
from clinscale.tasks.kinds.file_words import words_of_file
from clinscale.tasks.kinds.words import tag_words

_EARLIER_WORD = re.compile(r"[^\W\d_]+|\d+|(?:[^\w\s]|_)+")

OVERALL = 5
"""Counts of entities of all types; those of each type follow."""

Counted = tuple[Collection[Entity], Collection[Entity], Collection[Entity]]
"""The right predictions, all predictions that count, and the gold."""


def count_entities(scorer: str, example: Example, found: Sequence[Entity], labels: Sequence[str]) -> list[int]:
    """Counts that compare the entities `found` in `example` with its gold, by the rules of `scorer`.

    Right, predicted, gold; predicted that overlap gold, gold that is overlapped; then right, predicted and gold of
    each label.
    """
    rules = ENTITY_SCORERS[scorer]
    gold: Sequence[Entity] = example.entities
    if rules.units is not None:
        units = rules.units(example)
        gold, found = _in_units(units, gold), _in_units(units, found)
    counted = rules.count(gold, found)
    predicted = counted[1]
    if not rules.overlap_needs_type:
        gold, predicted = _untyped(gold), _untyped(predicted)
    reach = rules.least_reach
    near = (_num_overlapped(predicted, gold, reach), _num_overlapped(gold, predicted, reach))
    by_label = [sum(one.label == label for one in some) for label in labels for some in counted]
    return [*map(len, counted), *near, *by_label]


def _in_units(units: Sequence[tuple[int, int]], entities: Iterable[Entity]) -> list[Entity]:
    """Each entity as the numbers [first, last + 1) of the units that it touches; the first that touches one has it."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [Entity(first, last + 1, label) for label, first, last in get_entities(tag_words(units, entities))]


def _each_once(gold: Sequence[Entity], found: Sequence[Entity]) -> Counted:
    return set(gold) & set(found), set(found), gold


def _wrong_each_time(gold: Sequence[Entity], found: Sequence[Entity]) -> Counted:
    """A right answer given twice counts once, a wrong one twice."""
    right = set(gold) & set(found)
    return right, [*right, *(one for one in found if one not in right)], gold


def _every_time(gold: Sequence[Entity], found: Sequence[Entity]) -> Counted:
    """A right answer given twice is one too many."""
    return set(gold) & set(found), found, gold


def _gold_met_once(gold: Sequence[Entity], found: Sequence[Entity], *, lenient: bool) -> Counted:
    """A prediction that meets gold which an earlier one has met does not count, neither as right nor as wrong."""
    of_label: defaultdict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(gold):
        of_label[one.label].append(number)
    met: set[int] = set()
    right: list[Entity] = []
    wrong: list[Entity] = []
    for one in found:
        meets = [
            number
            for number in of_label[one.label]
            if one == gold[number] or (lenient and one.start < gold[number].end and gold[number].start < one.end)
        ]
        if met.isdisjoint(meets):
            (right if meets else wrong).append(one)
        met.update(meets)
    return right, [*right, *wrong], gold


def _strict_n2c2(gold: Sequence[Entity], found: Sequence[Entity]) -> Counted:
    return _gold_met_once(gold, found, lenient=False)


def _lenient_n2c2(gold: Sequence[Entity], found: Sequence[Entity]) -> Counted:
    return _gold_met_once(gold, found, lenient=True)


def _untyped(entities: Iterable[Entity]) -> list[Entity]:
    return [Entity(one.start, one.end, "") for one in entities]


def _num_overlapped(entities: Iterable[Entity], others: Iterable[Entity], least_reach: int) -> int:
    """Number of entities that overlap one of `others` of their type.

    One that begins earlier must reach `least_reach` into them.
    """
    of_label: defaultdict[str, list[Entity]] = defaultdict(list)
    for other in sorted(others):
        of_label[other.label].append(other)
    starts = {label: [one.start for one in ordered] for label, ordered in of_label.items()}
    furthest: dict[str, list[int]] = {}  # where the first n of a label end at the latest
    for label, ordered in of_label.items():
        ends = furthest[label] = [-1]
        for one in ordered:
            ends.append(max(ends[-1], one.end))

    def is_overlapped(one: Entity) -> bool:
        if one.label not in starts:
            return False
        at = bisect_left(starts[one.label], one.start)
        begins_inside = at < len(starts[one.label]) and starts[one.label][at] < one.end
        return begins_inside or furthest[one.label][at] >= one.start + least_reach

    return sum(map(is_overlapped, entities))


@dataclass(frozen=True)
class EntityScorer:
    """The rules of one scorer."""

    about: str
    """The script whose scores these equal, and what is special about it."""
    count: Callable[[Sequence[Entity], Sequence[Entity]], Counted] = _each_once
    """(gold, predictions) -> what counts for F1, precision and recall."""
    units: Callable[[Example], Sequence[tuple[int, int]]] | None = None
    """The words whose numbers are compared; None: characters are."""
    overlap_needs_type: bool = True
    """Whether relaxed F1 requires equal types."""
    least_reach: int = 1
    """Least overlap for relaxed F1: characters that an entity which begins earlier must reach into the other."""


ENTITY_SCORERS = {
    "characters": EntityScorer(
        "the same characters and type, each prediction counted once; the rule of i2b2 2014, MEDDOCAN and nervaluate"
    ),
    "i2b2_2014": EntityScorer("the official script of i2b2 2014, track 1: strict micro F1 over all its PHI types"),
    "meddocan": EntityScorer("the official script of MEDDOCAN, subtrack 1 (NER): micro F1"),
    "bc5cdr": EntityScorer(
        "the official kit of BioCreative V CDR: mentions; a wrong mention given twice is wrong twice",
        _wrong_each_time,
    ),
    "n2c2_2018": EntityScorer(
        "the official script of n2c2 2018, track 2: strict micro F1 of entities; a prediction repeated is ignored",
        _strict_n2c2,
    ),
    "n2c2_2018_lenient": EntityScorer(
        "the official script of n2c2 2018, track 2: lenient micro F1, where overlap and type are enough; further "
        "predictions on gold that is met already are ignored",
        _lenient_n2c2,
    ),
    "i2b2_2010": EntityScorer(
        "the same words between white space and type, as concepts of i2b2 2010 count them (exact; its script is not "
        "public)",
        units=words_of_file,
    ),
    "i2b2_2012": EntityScorer(
        "relaxed_f1 equals the EVENT F measure of the official script of i2b2 2012 (spans that overlap, of any type); "
        "f1 asks for the same characters and type, which that script does not",
        _every_time,
        overlap_needs_type=False,
        least_reach=2,
    ),
    "seqeval": EntityScorer("seqeval's and conlleval's micro F1 on the file's own tokens", units=words_of_file),
    "words": EntityScorer(
        "seqeval's on runs of letters, digits or marks, to which spans are widened: how clinscale scored until "
        "scorers could be chosen",
        units=lambda example: [match.span() for match in _EARLIER_WORD.finditer(example.text)],
    ),
}
"""Name in a task's `scorer` -> its rules."""
