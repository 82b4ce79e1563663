"""Annotated invented notes: entities for brat, questions for SQuAD, premise and hypothesis pairs."""

import random
from typing import Any

from clinscale.synthetic.sentences import Passage, fill, join, section, sections
from clinscale.synthetic.vocabulary import PROBLEMS, TESTS, TREATMENTS

ENTITY_TYPES = ("problem", "treatment", "test")
"""The slots that are entities."""

STATEMENTS = (
    ("The patient has {x}.", "The patient does not have {x}.", PROBLEMS),
    ("On arrival there was {x}.", "On arrival there was no {x}.", PROBLEMS),
    ("The patient takes {x} at home.", "The patient does not take {x} at home.", TREATMENTS),
    ("The {x} was performed.", "The {x} was not performed.", TESTS),
)
"""(affirmed, denied, what is filled in)."""
UNRELATED = (
    "The {family} lives {home}.",
    "The patient worked as a {work}.",
    "The {family} of the patient is a {work}.",
    "The patient may go home on {day}.",
)
"""Hypotheses that no premise here mentions."""


def pair(rng: random.Random, label: str) -> dict[str, str]:
    """`premise`, `hypothesis` and `label`; affirmed or denied statements, so that both sides must be read."""
    affirmed, denied, fillings = rng.choice(STATEMENTS)
    values = {"x": rng.choice(fillings)}
    premise, opposite = (affirmed, denied) if rng.random() < 0.7 else (denied, affirmed)
    hypothesis = {"entailment": premise, "contradiction": opposite, "neutral": rng.choice(UNRELATED)}[label]
    first = fill(rng, "The patient is a {age} year old {sex}.")
    return {
        "premise": join([first, fill(rng, premise, values)]).text,
        "hypothesis": fill(rng, hypothesis, values).text,
        "label": label,
    }


def entity_note(rng: random.Random) -> Passage:
    """100 to 250 words with their gold entities as spans."""
    note = sections(rng, rng.randint(100, 200))
    return Passage(note.text, tuple(span for span in note.spans if span.slot in ENTITY_TYPES))


def brat(note: Passage) -> str:
    """The `.ann` file of a note: `T1<TAB>problem 10 20<TAB>surface`."""
    lines = [
        f"T{number}\t{span.slot} {span.start} {span.end}\t{note.text[span.start : span.end]}\n"
        for number, span in enumerate(note.spans, 1)
    ]
    return "".join(lines)


def squad_paragraph(rng: random.Random, name: str) -> dict[str, Any]:
    """One context of 150 to 300 words with questions on dose, frequency and date, each answered by one place."""
    drugs = rng.sample(TREATMENTS, 4)
    test = rng.choice(TESTS)
    given = [
        fill(rng, "The patient was given {treatment} {dose} {frequency}.", {"treatment": d}) for d in drugs[:3]
    ]
    # The asked-for facts are in a paragraph of their own: no other sentence names a dose or performs a test.
    facts = join([*given, fill(rng, "The {test} was performed on {day}.", {"test": test})])
    headings = [
        "HISTORY OF PRESENT ILLNESS",
        "PAST MEDICAL HISTORY",
        "SOCIAL AND FAMILY HISTORY",
        "HOSPITAL COURSE",
    ]
    rng.shuffle(headings)
    filler = [section(rng, heading, rng.randint(3, 4)) for heading in headings]
    place = rng.randint(0, len(filler))
    before, after = filler[:place], filler[place:]
    context = join([*before, facts, *after], "\n")
    start = len(join([*before, Passage("")], "\n").text)
    dose, frequency, last_day = (
        [s for s in facts.spans if s.slot == slot] for slot in ("dose", "frequency", "day")
    )
    asked = [(f"What dose of {drug} was given?", span) for drug, span in zip(drugs, dose, strict=False)]
    asked.append((f"How often was {drugs[0]} given?", frequency[0]))
    asked.append((f"When was the {test} performed?", last_day[0]))
    questions = [
        {
            "id": f"{name}-{number}",
            "question": question,
            "is_impossible": False,
            "answers": [{"text": facts.text[span.start : span.end], "answer_start": start + span.start}],
        }
        for number, (question, span) in enumerate(asked)
    ]
    if rng.random() < 0.25:
        questions.append(
            {
                "id": f"{name}-none",
                "question": f"What dose of {drugs[3]} was given?",
                "is_impossible": True,
                "answers": [],
            }
        )
    return {"context": context.text, "qas": questions}
