"""emrQA: questions on clinical notes, generated from the annotations of the i2b2 challenges.

    data.json ──clean, find answers──▶ notes ──split by note──▶ train, dev, test ──sample train──▶ examples

The defaults are the preparation that the paper names, CliniRC's. Where its output already lies in the folder instead of
`data.json` (`medication-train.json` and so on), that is read as it is.
"""

import bisect
import codecs
import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import ijson  # type: ignore[import-untyped]
from pydantic import Field

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import open_binary
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import INSIDE_WORD, whole_words
from clinscale.tasks.readers.squad import NO_ANSWER, answers_of

_NUM_NOTES = {"medication": 261, "relations": 425, "risk-dataset": 119}

_TRAIN_SHARE, _DEV_SHARE = 0.7, 0.1
"""Of the notes, rounded down; the other notes are the test set."""

_SHUFFLED_BEFORE = {"relations": _NUM_NOTES["medication"]}
"""CliniRC shuffles the notes of medication and then, by the same generator, those of relations. Heart disease, which it
does not read, has a generator of its own here."""

_PREPARED = {"medication": "medication", "relations": "relation", "risk-dataset": "risk-dataset"}
"""Subset -> how the names of CliniRC's files begin."""

MALFORMED = "note, question or answer not as emrQA defines it"
REPEATED = "id occurs several times"
EMPTY = "answer without text"
COMPLEX = "answer of several parts"
NOT_FOUND = "answer not in its note"
SHORTENED = "shortened from the right until found"
AT_START = "answer at the start of its note"
TOO_LONG = "answer of too many words"


class EmrqaOptions(Config):
    """How notes, questions and answers are prepared; the defaults are CliniRC's, except where said."""

    subset: Literal["medication", "relations", "risk-dataset"] = "medication"
    """Title of the subset in `data.json`; `risk-dataset` is heart disease. Smoking and obesity, whose answers are not
    in the text, cannot be read."""

    clean: Literal["clinirc", "none"] = "clinirc"
    """`clinirc` puts a note on one line without underscores, HTML entities, double quotes, blanks before punctuation
    and repeated punctuation; `none` leaves it, lines included, as it is, for models that should see real notes."""

    answer: Literal["auto", "evidence", "entity"] = "auto"
    """The evidence is the line that holds the answer, the entity the annotated words in it. `auto` is the evidence, as
    in the paper's pipeline, but for `risk-dataset` the entity, for which a dead branch of CliniRC's code speaks."""

    complex_answers: Literal["skip", "parts"] = "skip"
    """Answers whose parts are right only together: `parts` would accept each part alone, so they are skipped."""

    occurrence: Literal["nearest", "first"] = "nearest"
    """Which of several equal passages is meant. The one nearest to the annotated line, unlike CliniRC, which takes the
    first of the note, often in another section."""

    shorten: bool = True
    """Whether an answer that is not in the note word for word loses words from its end until it is found; so evidence
    from lines that do not adjoin becomes its first line. False: it is left out."""

    drop_at_start: bool = True
    """Whether an answer at the very start of the note is left out. CliniRC does, so scores compare only with it."""

    max_answer_words: int = Field(default=19, ge=1)
    """Longer answers are left out; CliniRC drops 20 words and more."""

    paraphrases: Literal["all", "first"] = "all"
    """Each paraphrase is a question of its own; `first` is for a quicker evaluation."""

    seed: int = 55
    """Of the split by note and of the sample."""

    sample_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the questions of each training note that are kept, at least one. Paraphrases make most of them alike;
    CliniRC and the paper train on 0.2 of medication and 0.05 of relations."""

    sample_with_replacement: bool = False
    """CliniRC draws with replacement. That shows a fifth of the same questions twice and brings nothing, so it is off;
    when on, each draw has an id of its own."""


@dataclass(frozen=True)
class _Question:
    id: str
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class _Note:
    id: str
    text: str
    questions: list[_Question]


def read_emrqa(data: str, options: EmrqaOptions, findings: Findings) -> Splits:
    """One example per question; its group is the note. Finds `notes`, `questions`, and in `data.json` `answers`.

    CliniRC's files are taken as they are: of the options, only `subset`, `seed` and those of the sample apply. A
    sampled training file is preferred when its name says `sample_share`.

    Raises:
        DataError: there is neither `data.json` with the subset nor CliniRC's files of it.
    """
    files = list_files(data, (".json", ".zip"))
    release = _named("data.json", files)
    read = _read_release(release, options, findings) if release else _read_prepared(data, files, options, findings)
    return {
        split: [
            Example(question.id, note.text, question.text, answers=question.answers, group=note.id)
            for note in notes
            for question in note.questions
        ]
        for split, notes in read.items()
    }


def _named(name: str, files: Sequence[str]) -> str | None:
    found = [file for file in files if file.removesuffix(".gz").rsplit("/", 1)[-1] == name]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} are two files of one name; give the folder of one of them")
    return found[0] if found else None


def _read_release(file: str, options: EmrqaOptions, findings: Findings) -> dict[str, list[_Note]]:
    notes = list(_prepare(file, options, findings))
    findings.expect(f"notes of {options.subset}", findings.found["notes"], _NUM_NOTES[options.subset], "the release")
    generator = random.Random(options.seed)
    earlier = _SHUFFLED_BEFORE.get(options.subset, 0)
    generator.sample(range(earlier), earlier)
    shuffled = generator.sample(notes, len(notes))
    train, dev = int(_TRAIN_SHARE * len(notes)), int(_DEV_SHARE * len(notes))
    return {
        "train": _sample(shuffled[:train], options),
        "dev": shuffled[train : train + dev],
        "test": shuffled[train + dev :],
    }


def _sample(notes: Sequence[_Note], options: EmrqaOptions) -> list[_Note]:
    if options.sample_share == 1:
        return list(notes)
    generator = random.Random(options.seed)
    return [replace(note, questions=_drawn(note.questions, options, generator)) for note in notes]


def _drawn(questions: list[_Question], options: EmrqaOptions, generator: random.Random) -> list[_Question]:
    number = min(len(questions), max(1, round(options.sample_share * len(questions))))
    if not options.sample_with_replacement:
        return generator.sample(questions, number)
    ids = _DistinctIds()
    return [replace(question, id=ids(question.id)) for question in generator.choices(questions, k=number)]
