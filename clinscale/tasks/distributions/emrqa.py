"""emrQA: questions on clinical notes, generated from the annotations of the i2b2 challenges.

    data.json ──clean, find answers──▶ notes ──split by note──▶ train, dev, test ──sample train──▶ examples

The defaults are the preparation that the paper names, CliniRC's. Where its output already is in the folder instead of
`data.json` (`medication-train.json` and so on), that is read as it is.
"""

import codecs
import random
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import IO, Any, Literal

import ijson  # type: ignore[import-untyped]
from pydantic import Field

from clinscale.config import Config
from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import open_binary
from clinscale.tasks.distributions.distribution import Distribution, Splits
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds.words import are_whole_words
from clinscale.tasks.readers.squad import NO_ANSWER, answers_of, place_of
from clinscale.tasks.task import SPLITS

_NUM_NOTES = {"medication": 261, "relations": 425, "risk-dataset": 119}

_TRAIN_SHARE, _DEV_SHARE = 0.7, 0.1
"""Shares of the notes, rounded down; the other notes are the test set."""

_SHUFFLED_BEFORE = {"relations": _NUM_NOTES["medication"]}
"""CliniRC shuffles the notes of medication and then, by the same generator, those of relations. Heart disease, which it
does not read, has a generator of its own here."""

_STEMS = {"medication": "medication", "relations": "relation", "risk-dataset": "risk-dataset"}
"""Subset -> how the names of CliniRC's files begin."""

