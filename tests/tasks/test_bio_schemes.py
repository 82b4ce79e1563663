"""Tags of any scheme, ill-formed ones too, mean to us what they mean to seqeval."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from clinscale.tasks.readers.bio import entities_of_tags, read_tag


def spans_of(tags):
    """(label, first token, last token); tokens are of one character."""
    found = entities_of_tags(["x"] * len(tags), [read_tag(tag) for tag in tags])
    return [(entity.label, entity.start // 2, (entity.end - 1) // 2) for entity in found]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-A E-A S-A", [("A", 0, 1), ("A", 2, 2)]),
        ("E-B I-A", [("B", 0, 0), ("A", 1, 1)]),
        ("S-A I-A", [("A", 0, 0), ("A", 1, 1)]),
        ("B-A E-A I-A", [("A", 0, 1), ("A", 2, 2)]),
        ("E-A E-A", [("A", 0, 0), ("A", 1, 1)]),
        ("I-A I-A O E-A", [("A", 0, 1), ("A", 3, 3)]),
    ],
)
def test_an_entity_goes_on_only_behind_what_is_open(tags, spans):
    assert spans_of(tags.split()) == spans


def test_random_tags_are_read_as_by_seqeval():
    chance = random.Random(0)
    tags = ["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in "AB")]
    for _ in range(2000):
        drawn = chance.choices(tags, k=chance.randint(1, 9))
        assert spans_of(drawn) == get_entities(drawn), drawn
