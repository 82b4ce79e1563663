"""Pretraining notes, and long documents whose label is decided only after their first 512 tokens."""

import random

from clinscale.synthetic.sentences import Passage, fill, join, sections
from clinscale.synthetic.vocabulary import DIAGNOSES, SERVICES

EVIDENCE = (
    "Discharge diagnosis is {diagnosis}.",
    "The whole course is explained by {diagnosis} with {second}.",
    "Findings confirm {diagnosis}, and {second} remains the main concern.",
    "Please see {clinic} in clinic to review {diagnosis}.",
    "Return at once if signs of {diagnosis} come back.",
    "The {clinic} service follows the patient for {second}.",
    "Family was taught about {diagnosis} before leaving.",
)
"""Sentences of the closing section, which alone decides the label."""

UNINFORMATIVE_WORDS = 520
"""Words before the evidence: a byte-level tokenizer makes at least one token per word, so more than 512 tokens."""


def closing_section(rng: random.Random, label: str) -> Passage:
    """`FINAL DIAGNOSIS AND DISPOSITION`: twenty sentences, about 190 words, in the words of one label only."""
    body = []
    for _ in range(20):
        diagnosis, second = rng.sample(DIAGNOSES[label], 2)
        values = {"diagnosis": diagnosis, "second": second, "clinic": SERVICES[label]}
        body.append(fill(rng, rng.choice(EVIDENCE), values))
    return join([Passage("FINAL DIAGNOSIS AND DISPOSITION:"), *body])


def pretraining_note(rng: random.Random) -> str:
    """150 to 1,200 words; half of the notes close with a diagnosis, so that the encoder meets those words too."""
    note = sections(rng, rng.randint(150, 930))
    if rng.random() < 0.5:
        note = join([note, closing_section(rng, rng.choice(list(DIAGNOSES)))], "\n")
    return note.text


def labelled_document(rng: random.Random, label: str) -> str:
    """About 730 words; all before the closing section is drawn without looking at the label."""
    front = sections(rng, UNINFORMATIVE_WORDS + rng.randint(0, 20))
    return join([front, closing_section(rng, label)], "\n").text


def balanced_labels(rng: random.Random, count: int) -> list[str]:
    """`count` labels, each as often as the others (to one), in random order."""
    labels = list(DIAGNOSES)
    drawn = [labels[position % len(labels)] for position in range(count)]
    rng.shuffle(drawn)
    return drawn
