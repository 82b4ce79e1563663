"""Templates to passages: invented clinical sentences that remember where each slot's filling is."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter

from clinscale.synthetic.vocabulary import SLOTS

SECTIONS: dict[str, tuple[str, ...]] = {
    "HISTORY OF PRESENT ILLNESS": (
        "This is a {age} year old {sex} who presented with {problem} for {duration}.",
        "The patient reports {problem} that began {duration} ago and is not relieved by {treatment}.",
        "There is no history of {problem}, and the patient denies {problem}.",
        "Symptoms became worse on {day} and the family brought the patient to the emergency department.",
    ),
    "PAST MEDICAL HISTORY": (
        "Past history is notable for {problem}, {problem} and {problem}.",
        "The patient was treated for {problem} with {treatment} in the past.",
        "A prior {test} was {result}.",
    ),
    "SOCIAL AND FAMILY HISTORY": (
        "The patient lives {home} and worked as a {work}.",
        "The {family} had {problem}.",
        "There is no use of tobacco, and alcohol is taken on rare occasions.",
    ),
    "VITAL SIGNS": (
        "Blood pressure {pressure}, heart rate {rate}, temperature {temperature}.",
        "Oxygen saturation was {saturation} percent on room air with a heart rate of {rate}.",
        "On {day} the heart rate was {rate} and the blood pressure was {pressure}.",
    ),
    "MEDICATIONS": (
        "The patient was given {treatment} {dose} {frequency}.",
        "{treatment} {dose} {frequency} was continued for {problem}.",
        "We started {treatment} {dose} {frequency} on {day}.",
    ),
    "RESULTS": (
        "The {test} was {result}.",
        "The {test} on {day} was {result} and showed no sign of {problem}.",
        "We repeated the {test} because of {problem}.",
    ),
    "HOSPITAL COURSE": (
        "The patient was treated with {treatment} for {problem} and improved by {day}.",
        "For {problem} we continued {treatment} and followed the {test}.",
        "The {service} team was consulted, saw the patient on {day} and signed off.",
        "The patient slept well, ate breakfast and walked with physical therapy on {day}.",
        "Nursing staff noted {problem} overnight, and {treatment} was given with good effect.",
    ),
}
"""Section heading -> the templates that its body is drawn from."""


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a passage, filled into the slot `slot`."""

    start: int
    end: int
    slot: str


@dataclass(frozen=True)
class Passage:
    """Text and the spans of its filled slots."""

    text: str
    spans: tuple[Span, ...] = ()

    @property
    def num_words(self) -> int:
        """Pieces between white space."""
        return len(self.text.split())


def fill(rng: random.Random, template: str, values: Mapping[str, str] | None = None) -> Passage:
    """Fill the template's slots from `values`, else by chance; a sentence starts with a capital letter."""
    text, spans = "", []
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is None:
            continue
        filling = values[slot] if values and slot in values else rng.choice(SLOTS[slot])
        if not text:
            filling = filling[0].upper() + filling[1:]
        spans.append(Span(len(text), len(text) + len(filling), slot))
        text += filling
    return Passage(text, tuple(spans))


def join(passages: Iterable[Passage], separator: str = " ") -> Passage:
    """One passage of several, the spans moved along."""
    text, spans = "", []
    for passage in passages:
        text += separator if text else ""
        spans += [Span(len(text) + s.start, len(text) + s.end, s.slot) for s in passage.spans]
        text += passage.text
    return Passage(text, tuple(spans))


def section(rng: random.Random, heading: str, num_sentences: int) -> Passage:
    """A heading and sentences drawn from its templates."""
    body = [fill(rng, rng.choice(SECTIONS[heading])) for _ in range(num_sentences)]
    return join([Passage(f"{heading}:"), *body])


def sections(rng: random.Random, num_words: int) -> Passage:
    """Sections in random order, going round again as needed, of at least `num_words` words; one per line."""
    parts: list[Passage] = []
    written = 0
    while written < num_words:
        for heading in rng.sample(list(SECTIONS), len(SECTIONS)):
            part = section(rng, heading, rng.randint(1, 3))
            parts.append(part)
            written += part.num_words
            if written >= num_words:
                break
    return join(parts, "\n")