_REPEATED_ID = "id that occurs several times"
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Exceptions that JSON of another layout causes."""


class EmrqaOptions(Config):
    """Preparation of notes, questions and answers; the defaults are CliniRC's, except where said."""

    subset: Literal["medication", "relations", "risk-dataset"] = "medication"
    """Title of the subset in `data.json`; `risk-dataset` is heart disease. Smoking and obesity, whose answers do not
    are in the text, cannot be read."""

    clean: Literal["clinirc", "none"] = "clinirc"
    """`clinirc` puts a note on one line, without underscores, HTML entities, double quotes, blanks before punctuation
    and repeated punctuation, because scores so far are of such notes; `none` leaves it as it is, line by line."""

    answer: Literal["auto", "evidence", "entity"] = "auto"
    """The evidence is the line that holds the answer, the entity the annotated words in it. `auto` is the evidence, as
    in the paper's pipeline, but for `risk-dataset` the entity, which an unused branch of CliniRC's code suggests."""

    complex_answers: Literal["skip", "parts"] = "skip"
    """Answers whose parts are right only together: `parts` would accept each part alone, so they are skipped."""

    occurrence: Literal["nearest", "first"] = "nearest"
    """Choice among several equal passages: the one nearest to the annotated line. CliniRC takes the first of the
    note, which is often in another section."""

    shorten: bool = True
    """Whether an answer that is not in the note word for word loses words from its end until it is; evidence from
    lines that do not adjoin becomes its first line so. False: it is left out."""

    drop_at_start: bool = True
    """Whether an answer at the very start of the note is left out. CliniRC does, so the default is comparable."""

    max_answer_words: int = Field(default=19, ge=1)
    """Longer answers are left out; CliniRC drops those of 20 words and more."""

    paraphrases: Literal["all", "first"] = "all"
    """Each paraphrase is a question of its own; `first` asks less, for a quicker evaluation."""

    seed: int = 55
    """Seed of the split by note and of the sample."""

    sample_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the questions of each training note that are kept, at least one. Most are alike, so CliniRC and the
    paper train on 0.2 of medication and 0.05 of relations; the tasks of the catalog say so."""

    sample_with_replacement: bool = False
    """CliniRC draws with replacement, so its sampled files hold ids twice, and fewer questions than they say. True
    draws so, each draw with an id of its own."""


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
    """One example per question; its group is the note. Finds `documents` (notes), `questions`; in data.json `answers`.

    CliniRC's files are taken as they are: of the options, only `subset`, `seed` and those of the sample apply. A
    training file that is already sampled is taken where its name says `sample_share`.

    Raises:
        DataError: there is neither `data.json` with the subset nor CliniRC's files of it.
    """
    files = list_files(data, (".json", ".zip"))
    release = _named("data.json", files)
    splits = _split(release, options, findings) if release else _prepared(data, files, options, findings)
    findings.expect(f"notes of {options.subset}", findings.found["documents"], _NUM_NOTES[options.subset], "emrQA")
    return {
        split: [
            Example(question.id, note.text, question.text, answers=question.answers, group=note.id)
            for note in notes
            for question in note.questions
        ]
        for split, notes in splits.items()
    }


def _named(name: str, files: Sequence[str]) -> str | None:
    found = [file for file in files if file.removesuffix(".gz").rsplit("/", 1)[-1] == name]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]} are two files of one name; give the folder of one of them")
    return found[0] if found else None


def _split(file: str, options: EmrqaOptions, findings: Findings) -> dict[str, list[_Note]]:
    notes = list(_released_notes(file, options, findings))
    generator = random.Random(options.seed)
    earlier = _SHUFFLED_BEFORE.get(options.subset, 0)
    generator.sample(range(earlier), earlier)
    shuffled = generator.sample(notes, len(notes))
    num_train, num_dev = int(_TRAIN_SHARE * len(notes)), int(_DEV_SHARE * len(notes))
    return {
        "train": _sample(shuffled[:num_train], options),
        "dev": shuffled[num_train : num_train + num_dev],
        "test": shuffled[num_train + num_dev :],
    }


def _sample(notes: list[_Note], options: EmrqaOptions) -> list[_Note]:
    if options.sample_share == 1:
        return notes
    generator = random.Random(options.seed)
    return [replace(note, questions=_drawn(note.questions, options, generator)) for note in notes]


def _drawn(questions: list[_Question], options: EmrqaOptions, generator: random.Random) -> list[_Question]:
    number = min(len(questions), max(1, round(options.sample_share * len(questions))))
    if not options.sample_with_replacement:
        return generator.sample(questions, number)
    seen: Counter[str] = Counter()
    return [replace(drawn, id=_distinct(drawn.id, seen)) for drawn in generator.choices(questions, k=number)]


def _distinct(id: str, seen: Counter[str]) -> str:
    """`id`, or `id.2` and so on where it was seen before."""
    seen[id] += 1
    return id if seen[id] == 1 else f"{id}.{seen[id]}"


def _prepared(
    data: str, files: Sequence[str], options: EmrqaOptions, findings: Findings
) -> dict[str, list[_Note]]:
    stem = _STEMS[options.subset]
    sampled = _named(f"{stem}-train-sampled-{options.sample_share:g}.json", files)
    splits = {}
    for split in SPLITS:
        name = f"{stem}-{split}.json"
        file = sampled if sampled and split == "train" else _named(name, files)
        if file is None:
            packed = [file for file in files if file.endswith(".zip")]
            step = f"unpack {packed[0]}" if packed else "give the folder of one or the other"
            raise DataError(f"{data} has neither data.json of emrQA nor CliniRC's {name}; {step}")
        splits[split] = list(_prepared_notes(file, split, findings))
    return splits if sampled else {**splits, "train": _sample(splits["train"], options)}


def _prepared_notes(file: str, split: str, findings: Findings) -> Iterator[_Note]:
    seen: Counter[str] = Counter()
    for number, note in enumerate(_notes(file, None, findings), 1):
        findings.find("documents")
        questions = []
        try:
            context = _text(note["context"])
            for asked in note["qas"]:
                findings.find("questions")
                stated, question = _text(asked["id"]), _text(asked["question"])
                place = place_of(file, stated)
                id = _distinct(stated, seen)
                if id != stated:
                    findings.repair(_REPEATED_ID, place)
                if answers := answers_of(context, asked["answers"], place, findings):
                    questions.append(_Question(id, question, answers))
                else:
                    findings.leave_out(NO_ANSWER)
            yield _Note(f"{split}:{number}", context, questions)
        except (KeyError, TypeError):
            raise DataError(
                f"{file} note {number} must hold context, and qas of id, question and answers, as CliniRC writes "
                "them; prepare the file anew"
            ) from None


def _released_notes(file: str, options: EmrqaOptions, findings: Findings) -> Iterator[_Note]:
    """The notes that are asked about, in the order of the file."""
    seen: Counter[str] = Counter()
    for number, note in enumerate(_notes(file, options.subset, findings), 1):
        findings.find("documents")
        place = f"{file} {options.subset} note {number}"
        try:
            stated, context, asked = str(note["note_id"]), _Context(note["context"], options), note["qas"]
        except _MALFORMED:
            findings.reject("note not as emrQA defines it", place, "take data.json from the portal anew")
            continue
        if not (asked and context.text.strip()):
            findings.leave_out("note without a question or text")
            continue
        id = _distinct(stated, seen)
        if id != stated:
            findings.repair(_REPEATED_ID, place)
        yield _Note(id, context.text, list(_questions(id, asked, context, place, findings)))


def _questions(
    note: str, asked: Sequence[Any], context: "_Context", place: str, findings: Findings
) -> Iterator[_Question]:
    for number, group in enumerate(asked, 1):
        here = f"{place} question {number}"
        try:
            paraphrases = [_text(question) for question in _list(group["question"])]
            del paraphrases[1 if context.options.paraphrases == "first" else len(paraphrases) :]
            stated = [part for answer in group["answers"] for part in context.parts(answer, findings)]
        except _MALFORMED:
            findings.reject("question not as emrQA defines it", here, "take data.json from the portal anew")
            continue
        findings.find("questions", len(paraphrases))
        findings.find("answers", len(group["answers"]))
        found = [context.find(surface, near, here, findings) for surface, near in stated]
        answers = tuple(dict.fromkeys(answer for answer in found if answer))
        if not answers:
            findings.leave_out(NO_ANSWER, len(paraphrases))
            continue
        for variant, question in enumerate(paraphrases, 1):
            if question.strip():
                yield _Question(f"{note}:{number}:{variant}", question, answers)
            else:
                findings.leave_out("question without text")


class _Context:
    """A note as it is asked about; it finds answers, for which it knows about where its lines have gone."""

    def __init__(self, lines: list[str], options: EmrqaOptions) -> None:
        self.options = options
        self._lines = [line if line.endswith("\n") else f"{line}\n" for line in _list(lines)]
        self.text = self._clean("".join(self._lines))
        self._starts_before = list(accumulate(map(len, self._lines), initial=0))
        self._starts = list(accumulate(map(self._length, self._lines), initial=0))

    def parts(self, answer: Mapping[str, Any], findings: Findings) -> list[tuple[str, int]]:
        """The cleaned texts of which an answer consists, and about where each is in this text."""
        by_character = self.options.subset == "risk-dataset"
        entity = self.options.answer == "entity" or (self.options.answer == "auto" and by_character)
        texts = answer["text" if entity else "evidence"]
        firsts, seconds = answer["answer_start"]  # line and token ("" without an entity), or characters of both
        if answer["answer_entity_type"] != "complex":
            texts, firsts, seconds = [texts], [firsts], [seconds]
        elif self.options.complex_answers == "skip":
            findings.leave_out("answer of several parts")
            return []
        if by_character:
            places = [self._at_character(start) for start in (seconds if entity else firsts)]
        else:
            tokens = [token or 0 for token in seconds] if entity else [0] * len(firsts)
            places = [self._at_token(line, token) for line, token in zip(firsts, tokens, strict=True)]
        surfaces = [self._clean(text).strip().rstrip(",.?!- ") for text in texts]
        return list(zip(surfaces, places, strict=True))

    def find(self, surface: str, near: int, place: str, findings: Findings) -> Answer | None:
        """The answer that is near `near`; None where it is left out."""
        if not surface:
            findings.leave_out("answer without text")
            return None
        stated, start = surface, self._occurrence(surface, near)
        while start < 0 and surface and self.options.shorten:
            surface = _LAST_WORD.sub("", surface)
            start = self._occurrence(surface, near)
        if start < 0 or not surface:
            findings.reject("answer not in its note", place, "correct the answer")
            return None
        if start == 0 and self.options.drop_at_start:
            findings.leave_out("answer at the start of its note")
            return None
        answer = Answer(start, surface)
        if len(answer.text.split()) > self.options.max_answer_words:
            findings.leave_out("answer of too many words")
            return None
        if surface != stated:
            findings.repair("answer shortened until found", place)
        return answer

    def _occurrence(self, surface: str, near: int) -> int:
        """Start of `surface`, -1 if there is none; the nearest in whole words, if any is: `5` is no `2015`."""
        if self.options.occurrence == "first":
            return self.text.find(surface)

        def is_inside(start: int) -> bool:
            return not are_whole_words(self.text, start, start + len(surface))

        places = (found.start() for found in re.finditer(re.escape(surface), self.text))
        return min(places, key=lambda place: (is_inside(place), abs(place - near)), default=-1)

    def _at_token(self, line: int, token: int) -> int:
        """Approximate place to which a token of a line has gone; lines count from 1, tokens from 0."""
        line = min(line, len(self._lines)) - 1
        words = re.finditer(r"\S+", self._lines[line])
        column = next((word.start() for word in islice(words, token, None)), 0)
        return self._at_character(self._starts_before[line] + column)

    def _at_character(self, start: int) -> int:
        """Approximate place to which a character of the lines has gone, each line break being one."""
        line = min(bisect(self._starts_before, start), len(self._lines)) - 1
        return self._starts[line] + self._length(self._lines[line][: start - self._starts_before[line]])

    def _length(self, before: str) -> int:
        """Number of characters that cleaning leaves of `before`, when something follows it."""
        return len(self._clean(f"{before}x")) - 1

    def _clean(self, text: str) -> str:
        return text if self.options.clean == "none" else _cleaned(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


_LAST_WORD = re.compile(r"\s*\S+$")

_REPLACED = (
    ("_", " "),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&amp;", "&"),
    ("&quot;", ""),
    ("&nbsp;", " "),
    ("&apos;", "'"),
    ('"', ""),
)
"""Replacements in this order, so that text that was escaped twice comes out as CliniRC has it."""

_BLANK_BEFORE_MARK = re.compile(r" ([?.!',)](?: |$))")
_REPEATED_MARK = re.compile(r"[?.!,]+([?.!,])")


def _cleaned(text: str) -> str:
    text = " ".join(text.split())
    for written, meant in _REPLACED:
        text = text.replace(written, meant)
    text = _REPEATED_MARK.sub(r"\1", _BLANK_BEFORE_MARK.sub(r"\1", text))
    return " ".join(text.split())


def _notes(file: str, title: str | None, findings: Findings) -> Iterator[Any]:
    """Each note of the subset of this title, or of a SQuAD file, parsed alone: the whole would not fit in memory."""
    encoding = _encoding(file, findings)
    entries = None
    if title:  # it may be behind the notes: Python 2 wrote the keys in no order
        titles = list(_parsed(file, encoding, "data.item.title"))
        entries = {number for number, found in enumerate(titles) if found == title}
        if not entries:
            raise DataError(
                f"{file} has no subset with the title {title}; take emrQA's data.json from the n2c2 portal"
            )
    yield from _parsed(file, encoding, "data.item.paragraphs.item", entries)


def _parsed(file: str, encoding: str, prefix: str, entries: set[int] | None = None) -> Iterator[Any]:
    """Values at `prefix`, in the given entries of `data` only."""
    with open_binary(file) as stream:
        source = ijson.from_iter(codecs.iterencode(codecs.iterdecode(_chunks(stream), encoding), "utf-8"))
        try:
            yield from ijson.items(_events_of(entries, source) if entries else source, prefix)
        except ijson.JSONError:  # its message quotes the file
            raise DataError(f"{file} is not valid JSON to its end; is it truncated?") from None


def _events_of(entries: set[int], source: Any) -> Iterator[tuple[str, str, Any]]:
    entry = -1
    for path, event, value in ijson.parse(source):
        entry += (path, event) == ("data.item", "start_map")
        if entry in entries:
            yield path, event, value
        elif entry > max(entries):
            return


def _encoding(file: str, findings: Findings) -> str:
    """UTF-8, or Latin-1 where the file is not valid UTF-8: emrQA's generator wrote it in places."""
    try:
        with open_binary(file) as stream:
            for _ in codecs.iterdecode(_chunks(stream), "utf-8"):
                pass
    except UnicodeDecodeError:
        findings.remark(f"{file} is not valid UTF-8 and was read as Latin-1")
        return "latin-1"
    return "utf-8-sig"


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(1 << 16):
        yield chunk


EMRQA = Distribution(read_emrqa, EmrqaOptions)
